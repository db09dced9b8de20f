"""The operator's folder: keys, certificates, members and rosters of one consortium.

What counts is written last. A new folder is filled under another name and then renamed, so there is
a whole one or none. A roster is the only statement of who is a member, and the request of a member
is on disk before the roster that names it, beside the one of before if its keys are replaced: a crash
between the two, or a roster that waits for approval, leaves a request that nobody looks at, and the same
admission done again ends well. A certificate is renewed for the key that is there, so that replacing one
file is all there is to it.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from ..errors import ConsortiumError, ProtocolError
from ..foreign import typed
from ..privacy.secagg.keys import Identity
from ..privacy.secagg.roster import (
    Entry,
    Limits,
    Roster,
    SignedRoster,
    approvals_needed,
    next_epoch,
    open_roster,
)
from ..privacy.secagg.signed import DAY, Signed, check_time
from ..storage.files import new_folder, successor, write_durably
from .card import Card, Request, consortium_id
from .folder import ROSTER_DAYS, Folder, LimitsFile
from .warrants import now_counter


class Consortium(Folder):
    """One consortium, from the operator's side. Its folder is the operator's alone.

    Guarantees: rosters only grow in number, each names the one before, and one that was signed never
    changes; no two members share a name (in either case) or a key. Several processes may use the
    folder at once.
    """

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
        from . import tls

        now = now or datetime.now(UTC)
        consortium, operator = Identity(os.urandom(64)), Identity(os.urandom(64))
        authority_key, server_key = tls.new_key(), tls.new_key()
        title = f"Umbel consortium {consortium_id(consortium.public.signing)}"
        authority = tls.authority_certificate(title, authority_key, now)
        authority_pem = tls.certificate_pem(authority)
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
        server = tls.server_certificate(
            card.host, server_key.public_key(), authority, authority_key, now
        )
        with new_folder(path) as folder:
            for part in ("rosters", "members", "runs"):
                (folder / part).mkdir(mode=0o700)
            write_durably(folder / "consortium.key", consortium.to_secret_bytes(), secret=True)
            write_durably(folder / "operator.key", operator.to_secret_bytes(), secret=True)
            write_durably(folder / "ca.key", tls.key_pem(authority_key), secret=True)
            write_durably(folder / "ca.crt", authority_pem)
            write_durably(folder / "server.key", tls.key_pem(server_key), secret=True)
            write_durably(folder / "server.crt", tls.certificate_pem(server))
            LimitsFile(**asdict(limits), roster_days=roster_days).write(folder / "limits.json")
            card.write(folder / "consortium.json")
        return cls(path)

    def admit(self, request: Path | Request) -> Request:
        """Make an owner a member: check its request and sign the next roster with it.

        The very same request once more changes nothing. One that a member signed with its keys of before
        takes their place. If members have to approve rosters, the next one is ``pending`` until enough did.
        Assumes that the operator compared the fingerprint with the owner: a request proves that its keys are
        held, not by whom.
        """
        if isinstance(request, Path):
            request = Request.read(request)
        request.check(self.card)
        with self._alone():
            members, roster = self.members(), self.current_roster()
            same = [m for m in members if m.name == request.name and m.keys == request.keys]
            if same and roster and request.entry in roster.members:
                self._settle()
                return same[0]
            others = [m for m in members if m not in same and not request.is_of(m)]
            for member in others:
                self._check_apart(member, request)
            self._bring(request)
            self._sign([*(member.entry for member in others), request.entry])
            self._settle()
        return request

    def remove(self, name: str) -> bool:
        """Sign a roster without a member. Its name can be admitted again, also with other keys.

        Who was removed before, is removed: False, and nothing changes.
        """
        with self._alone():
            roster = self.current_roster()
            names = list(roster.by_name) if roster else []
            if (is_member := name in names) and roster is not None and self.holds_keys:
                self._sign([entry for entry in roster.members if entry.name != name])
            elif is_member:
                self._cut(name)
            elif not self.was_member(name):
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"Did you mean {near[0]!r}?" if near else f"Members: {', '.join(names)}."
                raise ConsortiumError(
                    f"{name!r} is not a member of {self.card.name!r}. "
                    + (hint if names else "It has no members yet.")
                )
            self._settle()
        return is_member

    def prolong(self, days: int | None = None) -> None:
        """Sign the newest roster once more: the same members, from now on for so many days.

        By default as many as the consortium says, unless it holds for longer anyway.
        """
        with self._alone():
            roster = self.current_roster()
            if roster is None:
                raise ConsortiumError("There is no roster yet: admit the first member.")
            left = (self.roster_ends() - int(time.time())) // DAY
            self._write_roster(roster, days or max(self.limits_file.roster_days, left))

    def next_counter(self) -> int:
        """For the operator's next order: higher than any before, also if folder or clock were set back."""
        path = self.path / "counter"
        known = int(path.read_text()) if path.exists() else 0
        counter = max(known + 1, now_counter())
        write_durably(path, str(counter).encode())
        return counter

    def renew_certificate(self, now: datetime | None = None) -> None:
        """A new certificate for the server, by the authority that owners have in their card.

        Owners need nothing new. The server takes it up when it is started again.
        """
        from . import tls

        if not self.holds_keys and not (self.path / "ca.key").exists():
            _ = self.operator  # which says where the keys are
        key = tls.key_of(tls.read_certificate(self.server_certificate))
        authority = tls.read_certificate(self.ca_certificate)
        authority_key = tls.key_for(authority, self.path / "ca.key")
        certificate = tls.server_certificate(
            self.card.host, key, authority, authority_key, now or datetime.now(UTC)
        )
        write_durably(self.server_certificate, tls.certificate_pem(certificate))

    def _check_apart(self, member: Request, request: Request) -> None:
        name = request.name
        if member.name == name:
            raise ConsortiumError(
                f"{name!r} is already a member, with other keys. Its owner replaces keys with umbel "
                "client rotate; if they are lost or stolen, remove the member first (umbel "
                f"consortium remove {typed(self.path)} {name}); if this is another "
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
                "never share a key: the owner must make its own folder with umbel client init; "
                f"to rename {member.name!r}, remove it first."
            )

    def _sign(self, members: Iterable[Entry]) -> None:
        current = self.current_roster()
        entries = tuple(sorted(members, key=lambda entry: entry.name))
        epoch, previous = (current.epoch, current.hash) if current else (0, bytes(32))
        following = next_epoch(epoch, apart=self.delegate is not None)
        roster = Roster(following, entries, self.limits, previous)
        if (pending := self.pending) is not None:
            if pending.whole == roster:
                return  # it was asked for before
            raise ConsortiumError(
                f"A roster waits for its members' approval: {self._pending_path}. Take it (umbel take), or "
                "delete that file to give it up."
            )
        self._write_roster(roster, pending=approvals_needed(current) > 0)

    def _bring(self, request: Request) -> None:
        """Put a request beside the one that counts, whose place it takes when a roster names it."""
        path = self._request_path(request.name)
        with contextlib.suppress(ConsortiumError):
            if Request.read(path) == request:
                return
        request.write(successor(path))

    def _settle(self) -> None:
        """Have each member's request under its name, and nobody else's: the roster is on the disk.

        What a pending roster brings waits with it.
        """
        roster = self.current_roster()
        waiting = {entry.name for entry in self.pending.whole.members} if self.pending else set()
        for entry in roster.members if roster else ():
            path = self._request_path(entry.name)
            with contextlib.suppress(ConsortiumError):
                if Request.read(successor(path)).entry == entry:
                    os.replace(successor(path), path)
        kept = (set(roster.by_name) if roster else set()) | waiting
        for path in (self.path / "members").glob("*.json*"):
            if path.name.removesuffix(".next").removesuffix(".json") not in kept:
                path.unlink(missing_ok=True)

    def _cut(self, name: str) -> None:
        """Take a member off the roster with a delegation alone, while one holds."""
        now = int(time.time())
        held = [d for d in self.delegations() if d.is_by(self.card.consortium_key_bytes)]
        held = [d for d in held if not check_time(d.said, now)]
        data = self.roster()
        if not held or data is None:
            raise ConsortiumError(
                f"{self.path} has neither the consortium's key nor a valid delegation. Remove the "
                "member on the machine with the keys, and bring the roster here: umbel "
                "consortium remove, umbel sign roster, umbel take"
            )
        signed = SignedRoster.from_bytes(data)
        cut = signed.cut([name], self.epoch + 1, self.delegate_identity, held[-1], now)
        open_roster(cut.to_bytes(), self.card.consortium_key_bytes, self.current_roster())
        write_durably(self._roster_path(self.epoch + 1), cut.to_bytes())

    def delegations(self) -> list[Signed]:
        """Those that came with runs."""
        found = []
        for path in sorted(self.runs.glob("*/run.json")):
            with contextlib.suppress(OSError, ValueError, KeyError, ProtocolError):
                found.append(Signed.from_hex(json.loads(path.read_bytes())["delegation"]))
        return found

    def take_roster(self, epoch: int, signed: bytes, requests: Sequence[Request]) -> None:
        """Keep a roster that was signed elsewhere and has been checked, and its members' requests."""
        with self._alone():
            for request in requests:
                self._bring(request)
            write_durably(self._roster_path(epoch), signed)
            self._pending_path.unlink(missing_ok=True)
            self._settle()

    def approve(self, given: SignedRoster) -> SignedRoster | None:
        """The pending roster with the approvals of a copy of it, which are kept; None if it is another.

        Only those that count: a copy comes back from one member through others.
        """
        with self._alone():
            pending, current = self.pending, self.current_roster()
            if pending is None or current is None or pending.whole.hash != given.whole.hash:
                return None
            merged = pending.with_approvals(given.counted(current).values())
            write_durably(self._pending_path, merged.to_bytes())
        return merged

    def _write_roster(
        self, roster: Roster, days: int | None = None, *, pending: bool = False
    ) -> None:
        now, before = int(time.time()), self.roster()
        ends = now + (days or self.limits_file.roster_days) * DAY
        known = SignedRoster.from_bytes(before) if before else None
        counter = max(known.roster.said.counter + 1 if known else 0, now_counter())
        signed = SignedRoster.sign(roster, self.identity, counter=counter, issued=now, expires=ends)
        if known and known.whole.hash == roster.hash:
            signed = signed.with_approvals(known.approvals)
        path = self._pending_path if pending else self._roster_path(roster.epoch)
        write_durably(path, signed.to_bytes())

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process signs a roster meanwhile: two of one epoch would part the members."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
