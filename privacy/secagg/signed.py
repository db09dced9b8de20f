"""One envelope for all that is signed ahead: what for, in which order, and for how long it holds.

Orders, rosters, delegations and new keys are *statements* in it. A statement is taken only for the purpose
that it names, so that one is never taken for another; its signer counts its statements upwards, so that an
older one is distinguished from a newer one, no matter who presents it; and it ends.

Guarantee: what ``opened`` returns is, byte for byte, what the holder of that Ed25519 key signed (RFC 8032)
for that purpose. Assumption: the clocks of signer and reader differ by less than ``DRIFT``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated

from ...errors import ProtocolError
from .encoding import Encoded, Point, Signature, Size
from .keys import Identity, verify

DAY = 86_400
"""Seconds."""
FOREVER = 2**62
DRIFT = DAY
"""Seconds by which clocks may differ."""
_MOST_SEALS = 10_001


@dataclass(frozen=True)
class Statement(Encoded):
    """What is said. Times are seconds since 1970 (UTC)."""

    purpose: Annotated[str, Size(1, 64)]
    counter: int
    """A number that the signer counts up: a later statement has a higher one."""
    issued: int
    expires: int
    body: Annotated[bytes, Size(0, 2**24)]


@dataclass(frozen=True)
class Seal(Encoded):
    """One signer's signature on a statement."""

    key: Point
    signature: Signature


@dataclass(frozen=True)
class Signed(Encoded):
    """A statement's bytes, and who signed them."""

    statement: Annotated[bytes, Size(1, 2**24 + 2**10)]
    seals: Annotated[tuple[Seal, ...], Size(1, _MOST_SEALS)]

    @classmethod
    def sign(cls, statement: Statement, *signers: Identity) -> Signed:
        return cls(statement.to_bytes(), ()).sealed_by(*signers)

    @classmethod
    def from_hex(cls, text: str) -> Signed:
        """Inverse of ``to_hex``; ``ValueError`` or ``ProtocolError`` for any other text."""
        return cls.from_bytes(bytes.fromhex(text))

    def to_hex(self) -> str:
        return self.to_bytes().hex()

    def sealed_by(self, *signers: Identity) -> Signed:
        """The same statement, signed by these as well."""
        seals = {seal.key: seal for seal in self.seals}
        for signer in signers:
            key = signer.public.signing
            seals[key] = Seal(key, signer.sign(self.statement))
        return Signed(self.statement, tuple(seals[key] for key in sorted(seals)))

    def only(self, *keys: bytes) -> Signed:
        """The same without what others put to it: the one form in which it is kept, and compared."""
        given = {seal.key: seal for seal in self.seals if seal.key in self._valid(keys, [seal])}
        return Signed(self.statement, tuple(given[key] for key in sorted(given)))

    @cached_property
    def said(self) -> Statement:
        """The statement, whoever signed it; a ``ProtocolError`` if it is none."""
        return Statement.from_bytes(self.statement)

    def is_by(self, key: bytes) -> bool:
        return bool(self.signers([key]))

    def signers(self, keys: Iterable[bytes]) -> set[bytes]:
        """Which of these keys have signed it."""
        return self._valid(keys, self.seals)

    def _valid(self, keys: Iterable[bytes], seals: Iterable[Seal]) -> set[bytes]:
        wanted = set(keys)
        return {
            seal.key
            for seal in seals
            if seal.key in wanted and verify(seal.key, seal.signature, self.statement)
        }

    def opened(self, purpose: str, key: bytes) -> Statement:
        """The statement, if the holder of `key` signed it for this purpose; else ``ProtocolError``."""
        if not self.is_by(key) or self.said.purpose != purpose:
            raise ProtocolError(
                "signature", "the server", f"its {purpose} is not signed by the key"
            )
        return self.said


def check_time(said: Statement, now: float) -> str:
    """Why a statement does not hold now; nothing if it does."""
    if now > said.expires:
        return f"it ended on {day(said.expires)}"
    if said.issued > now + DRIFT:
        return f"it was signed on {day(said.issued)}, which is in the future: compare the clocks"
    return ""


def day(seconds: float) -> str:
    """A date for people; about today, to the minute."""
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
        if abs(seconds - time.time()) < DAY:
            return f"{moment:%Y-%m-%d %H:%M} UTC"
        return moment.date().isoformat()
    except (OverflowError, ValueError, OSError):
        return "a day far away"
