"""The roster: who belongs to the consortium, under which limits. Signed once, pinned by everyone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Annotated, ClassVar

from ...errors import ProtocolError
from .encoding import MOST_MEMBERS, Digest, Encoded, Name, Names, Point, Size, ascending
from .keys import Identity, PublicIdentity, verify
from .signed import FOREVER, Seal, Signed, Statement, check_time

FLOOR = 3
"""No sum of fewer members is ever opened: in a sum of two, each knows the other's part."""

ROSTER, CUT, DELEGATION = "roster", "cut", "delegation"
"""Purposes of statements."""

STRIDE = 1000
"""Epochs that a consortium reserves for cuts, if its keys are kept apart from its server."""

MOST_CLIP = 1024.0
"""No entry of an update is larger; a usual one is thousands of times smaller."""


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
    owners: int = 0
    """How many of the members must approve the roster after this one, beside the consortium (k of n)."""

    def __post_init__(self) -> None:
        if self.minimum < FLOOR:
            raise ValueError(f"a sum of {self.minimum} members is below the minimum of {FLOOR}")
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
            raise ProtocolError("roster", name, "is not a member of the roster")
        return self.by_name[name]


@dataclass(frozen=True)
class Changes:
    """What a roster says other than the one before it."""

    joins: tuple[Entry, ...]
    rekeyed: tuple[Entry, ...]
    """Members whose keys changed."""
    leaves: tuple[str, ...]
    rules: tuple[str, ...]
    """Changed limits, each with its new and its old value."""

    @classmethod
    def between(cls, before: Roster | None, after: Roster) -> Changes:
        known = before.by_name if before else {}
        other = [entry for entry in after.members if known.get(entry.name) != entry.identity]
        limits = [
            (field.name, getattr(after.limits, field.name), getattr(before.limits, field.name))
            for field in fields(Limits)
            if before
        ]
        return cls(
            tuple(entry for entry in other if entry.name not in known),
            tuple(entry for entry in other if entry.name in known),
            tuple(name for name in known if name not in after.by_name),
            tuple(f"{name} = {now}, was {was}" for name, now, was in limits if now != was),
        )


@dataclass(frozen=True)
class Delegation(Encoded):
    """What a server may do without the keys of its consortium, until its statement ends, for one run alone.

    `delegate` is the server's own public key. It may certify this run, if the operator signed this, and
    take members off the roster, if the consortium did; nothing else.
    """

    consortium: Annotated[str, Size(1, 64)]
    run: Annotated[str, Size(1, 256)]
    delegate: Point


@dataclass(frozen=True)
class Cut(Encoded):
    """Members taken off a roster. No form of it could add one or change a key or a limit."""

    base: Digest
    """Of the roster that the consortium signed."""
    epoch: int
    removed: Names


@dataclass(frozen=True)
class Cutting(Encoded):
    """A cut as its server signed it, and what allows that."""

    cut: Signed
    delegation: Signed


@dataclass(frozen=True)
class Approval(Encoded):
    """What a member signs who agrees to the next roster."""

    roster: Digest


@dataclass(frozen=True)
class SignedRoster(Encoded):
    """A roster under the consortium's signature, and what a server took off it since.

    `approvals` are signatures of members of the roster before on an ``Approval``.
    """

    version: ClassVar[int] = 2
    roster: Signed
    cuts: Annotated[tuple[Cutting, ...], Size(0, 1)] = ()
    approvals: Annotated[tuple[Seal, ...], Size(0, MOST_MEMBERS)] = ()

    @classmethod
    def sign(
        cls,
        roster: Roster,
        consortium: Identity,
        *,
        counter: int = 0,
        issued: int = 0,
        expires: int = FOREVER,
    ) -> SignedRoster:
        return cls(
            Signed.sign(Statement(ROSTER, counter, issued, expires, roster.to_bytes()), consortium)
        )

    def cut(
        self, removed: Iterable[str], epoch: int, delegate: Identity, delegation: Signed, now: int
    ) -> SignedRoster:
        """The same without these members, as a server signs it that has a delegation."""
        names = tuple(sorted({*removed, *self._removed}))
        body = Cut(self.whole.hash, epoch, names).to_bytes()
        statement = Statement(CUT, epoch, now, delegation.said.expires, body)
        cutting = Cutting(Signed.sign(statement, delegate), delegation)
        return replace(self, cuts=(cutting,))

    def approved_by(self, member: Identity) -> SignedRoster:
        """The same, with a member's approval."""
        given = member.sign(Approval(self.whole.hash).to_bytes())
        return self.with_approvals([Seal(member.public.signing, given)])

    def with_approvals(self, seals: Iterable[Seal]) -> SignedRoster:
        """The same, with these as well, in place of others by the same keys."""
        by_key = {seal.key: seal for seal in (*self.approvals, *seals)}
        return replace(self, approvals=tuple(by_key[key] for key in sorted(by_key)))

    def counted(self, current: Roster) -> dict[str, Seal]:
        """By name: approvals of members of the `current` roster. Whatever else came along is nothing."""
        text = Approval(self.whole.hash).to_bytes()
        names = {member.identity.signing: member.name for member in current.members}
        return {
            names[seal.key]: seal
            for seal in self.approvals
            if seal.key in names and verify(seal.key, seal.signature, text)
        }

    def approvers(self, current: Roster) -> list[str]:
        """The members of the `current` roster that approved this one."""
        return sorted(self.counted(current))

    def only_counted(self, current: Roster) -> SignedRoster:
        """The same, with nothing but what counts: others may have added to it on the way."""
        return replace(self, approvals=()).with_approvals(self.counted(current).values())

    @property
    def expires(self) -> int:
        """When it ends. A cut prolongs nothing, and stays as long as the roster that it is made from."""
        return self.roster.said.expires

    @cached_property
    def whole(self) -> Roster:
        """As the consortium signed it, whoever did; a ``ProtocolError`` if it is none."""
        return Roster.from_bytes(self.roster.said.body)

    @property
    def _removed(self) -> Names:
        return Cut.from_bytes(self.cuts[0].cut.said.body).removed if self.cuts else ()

    def check_time(self, now: float) -> None:
        """Refuse (``ProtocolError``) one that is not to be learned now."""
        statements = [self.roster.said, *(cutting.delegation.said for cutting in self.cuts)]
        for said in statements:
            if why := check_time(said, now):
                raise _refused(f"the roster is not valid: {why}")


def open_roster(data: bytes, consortium: bytes, current: Roster | None = None) -> Roster:
    """The roster in `data`, if the consortium's key signed it and it follows the `current` one.

    Guarantee: who has not the consortium's key brings nobody in. A server's delegation takes members
    of the `current` roster off, and does no more. If the current one asks for approvals of its members
    (``Limits.owners``), the next has as many of them.

    Raises ``ProtocolError`` (rule "roster") for another signer, an older epoch, or a roster that
    names another predecessor. Time is looked at by who learns it (``SignedRoster.check_time``).
    """
    signed = SignedRoster.from_bytes(data)
    try:
        signed.roster.opened(ROSTER, consortium)
    except ProtocolError:
        raise _refused("the roster is not signed by the consortium") from None
    whole = signed.whole
    if current is not None and (not signed.cuts or whole.epoch > current.epoch):
        _check_follows(whole, signed, current)
    if not signed.cuts:
        return whole
    roster = _shrunk(whole, signed.cuts[0], consortium)
    if current is None or roster.hash == current.hash or whole.epoch > current.epoch:
        return roster
    if roster.epoch <= current.epoch:
        raise _refused(f"epoch {roster.epoch} is not after {current.epoch}")
    if roster.limits != current.limits or not set(roster.members) <= set(current.members):
        raise _refused("a server without the consortium's key may only remove members")
    return roster


def open_kept(data: bytes, keys: Sequence[bytes]) -> Roster:
    """A roster that was checked when it came, by any of the consortium's keys, former ones as well."""
    for key in keys[1:]:
        if SignedRoster.from_bytes(data).roster.is_by(key):
            return open_roster(data, key)
    return open_roster(data, keys[0])


def next_epoch(epoch: int, *, apart: bool) -> int:
    """Of the roster that a consortium signs next. `apart`: it leaves room for cuts that a server made."""
    return (epoch // STRIDE + 1) * STRIDE if apart else epoch + 1


def _check_follows(roster: Roster, signed: SignedRoster, current: Roster) -> None:
    if roster.hash == current.hash:
        return
    if roster.epoch <= current.epoch:
        raise _refused(f"epoch {roster.epoch} is not after {current.epoch}")
    if roster.epoch == current.epoch + 1 and roster.previous != current.hash:
        raise _refused("the roster does not follow the known one")
    given, needed = len(signed.approvers(current)), approvals_needed(current)
    if given < needed:
        raise _refused(f"{given} of the previous members have approved it, but {needed} are needed")


def approvals_needed(current: Roster | None) -> int:
    """Of the current roster's members, for the next one."""
    return min(current.limits.owners, len(current.members)) if current else 0


def _shrunk(whole: Roster, cutting: Cutting, consortium: bytes) -> Roster:
    """The roster without those that a delegate took off."""
    try:
        said = cutting.delegation.opened(DELEGATION, consortium)
        delegate = Delegation.from_bytes(said.body).delegate
        cut = Cut.from_bytes(cutting.cut.opened(CUT, delegate).body)
    except ProtocolError:
        raise _refused("its cut is not signed by a server that the consortium delegated") from None
    block = next_epoch(whole.epoch, apart=True)
    known = set(whole.by_name)
    if cut.base != whole.hash or not set(cut.removed) <= known or not cut.removed:
        raise _refused("its cut is for another roster")
    if not whole.epoch < cut.epoch < block:
        raise _refused(
            f"its cut has the epoch {cut.epoch}, not one between {whole.epoch} and {block}"
        )
    members = tuple(member for member in whole.members if member.name not in cut.removed)
    return Roster(cut.epoch, members, whole.limits, whole.hash)


def _refused(text: str) -> ProtocolError:
    return ProtocolError("roster", "the server", text)
