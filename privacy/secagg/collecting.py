"""The server's side of a slot until its survivors are fixed: prekeys, masked vectors, confirmations.

It holds one running sum, however many members there are. Every ``add_*`` checks a reply whole before it
changes anything; a ``ProtocolError`` names the peer. The server is trusted with nothing here: it checks
only so that one odd member cannot spoil a sum unnoticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...errors import ProtocolError, TooFewMembers
from .checks import circle_seed
from .fixed_point import Layout
from .keys import agree
from .masks import Words, digest_of, new_words
from .messages import (
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
    Signed,
    Slot,
    Survivors,
    Upload,
    UploadRequest,
)
from .parameters import fewest, fewest_in_a_row, neighbours, thresholds
from .roster import Roster


@dataclass(frozen=True)
class Purpose:
    """What a slot's vectors hold; fixed when the members' prekeys are in."""

    context: bytes
    """32 bytes: hash of the request on which members compute."""
    layout: Layout
    weight_cap: int
    clip: float


class Collecting:
    """One slot at the server, up to the confirmed set of its survivors.

    `minimum` is the fewest members that the job wants in a sum; the roster and the quorum may ask for
    more. `faults` says who broke which rule.
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
        self._require(name in self._commits, "nonce", name, "it committed to no nonce")
        committed = Commit.from_bytes(self._commits[name].body).nonce
        right = (
            nonce.commits == self._nonce_request().digest()
            and hashlib.sha256(nonce.nonce).digest() == committed
        )
        self._require(right, "nonce", name, "its nonce differs from the committed one")
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
        self._require(right, "slot", name, "its prekey is for another slot")
        self._require(
            prekey.sealed == reply.sealed.digest()
            and list(reply.sealed.recipients) == self._near[name],
            "share",
            name,
            "its sealed shares differ from those that it signed for",
        )
        known = {other.key for _, other in self._prekeys.values()}
        self._require(prekey.key not in known, "prekey", name, "another member has the same key")
        agree(bytes(31) + b"\x40", prekey.key, name)  # a point of low order would spoil the slot
        self._new(self._prekeys, name)
        self._prekeys[name] = (reply.prekey, prekey)
        pairs = zip(reply.sealed.recipients, reply.sealed.shares, strict=True)
        self._sealed[name] = dict(pairs)

    def close_prekeys(self, purpose: Purpose) -> None:
        """Fix U1 and the manifest. Raises ``TooFewMembers`` if no sum can come of it."""
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
        those of other groups, if one is to be named.
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
        self._require(fits, "vector", name, f"its vector does not have {self._sum.size} words")
        self._require(
            digest_of(*pieces) == upload.vector, "vector", name, "it signed for a different vector"
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
        """Fix U2. Raises ``TooFewMembers`` if it may not be opened."""
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
