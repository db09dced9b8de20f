"""The server's side of a slot: opens the sum of a cohort that ``collecting`` has added up, nothing less."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import combinations, islice

from ...errors import TooFewMembers
from ..noise.scale import Scale
from . import shamir
from .collecting import Collecting
from .counted import Counted
from .fixed_point import Total, decode
from .keys import agree, derive, public_key
from .masks import KEY_BYTES, Mask, add_masks
from .member import pair_key
from .messages import (
    OF_KEY,
    OF_SEED,
    Naming,
    PrekeyReply,
    PrekeyRequest,
    Reveal,
    RevealReply,
    RevealRequest,
    Slot,
)
from .roster import Roster

_MOST_CHOICES = 300


class Aggregator(Collecting):
    """One slot at the server. Call the trips in order; each has a request and takes replies.

    `spoilers` dealt shares that no slot can use.
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
        self._shares: dict[tuple[str, int], dict[int, int]] = {}
        self._revealed: set[str] = set()
        self._liars: set[int] = set()
        self.spoilers: set[str] = set()
        self._complaints: dict[str, int] = {}
        super().__init__(roster, slot, minimum=minimum, threads=threads, naming=naming)

    @property
    def revealers(self) -> list[str]:
        """Who is asked to reveal, ascending: the survivors that confirmed."""
        return sorted(self._confirmations) if self.confirms else self.survivors

    def proof(self) -> bytes:
        """What shows each survivor that its update is in this sum; nothing if nobody confirms."""
        if not self.confirms:
            return b""
        return Counted(self._survivors, self._evidence(self._confirmations)).to_bytes()

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
        self._require(right, "reveal", name, "it revealed for a different set of survivors")
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
        self._require(in_field, "share", name, "a share is not an element of the field")
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

        Raises ``TooFewMembers`` if a secret cannot be reconstructed, with its owners in `spoilers` if
        it is they who dealt it wrongly; and ``ProtocolError`` (rule "sum") if what was opened is
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
                self.faults |= dict.fromkeys(lost, "its shares do not reconstruct its secret")
            raise TooFewMembers(
                "share", lost[0], "the shares that were sent do not reconstruct its secret"
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
        """A member's secret; None if no choice of its shares gives what its prekey stands for."""
        shares, threshold = self._shares.get((owner, kind), {}), self._numbers.shares
        if len(shares) < threshold:
            raise TooFewMembers(
                "threshold",
                owner,
                f"{len(shares)} shares of its secret, but {threshold} are needed",
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

        Nobody is named if another set with one of them fits as well: errors of several liars can
        cancel in the secret, and then honest shares look wrong.
        """
        first, *rest = right
        secret = shamir.combine({point: shares[point] for point in (first, *rest)})

        def fits(points: Iterable[int]) -> bool:
            return shamir.combine({point: shares[point] for point in points}) == secret

        # A right share in place of another right one gives the same secret.
        wrong = {p for p in shares if p not in (first, *rest) and not fits((p, *rest))}
        sets = islice(combinations(shares, len(rest) + 1), _MOST_CHOICES)
        if any(not wrong.isdisjoint(points) and fits(points) for points in sets):
            return
        names = {point: name for name, point in self._points.items()}
        for point in wrong:
            self._liars.add(point)
            self.faults.setdefault(
                names[point],
                f"the share of {owner}'s secret that it sent is wrong: one of the two cheated or failed",
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
