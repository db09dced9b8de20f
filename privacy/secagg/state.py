"""What a member remembers of a run: values that a journal stores, and transitions replace."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from .encoding import MOST_MEMBERS, Digest, Encoded, Names, Point, Size
from .messages import Manifest, Naming, NonceRequest, PrekeyRequest, Run, Share, Slot, Survivors

IDLE, COMMITTED, NONCE, PREKEY, UPLOADED, CONFIRMED, REVEALED = range(7)
MOST_REPEATS = 8
"""At most this many slots may mask one content."""
PHASES = ("idle", "committed", "nonce given", "prekey sent", "uploaded", "confirmed", "revealed")


@dataclass(frozen=True)
class Secrets(Encoded):
    """What only this member knows of a slot."""

    key: Annotated[bytes, Size(32, 32)]
    """X25519 private key."""
    seed: Annotated[bytes, Size(32, 32)]
    """Self seed b."""
    key_share: Share
    """Its own shares of both."""
    seed_share: Share


@dataclass(frozen=True)
class Recorded(Encoded):
    """A reply that was given, to give the same again."""

    request: Digest
    reply: Annotated[bytes, Size(0, 2**24)]


@dataclass(frozen=True)
class Second(Encoded):
    """What a kept content was asked for once more, after its sum, and the last slot of that."""

    asked: Digest
    slot: Slot


@dataclass(frozen=True)
class Kept(Encoded):
    """A content that lies sealed on the disk, and may be masked again (``repeats``)."""

    what: Digest
    """What was asked for: run, round, settings and model."""
    key: Annotated[bytes, Size(32, 32)]
    """Seals the content. It is lost with the journal, and the content with it."""
    slots: Annotated[tuple[Slot, ...], Size(0, MOST_REPEATS)] = ()
    """Every slot in which it was masked."""
    summed: Names = ()
    """The survivors that this member confirmed in the last of them: their sum may be open."""
    naming: Annotated[tuple[Naming, ...], Size(0, 1)] = ()
    """The partition that this member signed for, the only one for this content."""
    named: bool = False
    """Whether the last slot is one of its groups: all of its cohort, or nobody, is summed."""
    second: Annotated[tuple[Second, ...], Size(0, 1)] = ()
    """The second sum of its round, if this member was asked for one (``second``)."""
    weight_cap: int = 0
    """That of the last of its slots."""


@dataclass(frozen=True)
class State(Encoded):
    """Everything that a member remembers of a run. Replies are those of the slot in progress."""

    version: ClassVar[int] = 4
    run: Run
    slot: Annotated[tuple[Slot, ...], Size(0, 1)] = ()
    floor: int = 0
    """A slot number that is known to be used, if the state itself was lost."""
    phase: int = IDLE
    nonce: Annotated[bytes, Size(0, 32)] = b""
    commits: Annotated[tuple[NonceRequest, ...], Size(0, 1)] = ()
    request: Annotated[tuple[PrekeyRequest, ...], Size(0, 1)] = ()
    prekey: Annotated[bytes, Size(0, 32)] = b""
    """Digest of the own prekey's body."""
    secrets: Annotated[tuple[Secrets, ...], Size(0, 1)] = ()
    manifest: Annotated[tuple[Manifest, ...], Size(0, 1)] = ()
    keys: Annotated[tuple[Point, ...], Size(0, MOST_MEMBERS)] = ()
    """Public keys of the neighbours that sent a prekey, ascending by name."""
    vector: Annotated[bytes, Size(0, 32)] = b""
    """Digest of the masked vector that was uploaded."""
    whole: bool = False
    """Whether it is summed with those of all of the slot's cohort, or not at all."""
    survivors: Annotated[tuple[Survivors, ...], Size(0, 1)] = ()
    replies: Annotated[tuple[Recorded, ...], Size(0, 8)] = ()
    before: Annotated[tuple[Recorded, ...], Size(0, 8)] = ()
    """Replies of the slot that was revealed as this one was entered, until the next upload: a server
    that died asks the same again."""
    revealed: Annotated[bytes, Size(0, 32)] = b""
    """Digest of that slot's masked vector."""
    unrevealed: int = 0
    """From this slot number on this member has not revealed anything; 0 if it does not know."""
    unconfirmed: int = 0
    """The same of confirming."""
    kept: Annotated[tuple[Kept, ...], Size(0, 1)] = ()
    """The content of the round in progress, whatever slots it takes."""

    @property
    def number(self) -> int:
        """The highest slot ever entered, as far as is known; 0 before the first."""
        return self.slot[0].number if self.slot else self.floor

    def reply_to(self, request: bytes) -> bytes | None:
        """The reply that an identical request got in the slot in progress, or in the one before."""
        wanted = hashlib.sha256(request).digest()
        known = (*self.replies, *self.before)
        return next((r.reply for r in known if r.request == wanted), None)

    def recorded(self, request: bytes, reply: bytes) -> State:
        """The same state, with a reply to give again."""
        record = Recorded(hashlib.sha256(request).digest(), reply)
        return replace(self, replies=(*self.replies, record))
