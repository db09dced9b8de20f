"""The roster: who belongs to the consortium, under which limits. Signed once, pinned by everyone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from ...errors import ProtocolError
from .encoding import MOST_MEMBERS, Digest, Encoded, Name, Signature, Size, ascending
from .keys import Identity, PublicIdentity, verify

FLOOR = 3
"""No sum of fewer members is ever opened: of two, each knows the other's part."""


MOST_CLIP = 1024.0
"""No entry of an update is larger; a sane one is thousands of times smaller."""


@dataclass(frozen=True)
class Limits(Encoded):
    """What every member insists on, whatever the server asks."""

    minimum: int = FLOOR
    """Fewest members in a sum (n_min); at least 3."""
    colluders: float = 0.1
    """Share of a cohort that may collude with the server (gamma)."""
    clip: float = MOST_CLIP
    """The most that a job's clip may be: the largest magnitude of an entry of an update."""
    longest: int = 2**33
    """Most words in a vector (L_max)."""
    confirm: bool = True
    """Whether the confirmation trip is required; without it the server must follow the protocol."""

    def __post_init__(self) -> None:
        if self.minimum < FLOOR:
            raise ValueError(f"a sum of {self.minimum} is less than the floor of {FLOOR} members")
        if not 0 <= self.colluders < 1 / 2:
            raise ValueError(f"a share of {self.colluders} colluders is not in [0, 1/2)")
        if not self.clip > 0:
            raise ValueError("the clip must be above 0")


@dataclass(frozen=True)
class Entry(Encoded):
    """One member: its name and public keys."""

    name: Name
    identity: PublicIdentity


@dataclass(frozen=True)
class Roster(Encoded):
    """The members, ascending by name. `previous` is the digest of the roster before (or zeros)."""

    epoch: int
    members: Annotated[tuple[Entry, ...], Size(0, MOST_MEMBERS)]
    limits: Limits
    previous: Digest

    def __post_init__(self) -> None:
        ascending(tuple(entry.name for entry in self.members), "members")
        keys = [k for m in self.members for k in (m.identity.signing, m.identity.agreement)]
        if len(set(keys)) < len(keys):
            raise ValueError("two members have the same key")

    @cached_property
    def by_name(self) -> dict[str, PublicIdentity]:
        return {entry.name: entry.identity for entry in self.members}

    @cached_property
    def hash(self) -> bytes:
        """SHA-256 of the roster: what every message of a slot is bound to."""
        return self.digest()

    def identity(self, name: str) -> PublicIdentity:
        """Public keys of a member; a ``ProtocolError`` for anybody else."""
        if name not in self.by_name:
            raise ProtocolError("roster", name, "is no member of the roster")
        return self.by_name[name]


@dataclass(frozen=True)
class SignedRoster(Encoded):
    """A roster's bytes under the consortium's Ed25519 signature."""

    body: Annotated[bytes, Size(1, 2**24)]
    signature: Signature

    @classmethod
    def sign(cls, roster: Roster, consortium: Identity) -> SignedRoster:
        body = roster.to_bytes()
        return cls(body, consortium.sign(body))


def open_roster(data: bytes, consortium: bytes, current: Roster | None = None) -> Roster:
    """The roster in `data`, if the consortium's key signed it and it follows the `current` one.

    Raises ``ProtocolError`` (rule "roster") for another signer, an older epoch, or a roster that
    names another predecessor.
    """
    signed = SignedRoster.from_bytes(data)
    if not verify(consortium, signed.signature, signed.body):
        raise ProtocolError("roster", "the server", "the roster is not signed by the consortium")
    roster = Roster.from_bytes(signed.body)
    if current is not None and roster.hash != current.hash:
        if roster.epoch <= current.epoch:
            raise ProtocolError(
                "roster", "the server", f"epoch {roster.epoch} is not after {current.epoch}"
            )
        if roster.epoch == current.epoch + 1 and roster.previous != current.hash:
            raise ProtocolError("roster", "the server", "the roster does not follow the one known")
    return roster
