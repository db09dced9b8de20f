"""The operator's folder: keys, certificates, members and rosters of one consortium.

What counts is written last. A new folder is filled under another name and then renamed, so there is
a whole one or none. A roster is the only statement of who is a member, and the request of a member
is on disk before the roster that names it: a crash between the two leaves a request that nobody
looks at, and the same admission done again ends well. A certificate is renewed for the key that is
there, so that replacing one file is all there is to it.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, fields
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field

from ..consortium import Card, Request, consortium_id
from ..documents import Document
from ..durable import new_folder, write_durably
from ..errors import ConsortiumError, ProtocolError
from ..privacy.secagg.keys import Identity
from ..privacy.secagg.roster import Limits, Roster, SignedRoster, open_roster
from ..privacy.signed import DAY
from ..warrants import now_counter

ROSTER_DAYS = 90


class _LimitsFile(Document):
    _what = "file of limits"

    format: Literal["umbel limits 1"] = "umbel limits 1"
    minimum: int
    colluders: float
    clip: float
    longest: int
    confirm: bool
    owners: int = 0
    roster_days: int = Field(default=ROSTER_DAYS, ge=1, le=36_500)
    """How long a roster holds from the day on which it is signed."""


class Consortium:
    """One consortium, from the operator's side. Its folder is the operator's alone.

    Guarantees: rosters only grow in number, each names the one before, and one that was signed never
    changes; no two members share a name (in either case) or a key. Several processes may use the
    folder at once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(
        cls,
        path: Path,
        host: str,
        port: int,
        limits: Limits,
        name: str | None = None,
        *,
        now: datetime | None = None,
        rehearsal: bool = False,
        roster_days: int = ROSTER_DAYS,
    ) -> Consortium:
        """Make keys, a certificate authority, the server's certificate and the card.

        `host` is how owners reach the server. `limits` is what every roster will say. The secrets
        come from the operating system's generator. Certificates are valid from `now`. `rehearsal` marks
        one whose agents' noise is no secret. A roster holds for `roster_days` after it is signed.
        """
        from . import certificates

        now = now or datetime.now(UTC)
        consortium, operator = Identity(os.urandom(64)), Identity(os.urandom(64))
        authority_key, server_key = certificates.new_key(), certificates.new_key()
        title = f"Umbel consortium {consortium_id(consortium.public.signing)}"
        authority = certificates.authority_certificate(title, authority_key, now)
        authority_pem = certificates.certificate_pem(authority)
        values = {
            "name": path.resolve().name if name is None else name,
            "host": host,
            "port": port,
            "ca_certificate": authority_pem.decode(),
            "consortium_key": consortium.public.signing.hex(),
            "operator_key": operator.public.signing.hex(),
            "rehearsal": rehearsal,
        }
        card = Card.build(values, f"consortium {path}")
        server = certificates.server_certificate(
            card.host, server_key, authority, authority_key, now
        )
        with new_folder(path) as folder:
            for part in ("rosters", "members", "runs"):
                (folder / part).mkdir(mode=0o700)
            write_durably(folder / "consortium.key", consortium.to_secret_bytes(), secret=True)
            write_durably(folder / "operator.key", operator.to_secret_bytes(), secret=True)
            write_durably(folder / "ca.key", certificates.key_pem(authority_key), secret=True)
            write_durably(folder / "ca.crt", authority_pem)
            write_durably(folder / "server.key", certificates.key_pem(server_key), secret=True)
            write_durably(folder / "server.crt", certificates.certificate_pem(server))
            _LimitsFile(**asdict(limits), roster_days=roster_days).write(folder / "limits.json")
            card.write(folder / "consortium.json")
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> Consortium:
        """An existing folder; ``ConsortiumError`` where there is no operator's folder."""
        if not (path / "limits.json").is_file():
            raise ConsortiumError(
                f"{path} is no operator's folder (there is no limits.json in it). Make one with: "
                "umbel consortium create FOLDER --host HOST"
            )
        return cls(path)

    @cached_property
    def card(self) -> Card:
        return Card.read(self.path / "consortium.json")

    @cached_property
    def identity(self) -> Identity:
        """The secret that signs rosters."""
        return self._secret("consortium.key", self.card.consortium_key_bytes)

    @cached_property
    def operator(self) -> Identity:
        """The secret that signs jobs."""
        return self._secret("operator.key", self.card.operator_key_bytes)

    @cached_property
    def limits(self) -> Limits:
        """What the next roster will bind every member to."""
        found = self._limits_file.model_dump()
        try:
            return Limits(**{field.name: found[field.name] for field in fields(Limits)})
        except ValueError as error:
            raise ConsortiumError(f"{self.path / 'limits.json'}: {error}") from None

    @cached_property
    def _limits_file(self) -> _LimitsFile:
        return _LimitsFile.read(self.path / "limits.json")

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
    def flower_state(self) -> Path:
        return self.path / "state.db"

    def admit(self, request: Path | Request) -> Request:
        """Make an owner a member: check its request and sign the next roster with it.

        The very same request once more changes nothing. Assumes that the operator compared the
        fingerprint with the owner: a request proves that its keys are held, not by whom.
        """
        if isinstance(request, Path):
            request = Request.read(request)
        request.check(self.card)
        with self._alone():
            members = self.members()
            for member in members:
                if member.name == request.name and member.keys == request.keys:
                    return member
                self._check_apart(member, request)
            request.write(self._request_path(request.name))
            self._sign([*members, request])
        return request

    def remove(self, name: str) -> None:
        """Sign a roster without a member. Its name can be admitted again, also with other keys."""
        with self._alone():
            members = self.members()
            names = [member.name for member in members]
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"Did you mean {near[0]!r}?" if near else f"Members: {', '.join(names)}."
                raise ConsortiumError(
                    f"{name!r} is no member of {self.card.name!r}. "
                    + (hint if names else "It has no members yet.")
                )
            self._sign([member for member in members if member.name != name])
            # Only now: a member of the roster must have its request beside it.
            self._request_path(name).unlink(missing_ok=True)

    def members(self) -> list[Request]:
        """The requests of the newest roster's members, ascending by name."""
        roster = self.current_roster()
        return [self._member(entry.name) for entry in roster.members] if roster else []

    def node_keys(self) -> tuple[dict[bytes, str], dict[str, str]]:
        """The members' names by the keys of their nodes; and by name why a key cannot be read."""
        roster = self.current_roster()
        keys, unreadable = {}, {}
        for entry in roster.members if roster else ():
            try:
                keys[self._member(entry.name).node_key.encode()] = entry.name
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
        data = self.roster()
        if data is None:
            return None
        try:
            return open_roster(data, self.card.consortium_key_bytes)
        except ProtocolError as error:
            path = self._roster_path(self._epochs()[-1])
            raise ConsortiumError(
                f"{path} is damaged ({error}). Restore it from a backup."
            ) from None

    def roster_ends(self) -> int:
        """When the newest roster's lifetime ends, in seconds since 1970; 0 before the first admission."""
        data = self.roster()
        return SignedRoster.from_bytes(data).expires if data else 0

    def prolong(self, days: int | None = None) -> None:
        """Sign the newest roster once more: the same members, from now on for so many days."""
        with self._alone():
            roster = self.current_roster()
            if roster is None:
                raise ConsortiumError("There is no roster yet: admit the first member.")
            self._write_roster(roster, days)

    def next_counter(self) -> int:
        """For the operator's next order: higher than any before, also if folder or clock were set back."""
        path = self.path / "counter"
        known = int(path.read_text()) if path.exists() else 0
        counter = max(known + 1, now_counter())
        write_durably(path, str(counter).encode())
        return counter

    def certificate_days_left(self, now: datetime | None = None) -> int:
        """Whole days until the server's certificate expires; negative once it has."""
        from .certificates import read_certificate

        found = read_certificate(self.server_certificate)
        return (found.not_valid_after_utc - (now or datetime.now(UTC))).days

    def renew_certificate(self, now: datetime | None = None) -> None:
        """A new certificate for the server, by the authority that owners have in their card.

        Owners need nothing new. The server takes it up when it is started again.
        """
        from . import certificates

        key, authority_key = map(certificates.read_key, (self.server_key, self.path / "ca.key"))
        authority = certificates.read_certificate(self.ca_certificate)
        certificate = certificates.server_certificate(
            self.card.host, key, authority, authority_key, now or datetime.now(UTC)
        )
        write_durably(self.server_certificate, certificates.certificate_pem(certificate))

    def _check_apart(self, member: Request, request: Request) -> None:
        name = request.name
        if member.name == name:
            raise ConsortiumError(
                f"{name!r} is a member already, with other keys. If its owner made new keys, remove "
                f"the member first (umbel consortium remove {self.path} {name}); if this is another "
                "owner, it must choose another name."
            )
        if member.name.casefold() == name.casefold():
            raise ConsortiumError(
                f"{name!r} differs from the member {member.name!r} only in case. The owner must "
                "choose another name."
            )
        if member.keys & request.keys:
            raise ConsortiumError(
                f"The request of {name!r} has a key of the member {member.name!r}. Two members "
                "never share one: the owner must make a folder of its own with umbel client init; "
                f"to rename {member.name!r}, remove it first."
            )

    def _sign(self, members: list[Request]) -> None:
        current = self.current_roster()
        entries = tuple(sorted((member.entry for member in members), key=lambda e: e.name))
        epoch, previous = (current.epoch, current.hash) if current else (0, bytes(32))
        self._write_roster(Roster(epoch + 1, entries, self.limits, previous))

    def _write_roster(self, roster: Roster, days: int | None = None) -> None:
        now, before = int(time.time()), self.roster()
        ends = now + (days or self._limits_file.roster_days) * DAY
        known = SignedRoster.from_bytes(before).roster.said.counter if before else 0
        counter = max(known + 1, now_counter())
        signed = SignedRoster.sign(roster, self.identity, counter=counter, issued=now, expires=ends)
        write_durably(self._roster_path(roster.epoch), signed.to_bytes())

    def _member(self, name: str) -> Request:
        path = self._request_path(name)
        try:
            return Request.read(path)
        except ConsortiumError as error:
            raise ConsortiumError(
                f"The request of the member {name!r} is missing or damaged: {error} Restore {path} "
                "from a backup."
            ) from None

    def _request_path(self, name: str) -> Path:
        return self.path / "members" / f"{name}.json"

    def _roster_path(self, epoch: int) -> Path:
        return self.path / "rosters" / f"{epoch:04}"

    def _epochs(self) -> list[int]:
        names = (path.name for path in (self.path / "rosters").iterdir())
        return sorted(int(name) for name in names if name.isdecimal())

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process signs a roster meanwhile: two of one epoch would part the members."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _secret(self, name: str, public: bytes) -> Identity:
        path = self.path / name
        try:
            identity = Identity(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ConsortiumError(
                f"{path} is needed for this and cannot be read: {error}. If it is kept elsewhere, put "
                "it there for as long as this takes."
            ) from None
        if identity.public.signing != public:
            raise ConsortiumError(
                f"{path} is not the key that {self.path / 'consortium.json'} names. Restore both "
                "from one backup."
            )
        return identity
