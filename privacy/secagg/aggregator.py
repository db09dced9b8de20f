"""The server's side of a slot: collects, adds up, and opens the sum of a cohort, nothing less.

``Aggregator`` holds one running sum, however many members there are. Every ``add_*`` checks a reply
whole before it changes anything; a ``ProtocolError`` names the peer. The server is trusted with
nothing here: it checks only so that one odd member cannot spoil a sum unnoticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, islice

import numpy as np

from ...errors import ProtocolError, TooFewMembers
from ..noise.scale import Scale
from . import shamir
from .fixed_point import Layout, Total, decode
from .keys import agree, derive, public_key
from .masks import KEY_BYTES, Mask, Words, add_masks, digest_of, new_words
from .member import circle_seed, pair_key
from .messages import (
    OF_KEY,
    OF_SEED,
    Commit,
    CommitRequest,
    Confirmation,
    ConfirmRequest,
    Manifest,
    Naming,
    Nonce,
    NonceRequest,
    Prekey,
    PrekeyReply,
    PrekeyRequest,
    Reveal,
    RevealReply,
    RevealRequest,
    Signed,
    Slot,
    Survivors,
    Upload,
    UploadRequest,
)
from .parameters import fewest, fewest_in_a_row, neighbours, thresholds
from .roster import Roster

_MOST_CHOICES = 300


@dataclass(frozen=True)
class Purpose:
    """What a slot's vectors hold; fixed when the members' prekeys are in."""

    context: bytes
    """32 bytes: hash of the request that members compute on."""
    layout: Layout
    weight_cap: int
    clip: float


class Aggregator:
    """One slot at the server. Call the trips in order; each has a request and takes replies.

    `minimum` is the fewest members that the job wants in a sum; the roster and the quorum may ask
    for more. `faults` says who broke which rule; `spoilers` dealt shares that no slot can use.
    """

    def __init__(
        self,
        roster: Roster,
        slot: Slot,
        *,
        minimum: int = 0,
        threads: int = 1,
        naming: Naming | None = None,
    ) -> None:
        limits = roster.limits
        self.slot = slot
        self.faults: dict[str, str] = {}
        self._naming = (naming,) if naming else ()
        self._roster = roster
        self._threads = threads
        self._numbers = thresholds(
            len(slot.cohort), limits.colluders, limits.confirm, len(roster.members)
        )
        self._fewest = max(fewest(self._numbers, limits), minimum)
        self._points = {name: place for place, name in enumerate(slot.cohort, start=1)}
        self._commits: dict[str, Signed] = {}
        self._nonces: dict[str, Signed] = {}
        self._prekeys: dict[str, tuple[Signed, Prekey]] = {}
        self._sealed: dict[str, dict[str, bytes]] = {}
        self._uploads: dict[str, Signed] = {}
        self._confirmations: dict[str, Signed] = {}
        self._shares: dict[tuple[str, int], dict[int, int]] = {}
        self._revealed: set[str] = set()
        self._liars: set[int] = set()
        self.spoilers: set[str] = set()
        self._complaints: dict[str, int] = {}
        self._prekeys_closed = self._uploads_closed = False
        if self._fewest > len(slot.cohort):
            raise TooFewMembers(
                "threshold",
                "the cohort",
                f"{len(slot.cohort)} members; at least {self._fewest} are needed",
            )

    @property
    def needs_nonces(self) -> bool:
        """Whether this cohort is so large that its members order a circle first."""
        return self._numbers.circle

    def commit_request(self) -> bytes:
        return CommitRequest(self.slot).to_bytes()

    def add_commit(self, name: str, reply: bytes) -> None:
        signed = Signed.from_bytes(reply, name)
        commit = signed.open(Commit, self._roster, name)
        self._expect(name)
        self._require(commit.slot == self.slot.digest(), "slot", name, "its commitment's slot")
        self._new(self._commits, name)
        self._commits[name] = signed

    @property
    def committed(self) -> list[str]:
        """Who committed to a nonce, ascending."""
        return sorted(self._commits)

    @property
    def shown(self) -> list[str]:
        """Who showed its nonce, ascending."""
        return sorted(self._nonces)

    def nonce_request(self) -> bytes:
        return self._nonce_request().to_bytes()

    def add_nonce(self, name: str, reply: bytes) -> None:
        signed = Signed.from_bytes(reply, name)
        nonce = signed.open(Nonce, self._roster, name)
        self._require(name in self._commits, "nonce", name, "it committed to none")
        committed = Commit.from_bytes(self._commits[name].body).nonce
        right = (
            nonce.commits == self._nonce_request().digest()
            and hashlib.sha256(nonce.nonce).digest() == committed
        )
        self._require(right, "nonce", name, "its nonce is not the committed one")
        self._new(self._nonces, name)
        self._nonces[name] = signed

    @cached_property
    def prekey_request(self) -> PrekeyRequest:
        """Opens the slot at the members; the same for all, so that it can ride on a reveal."""
        if self.needs_nonces:
            self._all_of(self._nonces, "nonce")
        return PrekeyRequest(self.slot, self._evidence(self._nonces), self._naming)

    def add_prekey(self, name: str, reply: PrekeyReply) -> None:
        prekey = reply.prekey.open(Prekey, self._roster, name)
        self._expect(name, still=not self._prekeys_closed)
        right = prekey.slot == self.slot.digest() and prekey.request == self._opening
        right = right and prekey.naming == self._naming
        self._require(right, "slot", name, "its prekey is of another slot")
        self._require(
            prekey.sealed == reply.sealed.digest()
            and list(reply.sealed.recipients) == self._near[name],
            "share",
            name,
            "its sealed shares are not those that it signed for",
        )
        known = {other.key for _, other in self._prekeys.values()}
        self._require(prekey.key not in known, "prekey", name, "another member has its key")
        agree(bytes(31) + b"\x40", prekey.key, name)  # a point of low order would spoil the slot
        self._new(self._prekeys, name)
        self._prekeys[name] = (reply.prekey, prekey)
        pairs = zip(reply.sealed.recipients, reply.sealed.shares, strict=True)
        self._sealed[name] = dict(pairs)

    def close_prekeys(self, purpose: Purpose) -> None:
        """Fix U1 and the manifest. Raises ``TooFewMembers`` where no sum can come of it."""
        self._enough(self._prekeys, "sent a prekey")
        names = tuple(sorted(self._prekeys))
        self._manifest = Manifest(
            slot=self.slot,
            request=self._opening,
            context=purpose.context,
            layout=purpose.layout,
            weight_cap=purpose.weight_cap,
            clip=purpose.clip,
            confirm=self._roster.limits.confirm,
            members=names,
            prekeys=tuple(hashlib.sha256(self._prekeys[n][0].body).digest() for n in names),
        )
        self._hash = self._manifest.digest()
        self._prekeys_closed = True
        self._sum: Words = new_words(purpose.layout.length)
        self._sum.fill(0)

    @property
    def members(self) -> list[str]:
        """U1, ascending."""
        return sorted(self._prekeys)

    @property
    def prekeys(self) -> tuple[Signed, ...]:
        """Everybody's signed prekey, ascending by name."""
        return tuple(self._prekeys[name][0] for name in self.members)

    def upload_request(
        self, name: str, repeat: bool = False, others: Sequence[Signed] = ()
    ) -> bytes:
        """The manifest, and the prekeys of this member's neighbours.

        For a `repeat` also everybody else's, which state what became of the slots before; `others` are
        those of other groups, where one is to be named.
        """
        near = set(self._near[name])
        far = [n for n in self.members if repeat and n != name and n not in near]
        return UploadRequest(
            self._manifest,
            tuple(self._prekeys[n][0] for n in self.members if n in near),
            (*(self._prekeys[n][0] for n in far), *others),
        ).to_bytes()

    def add_upload(self, name: str, reply: bytes, *pieces: Words) -> None:
        """Add a masked vector, uint32[layout.length] in one piece or several, to the running sum."""
        signed = Signed.from_bytes(reply, name)
        upload = signed.open(Upload, self._roster, name)
        self._expect(name, still=not self._uploads_closed)
        self._require(name in self._prekeys, "upload", name, "it sent no prekey")
        self._require(upload.manifest == self._hash, "manifest", name, "it has another manifest")
        flat = all(piece.dtype == np.dtype("<u4") and piece.ndim == 1 for piece in pieces)
        fits = flat and sum(piece.size for piece in pieces) == self._sum.size
        self._require(fits, "vector", name, f"its vector is not {self._sum.size} words")
        self._require(
            digest_of(*pieces) == upload.vector, "vector", name, "it signed for another vector"
        )
        self._new(self._uploads, name)
        self._uploads[name] = signed
        at = 0
        for piece in pieces:
            part = self._sum[at : at + piece.size]
            np.add(part, piece, out=part)
            at += piece.size

    @property
    def may_close(self) -> bool:
        """Whether enough uploaded for a sum."""
        return len(self._uploads) >= self._fewest

    def close_uploads(self) -> None:
        """Fix U2. Raises ``TooFewMembers`` where it may not be opened."""
        self._enough(self._uploads, "uploaded")
        if self.needs_nonces:
            in_a_row = fewest_in_a_row(
                self.slot.cohort, self._uploads, self._numbers.degree, self._seed
            )
            if in_a_row < self._numbers.stretch:
                raise TooFewMembers(
                    "survivors",
                    "the cohort",
                    f"only {in_a_row} of {self._numbers.degree // 2} members in a row uploaded; "
                    f"{self._numbers.stretch} are needed",
                )
        self._survivors = Survivors(self._hash, tuple(self.survivors))
        self._uploads_closed = True

    @property
    def survivors(self) -> list[str]:
        """U2, ascending."""
        return sorted(self._uploads)

    @property
    def confirms(self) -> bool:
        """Whether the confirmation trip takes place."""
        return self._roster.limits.confirm

    def confirm_request(self) -> bytes:
        return ConfirmRequest(self._hash, self._evidence(self._uploads)).to_bytes()

    def add_confirmation(self, name: str, reply: bytes) -> None:
        signed = Signed.from_bytes(reply, name)
        confirmation = signed.open(Confirmation, self._roster, name)
        right = (
            confirmation.manifest == self._hash
            and confirmation.survivors == self._survivors.digest()
            and name in self._uploads
        )
        self._require(right, "confirm", name, "it confirmed another set")
        self._new(self._confirmations, name)
        self._confirmations[name] = signed

    @property
    def may_reveal(self) -> bool:
        """Whether enough confirmed."""
        return len(self._confirmations) >= self._numbers.quorum

    def close_confirmations(self) -> None:
        count, quorum = len(self._confirmations), self._numbers.quorum
        if count < quorum:
            raise TooFewMembers(
                "threshold", "the cohort", f"{count} confirmed; {quorum} are needed"
            )

    @property
    def revealers(self) -> list[str]:
        """Who is asked to reveal, ascending: the survivors that confirmed."""
        return sorted(self._confirmations) if self.confirms else self.survivors

    def reveal_request(self, name: str, following: PrekeyRequest | None = None) -> bytes:
        """What a survivor needs to reveal its shares; `following` opens the next slot at once."""
        senders = [other for other in self._near[name] if other in self._prekeys]
        signed = self._confirmations if self.confirms else self._uploads
        return RevealRequest(
            survivors=self._survivors,
            evidence=self._evidence(signed),
            senders=tuple(senders),
            sealed=tuple(self._sealed[other][name] for other in senders),
            following=(following,) if following else (),
        ).to_bytes()

    def add_reveal(self, name: str, reply: bytes) -> PrekeyReply | None:
        """Take a survivor's shares; gives the prekey for the following slot that came with them."""
        answer = RevealReply.from_bytes(reply, name)
        reveal = answer.reveal.open(Reveal, self._roster, name)
        right = (
            reveal.manifest == self._hash
            and reveal.survivors == self._survivors.digest()
            and name in self._uploads
        )
        self._require(right, "reveal", name, "it revealed for another set")
        expected = {
            other: OF_SEED if other in self._uploads else OF_KEY
            for other in [name, *self._near[name]]
            if other in self._prekeys
        }
        kinds = {share.owner: share.kind for share in reveal.shares}
        unreadable = dict.fromkeys(reveal.unreadable, 0)
        complete = {**kinds, **{n: expected.get(n, 0) for n in unreadable}} == expected
        disjoint = not kinds.keys() & unreadable.keys()
        self._require(complete and disjoint, "share", name, "not one share of each neighbour")
        values = {share.owner: int.from_bytes(share.share, "big") for share in reveal.shares}
        in_field = all(value < shamir.P for value in values.values())
        self._require(in_field, "share", name, "a share is no element of the field")
        self._new(self._revealed, name)
        self._revealed.add(name)
        for dealer in reveal.unreadable:
            self.faults.setdefault(dealer, f"{name} could not read the share that it sealed")
            self._complaints[dealer] = self._complaints.get(dealer, 0) + 1
            if self._complaints[dealer] > self._numbers.colluders:  # an honest one among them
                self.spoilers.add(dealer)
        for owner, value in values.items():
            self._shares.setdefault((owner, kinds[owner]), {})[self._points[name]] = value
        return answer.following[0] if answer.following else None

    @property
    def may_open(self) -> bool:
        """Whether there are shares enough of every secret that the sum needs."""
        needed = self._numbers.shares
        return all(len(self._shares.get(key, ())) >= needed for key in self._wanted())

    def open(self) -> Total:
        """Unmask the sum and read it. Members that sent wrong shares are in `faults`.

        Raises ``TooFewMembers`` where a secret cannot be had back, with its owners in `spoilers` if
        it is they who dealt it wrongly; and ``ProtocolError`` (rule "sum") where what was opened is
        no sum.
        """
        wanted = self._wanted()
        secrets = {key: self._reconstruct(*key) for key in wanted}
        lost = sorted({owner for (owner, _), secret in secrets.items() if secret is None})
        if lost:
            # Wrong shares of everybody's secret come from those who sent them; with no share to
            # spare, nobody can tell whether dealer or sender is at fault.
            others_are_right = len(lost) < len({owner for owner, _ in wanted}) and not self._liars
            if others_are_right and all(self._has_spare(key) for key in wanted):
                self.spoilers |= set(lost)
                self.faults |= dict.fromkeys(lost, "its shares do not give back its secret")
            raise TooFewMembers(
                "share", lost[0], "the shares that were sent do not give back its secret"
            )
        masks = list(self._unmasking({k: s for k, s in secrets.items() if s is not None}))
        add_masks(self._sum, masks, self._threads)
        manifest = self._manifest
        scale = Scale(len(self.slot.cohort), manifest.clip)
        return decode(self._sum, manifest.layout, scale, manifest.weight_cap, len(self._uploads))

    def _wanted(self) -> list[tuple[str, int]]:
        """Whose secret of which kind is to be reconstructed."""
        gone = [
            name
            for name in self.members
            if name not in self._uploads and any(n in self._uploads for n in self._near[name])
        ]
        return [(n, OF_SEED) for n in self.survivors] + [(n, OF_KEY) for n in gone]

    def _reconstruct(self, owner: str, kind: int) -> bytes | None:
        """A member's secret; None where no choice of its shares gives what its prekey stands for."""
        shares, threshold = self._shares.get((owner, kind), {}), self._numbers.shares
        if len(shares) < threshold:
            raise TooFewMembers(
                "threshold", owner, f"{len(shares)} shares of its secret; {threshold} are needed"
            )
        honest_first = sorted(shares, key=lambda point: point in self._liars)
        for attempt, points in enumerate(self._choices(honest_first, shares, threshold)):
            chosen = {point: shares[point] for point in points}
            secret = shamir.combine(chosen)
            if self._fits(owner, kind, secret):
                if attempt > 0:
                    self._find_liars(owner, points, shares)
                return secret.to_bytes(32, "big")
        return None

    def _choices(
        self, points: list[int], shares: dict[int, int], threshold: int
    ) -> Iterator[tuple[int, ...]]:
        """Sets of shares to try: the likeliest, then without those that decoding finds wrong, then all.

        What fits is known from the prekey, so even one share beyond the threshold finds a liar.
        """
        yield tuple(points[:threshold])
        found = shamir.decode(shares, threshold)
        if found is not None:
            yield tuple(point for point in points if point not in found[1])[:threshold]
        yield from islice(combinations(points, threshold), _MOST_CHOICES)

    def _has_spare(self, key: tuple[str, int]) -> bool:
        return len(self._shares.get(key, ())) > self._numbers.shares

    def _find_liars(self, owner: str, right: Iterable[int], shares: dict[int, int]) -> None:
        """Name the senders of shares that do not belong with the `right` ones.

        Nobody is named where another set with one of them fits as well: errors of several liars can
        cancel in the secret, and then honest shares look wrong.
        """
        first, *rest = right
        secret = shamir.combine({point: shares[point] for point in (first, *rest)})

        def fits(points: Iterable[int]) -> bool:
            return shamir.combine({point: shares[point] for point in points}) == secret

        # A right share in the place of another right one gives the same secret.
        wrong = {p for p in shares if p not in (first, *rest) and not fits((p, *rest))}
        sets = islice(combinations(shares, len(rest) + 1), _MOST_CHOICES)
        if any(not wrong.isdisjoint(points) and fits(points) for points in sets):
            return
        names = {point: name for name, point in self._points.items()}
        for point in wrong:
            self._liars.add(point)
            self.faults.setdefault(
                names[point],
                f"the share of {owner}'s secret that it sent is wrong: its fault, or {owner}'s",
            )

    def _fits(self, owner: str, kind: int, secret: int) -> bool:
        """Whether a secret is the one that its owner's prekey stands for."""
        prekey = self._prekeys[owner][1]
        data = secret.to_bytes(32, "big")
        if kind == OF_SEED:
            return hashlib.sha256(data).digest() == prekey.seed
        return public_key(data) == prekey.key

    def _unmasking(self, secrets: dict[tuple[str, int], bytes]) -> Iterable[Mask]:
        """The masks that are left in the sum, with the opposite sign."""
        for (owner, kind), secret in secrets.items():
            if kind == OF_SEED:
                yield derive(secret, KEY_BYTES, "self", self._hash), -1
                continue
            for other in self._near[owner]:
                if other in self._uploads:
                    shared = agree(secret, self._prekeys[other][1].key, other)
                    sign = -1 if other < owner else 1
                    yield pair_key(shared, self._hash, owner, other), sign

    def _evidence(self, signed: dict[str, Signed]) -> tuple[Signed, ...]:
        return tuple(signed[name] for name in sorted(signed))

    @cached_property
    def _opening(self) -> bytes:
        return self.prekey_request.digest()

    @cached_property
    def _seed(self) -> bytes:
        return circle_seed(self.prekey_request, self._numbers)

    @cached_property
    def _near(self) -> dict[str, list[str]]:
        return neighbours(self.slot.cohort, self._numbers.degree, self._seed)

    def _nonce_request(self) -> NonceRequest:
        self._all_of(self._commits, "commitment")
        return NonceRequest(self.slot.digest(), self._evidence(self._commits))

    def _all_of(self, found: dict[str, Signed], what: str) -> None:
        missing = sorted(set(self.slot.cohort) - set(found))
        if missing:
            raise TooFewMembers(
                "nonce", missing[0], f"no {what}, so the circle of this slot has no order"
            )

    def _enough(self, found: Iterable[str], did: str) -> None:
        count = len(set(found))
        if count < self._fewest:
            raise TooFewMembers(
                "threshold", "the cohort", f"{count} {did}; at least {self._fewest} are needed"
            )

    def _expect(self, name: str, still: bool = True) -> None:
        self._require(name in self._points, "cohort", name, "it is not in the cohort")
        self._require(still, "late", name, "this trip is closed")

    def _new(self, known: Container[str], name: str) -> None:
        if name in known:
            raise ProtocolError("replay", name, "it answered this trip before")

    def _require(self, holds: bool, rule: str, peer: str, text: str) -> None:
        if not holds:
            raise ProtocolError(rule, peer, text)
