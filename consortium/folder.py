"""A consortium's folder as everybody at the operator reads it: card, limits, members, rosters.

The operator's own holds the keys as well; a server's may lack them (``split``).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from pydantic import Field

from ..errors import ConsortiumError, ProtocolError
from ..privacy.secagg.keys import Identity
from ..privacy.secagg.roster import Entry, Limits, Roster, SignedRoster, open_kept
from ..storage.cache import cache_root
from ..storage.documents import Document
from ..storage.files import successor
from .card import Card, Request

ROSTER_DAYS = 90


class LimitsFile(Document):
    _what = "file of limits"

    format: Literal["umbel limits 1"] = "umbel limits 1"
    minimum: int
    colluders: float
    clip: float
    longest: int
    confirm: bool
    owners: int = 0
    roster_days: int = Field(default=ROSTER_DAYS, ge=1, le=36_500)
    """How long a roster is valid from the day of its signature."""


class Folder:
    """What stands in it, and where."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_card: tuple[tuple[int, int, int], Card] | None = None

    @classmethod
    def open(cls, path: Path) -> Self:
        """An existing folder; ``ConsortiumError`` if there is no operator's folder."""
        if not (path / "limits.json").is_file():
            raise ConsortiumError(
                f"{path} is not an operator's folder (there is no limits.json in it). Make one with: "
                "umbel consortium create FOLDER --host HOST"
            )
        return cls(path)

    @property
    def card(self) -> Card:
        """The newest: another process may have replaced a key since, and this one may run for months."""
        path = self.path / "consortium.json"
        with contextlib.suppress(OSError):
            found = path.stat()
            stamp = found.st_mtime_ns, found.st_ino, found.st_size
            if self._read_card is None or self._read_card[0] != stamp:
                self._read_card = stamp, Card.read(path)
                for secret in ("identity", "operator"):
                    self.__dict__.pop(secret, None)
            return self._read_card[1]
        return Card.read(path)  # which says what is wrong

    @cached_property
    def identity(self) -> Identity:
        """The secret that signs rosters."""
        return self._secret("consortium.key", self.card.consortium_key_bytes)

    @cached_property
    def operator(self) -> Identity:
        """The secret that signs jobs."""
        return self._secret("operator.key", self.card.operator_key_bytes)

    @property
    def holds_keys(self) -> bool:
        """Whether the operator's key is here, or may be put here."""
        return (self.path / "operator.key").exists() or not (self.path / "delegate.key").exists()

    @property
    def is_keys_alone(self) -> bool:
        """Whether the keys here sign for a server that has a folder of its own."""
        return self.delegate is not None and not (self.path / "delegate.key").exists()

    def check_serves(self) -> None:
        """Refuse (``ConsortiumError``) what belongs into the server's folder, if that is another one."""
        if self.is_keys_alone:
            raise ConsortiumError(
                f"{self.path} is the folder with the keys, but its server has another folder. Sign here "
                "(umbel sign job, roster or certificate), and take the file there (umbel take)."
            )

    @property
    def delegate(self) -> bytes | None:
        """The public key of a server whose folder lacks the consortium's keys; None if there is none."""
        path = self.path / "delegate.pub"
        try:
            return bytes.fromhex(path.read_text()) if path.exists() else None
        except ValueError as error:
            raise ConsortiumError(
                f"{path} is damaged ({error}). Restore it from a backup."
            ) from None

    @cached_property
    def delegate_identity(self) -> Identity:
        """The server's own secret: worth something only together with a delegation for a run."""
        delegate = self.delegate
        if delegate is None:
            raise ConsortiumError(
                f"{self.path} has neither the consortium's keys nor a server's keys. Restore it "
                "from a backup."
            )
        return self._secret("delegate.key", delegate)

    @cached_property
    def limits(self) -> Limits:
        """What the next roster will bind every member to."""
        found = self.limits_file.model_dump()
        try:
            return Limits(**{field.name: found[field.name] for field in fields(Limits)})
        except ValueError as error:
            raise ConsortiumError(f"{self.path / 'limits.json'}: {error}") from None

    @cached_property
    def limits_file(self) -> LimitsFile:
        return LimitsFile.read(self.path / "limits.json")

    @property
    def ca_certificate(self) -> Path:
        return self.path / "ca.crt"

    @property
    def server_certificate(self) -> Path:
        return self.path / "server.crt"

    @property
    def server_key(self) -> Path:
        return self.path / "server.key"

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    @property
    def database(self) -> Path:
        return self.path / "umbel.db"

    @property
    def cache(self) -> Path:
        """Where the coordinator keeps what it computed of public records and models."""
        return cache_root(self.path)

    @property
    def flower_state(self) -> Path:
        return self.path / "state.db"

    def members(self) -> list[Request]:
        """The requests of the newest roster's members, ascending by name."""
        roster = self.current_roster()
        return [self.request_of(entry) for entry in roster.members] if roster else []

    def node_keys(self) -> tuple[dict[bytes, str], dict[str, str]]:
        """The members' names by the keys of their nodes; and by name why a key cannot be read."""
        roster = self.current_roster()
        keys, unreadable = {}, {}
        for entry in roster.members if roster else ():
            try:
                keys[self.request_of(entry).node_key.encode()] = entry.name
            except ConsortiumError as error:
                unreadable[entry.name] = str(error)
        return keys, unreadable

    @property
    def epoch(self) -> int:
        """Of the newest roster; 0 before the first admission."""
        return max(self._epochs(), default=0)

    def roster(self) -> bytes | None:
        """The newest ``SignedRoster``; None before the first admission."""
        epochs = self._epochs()
        return self.roster_of(epochs[-1]) if epochs else None

    def roster_of(self, epoch: int) -> bytes:
        """The ``SignedRoster`` of an epoch, counted from 1."""
        path = self._roster_path(epoch)
        try:
            return path.read_bytes()
        except OSError as error:
            raise ConsortiumError(f"There is no roster {path}: {error.strerror}.") from None

    def current_roster(self) -> Roster | None:
        """The newest roster, its signature checked."""
        epochs = self._epochs()
        return self._opened(epochs[-1]) if epochs else None

    def was_member(self, name: str) -> bool:
        """Whether any roster names it, whoever it was."""
        return any(name in roster.by_name for roster in self._all_rosters())

    def admitted_with(self) -> dict[str, str]:
        """By member: the signing key, in hexadecimal, with which it was admitted, also if replaced since.

        Anyone who was removed and came back with other keys is somebody else by this.
        """
        found: dict[str, str] = {}
        for roster in self._all_rosters():
            here = {entry.name: entry.identity.signing.hex() for entry in roster.members}
            found = {name: found.get(name, key) for name, key in here.items()}
        return found

    @property
    def pending(self) -> SignedRoster | None:
        """A roster that waits until enough members have approved it."""
        path = self._pending_path
        try:
            return SignedRoster.from_bytes(path.read_bytes())
        except FileNotFoundError:
            return None
        except ProtocolError as error:
            raise ConsortiumError(
                f"{path} is damaged ({error}). Delete it: you will be asked for the change again."
            ) from None

    def roster_ends(self) -> int:
        """When the newest roster's lifetime ends, in seconds since 1970; 0 before the first admission."""
        data = self.roster()
        return SignedRoster.from_bytes(data).expires if data else 0

    @property
    def roster_is_by_todays_key(self) -> bool:
        """Whether owners that know the newest keys learn the newest roster; so they do if there is none."""
        data = self.roster()
        key = self.card.consortium_key_bytes
        return data is None or SignedRoster.from_bytes(data).roster.is_by(key)

    def certificate_days_left(self, now: datetime | None = None) -> int:
        """Whole days until the server's certificate expires; negative once it has."""
        from .tls import read_certificate

        found = read_certificate(self.server_certificate)
        return (found.not_valid_after_utc - (now or datetime.now(UTC))).days

    def request_of(self, entry: Entry) -> Request:
        """With which a member of a roster asked to be admitted.

        Guarantee: it is the one that the roster means, with these keys. As long as a member's new keys
        are in no roster that counts, both of its requests are here.
        """
        path, reason = self._request_path(entry.name), "its keys differ from the roster."
        for file in (path, successor(path)):
            if file is not path and not file.exists():
                continue
            try:
                found = Request.read(file)
            except ConsortiumError as error:
                reason = str(error)
                continue
            if found.entry == entry:
                return found
        raise ConsortiumError(
            f"The request of the member {entry.name!r} is missing or damaged: {reason} Restore {path} "
            "from a backup."
        )

    def _request_path(self, name: str) -> Path:
        return self.path / "members" / f"{name}.json"

    @property
    def _pending_path(self) -> Path:
        return self.path / "rosters" / "pending"

    def _all_rosters(self) -> Iterator[Roster]:
        """Oldest first. An old one that is damaged decides about nothing else."""
        for epoch in self._epochs():
            with contextlib.suppress(ConsortiumError):
                yield self._opened(epoch)

    def _opened(self, epoch: int) -> Roster:
        try:
            return open_kept(self.roster_of(epoch), self.card.consortium_keys)
        except ProtocolError as error:
            raise ConsortiumError(
                f"{self._roster_path(epoch)} is damaged ({error}). Restore it from a backup."
            ) from None

    def _roster_path(self, epoch: int) -> Path:
        return self.path / "rosters" / f"{epoch:04}"

    def _epochs(self) -> list[int]:
        names = (path.name for path in (self.path / "rosters").iterdir())
        return sorted(int(name) for name in names if name.isdecimal())

    def _secret(self, name: str, public: bytes) -> Identity:
        path = self.path / name
        following = successor(path)
        if following.exists() and Identity(following.read_bytes()).public.signing == public:
            os.replace(following, path)  # a rotation was cut off before its last step
        try:
            identity = Identity(path.read_bytes())
        except (OSError, ValueError) as error:
            if not self.holds_keys and not path.exists():
                raise ConsortiumError(
                    f"{self.path} is a server's folder, without the consortium's keys. Do this on the "
                    "machine with the keys (umbel consortium, umbel sign), and take the file that "
                    "it writes here (umbel take)."
                ) from None
            raise ConsortiumError(
                f"{path} is needed for this, but cannot be read: {error}. If the key is kept elsewhere, "
                "copy it to this place for the time of this command."
            ) from None
        if identity.public.signing != public:
            raise ConsortiumError(
                f"{path} is not the key that {self.path / 'consortium.json'} names. Restore both "
                "from one backup."
            )
        return identity
