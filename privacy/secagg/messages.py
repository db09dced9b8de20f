"""What travels in a slot of secure aggregation, trip by trip.

=========  ====================================  =================================================
trip       the server sends                      a member answers
=========  ====================================  =================================================
nonce      ``CommitRequest``                     ``Signed`` ``Commit`` (only above 100 members)
nonce      ``NonceRequest``                      ``Signed`` ``Nonce`` (only above 100 members)
prekey     ``PrekeyRequest``                     ``PrekeyReply``: ``Signed`` ``Prekey``, sealed shares
upload     ``UploadRequest``: ``Manifest``       ``Signed`` ``Upload``, and the masked vector
confirm    ``ConfirmRequest``                    ``Signed`` ``Confirmation``
reveal     ``RevealRequest``                     ``RevealReply``: ``Signed`` ``Reveal``, next prekey
=========  ====================================  =================================================

A signature is over the very bytes that are parsed, tag included, so a signed prekey can never be
taken for a signed confirmation. Every body names its run, slot or manifest, and its sender.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, TypeVar

from ...errors import ProtocolError
from .encoding import (
    MOST_MEMBERS,
    Digest,
    Encoded,
    Name,
    Names,
    Point,
    Signature,
    Size,
    ascending,
)
from .fixed_point import Layout
from .keys import Identity, verify
from .roster import Roster

Run = Annotated[str, Size(1, 256)]
"""Name of a run, as long as an order's may be (``warrants.JobOrder``)."""
Sealed = Annotated[bytes, Size(112, 112)]
"""The dealer's X25519 key for sealing, and two shares of 32 bytes under AES-256-GCM."""
Share = Annotated[bytes, Size(32, 32)]

OF_SEED, OF_KEY = 1, 2
"""Kinds of a share: of a member's self seed b, or of its X25519 private key."""

Body = TypeVar("Body", bound="SentBy")


@dataclass(frozen=True)
class Signed(Encoded):
    """A body's bytes and its sender's Ed25519 signature over them."""

    body: Annotated[bytes, Size(1, 2**24)]
    signature: Signature

    @classmethod
    def by(cls, identity: Identity, body: Encoded) -> Signed:
        data = body.to_bytes()
        return cls(data, identity.sign(data))

    def open(self, kind: type[Body], roster: Roster, expected: str | None = None) -> Body:
        """The body, if the member that it names signed it (and is the `expected` one)."""
        body = kind.from_bytes(self.body, expected or "a member")
        if expected is not None and body.sender != expected:
            raise ProtocolError("sender", expected, f"sent a message from {body.sender}")
        if not verify(roster.identity(body.sender).signing, self.signature, self.body):
            raise ProtocolError(
                "signature", body.sender, f"its {kind.__name__} is not signed by its roster key"
            )
        return body


@dataclass(frozen=True)
class SentBy(Encoded):
    """Base of the bodies that a member signs."""

    sender: Name


@dataclass(frozen=True)
class Slot(Encoded):
    """One attempt at one sum: a run's slots are numbered upwards and never used twice."""

    run: Run
    number: int
    roster: Digest
    cohort: Names

    def __post_init__(self) -> None:
        ascending(self.cohort, "the cohort's names")
        if not 1 <= self.number < 2**53:
            raise ValueError(f"{self.number} is not the number of a slot")


SignedList = Annotated[tuple[Signed, ...], Size(0, MOST_MEMBERS)]


@dataclass(frozen=True)
class CommitRequest(Encoded):
    """Asks for a commitment to a nonce, before anybody's is known."""

    slot: Slot


@dataclass(frozen=True)
class Commit(SentBy):
    slot: Digest
    nonce: Digest
    """SHA-256 of the nonce."""


@dataclass(frozen=True)
class NonceRequest(Encoded):
    """All commitments; asks for the nonce itself."""

    slot: Digest
    commits: SignedList


@dataclass(frozen=True)
class Nonce(SentBy):
    commits: Digest
    """Digest of the ``NonceRequest`` that it answers."""
    nonce: Digest


@dataclass(frozen=True)
class Naming(Encoded):
    """A sum that was opened and is to be opened once more in groups, to name one (``repeats``)."""

    slot: Digest
    """Of the sum."""
    groups: Digest
    """Digest of the partition into groups (``repeats.digest_of_groups``)."""


@dataclass(frozen=True)
class PrekeyRequest(Encoded):
    """Opens a slot. `nonces`, one of each member of a large cohort, order the circle."""

    version: ClassVar[int] = 2
    slot: Slot
    nonces: SignedList
    naming: Annotated[tuple[Naming, ...], Size(0, 1)] = ()


@dataclass(frozen=True)
class Prekey(SentBy):
    """A member's keys for one slot, and what it states of those before."""

    version: ClassVar[int] = 2
    slot: Digest
    request: Digest
    """Digest of the ``PrekeyRequest``: cohort and circle."""
    key: Point
    """X25519."""
    seed: Digest
    """SHA-256 of the self seed b."""
    sealed: Digest
    """Digest of the sealed shares."""
    unrevealed: int
    """A statement: in slots of this run from this number up to the present one, which it has left
    for good, the member revealed nothing. The present slot's own number states nothing."""
    unconfirmed: int
    """The same of confirming."""
    naming: Annotated[tuple[Naming, ...], Size(0, 1)] = ()
    """The one partition that its member takes part in, if this slot is one of its groups."""


@dataclass(frozen=True)
class SealedShares(Encoded):
    """A member's shares of its two secrets, sealed for its neighbours, ascending by name."""

    recipients: Names
    shares: Annotated[tuple[Sealed, ...], Size(0, MOST_MEMBERS)]

    def __post_init__(self) -> None:
        ascending(self.recipients, "the recipients' names")
        if len(self.recipients) != len(self.shares):
            raise ValueError("there is not one share for each recipient")


@dataclass(frozen=True)
class PrekeyReply(Encoded):
    prekey: Signed
    sealed: SealedShares


@dataclass(frozen=True)
class Manifest(Encoded):
    """What a sum is of. Its hash is in every mask, so who has another one masks into garbage."""

    slot: Slot
    request: Digest
    """Digest of the slot's ``PrekeyRequest``."""
    context: Digest
    """What the members compute on: job, round, model and settings; each member hashes its own."""
    layout: Layout
    weight_cap: int
    clip: float
    confirm: bool
    """Whether survivors are confirmed before anything is revealed."""
    members: Names
    """U1: who sent a prekey."""
    prekeys: Annotated[tuple[Digest, ...], Size(0, MOST_MEMBERS)]
    """SHA-256 of each one's signed prekey body."""

    def __post_init__(self) -> None:
        ascending(self.members, "the members' names")
        if len(self.members) != len(self.prekeys):
            raise ValueError("there is not one prekey for each member")
        if not set(self.members) <= set(self.slot.cohort):
            raise ValueError("a member is not in the cohort")


@dataclass(frozen=True)
class UploadRequest(Encoded):
    """The manifest, and the signed prekeys of the recipient's neighbours.

    `others` are further prekeys for what they state, of which only repeats have need (``repeats``): of
    those on the circle that are no neighbours, or of the other groups.
    """

    version: ClassVar[int] = 2
    manifest: Manifest
    prekeys: SignedList
    others: SignedList = ()


@dataclass(frozen=True)
class Upload(SentBy):
    """Stands for a masked vector by its digest (``masks.digest_of``)."""

    manifest: Digest
    vector: Digest


@dataclass(frozen=True)
class ConfirmRequest(Encoded):
    """U2: the signed uploads that arrived."""

    manifest: Digest
    uploads: SignedList


@dataclass(frozen=True)
class Confirmation(SentBy):
    manifest: Digest
    survivors: Digest
    """Digest of the names of U2."""


@dataclass(frozen=True)
class Survivors(Encoded):
    """U2, as it is hashed."""

    manifest: Digest
    names: Names

    def __post_init__(self) -> None:
        ascending(self.names, "the survivors' names")


@dataclass(frozen=True)
class RevealRequest(Encoded):
    """Asks for one share of each neighbour's secrets, and for the next slot's prekey.

    `evidence` is a quorum of signed confirmations, or in two-trip mode the signed uploads.
    `senders` and `sealed` are what the recipient's neighbours sealed for it.
    """

    survivors: Survivors
    evidence: SignedList
    senders: Names
    sealed: Annotated[tuple[Sealed, ...], Size(0, MOST_MEMBERS)]
    following: Annotated[tuple[PrekeyRequest, ...], Size(0, 1)]

    def __post_init__(self) -> None:
        ascending(self.senders, "the senders' names")
        if len(self.senders) != len(self.sealed):
            raise ValueError("there is not one sealed share for each sender")


@dataclass(frozen=True)
class RevealedShare(Encoded):
    """One share of one secret of `owner`; `kind` is ``OF_SEED`` or ``OF_KEY``."""

    owner: Name
    kind: int
    share: Share

    def __post_init__(self) -> None:
        if self.kind not in (OF_SEED, OF_KEY):
            raise ValueError(f"{self.kind} is not a kind of share")


@dataclass(frozen=True)
class Reveal(SentBy):
    """Exactly one share a member; `unreadable` names dealers whose sealed shares do not open."""

    manifest: Digest
    survivors: Digest
    shares: Annotated[tuple[RevealedShare, ...], Size(0, MOST_MEMBERS)]
    unreadable: Names

    def __post_init__(self) -> None:
        ascending(tuple(share.owner for share in self.shares), "the shares' owners")
        ascending(self.unreadable, "the names of unreadable shares")


@dataclass(frozen=True)
class RevealReply(Encoded):
    reveal: Signed
    following: Annotated[tuple[PrekeyReply, ...], Size(0, 1)]
