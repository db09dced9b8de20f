"""A round's trained, noised update: on the owner's disk until the round is closed, so that it is sent
again for nothing.

Training again would draw new noise and cost privacy again. What was trained once is a release once,
however often the same bytes leave, as long as nothing else comes of it: in the clear it is the
same update, and in secure sums ``privacy.secagg.repeats`` says where it may be masked again.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import FileError, PlanRefused, ProtocolError
from ..job import Job
from ..privacy.secagg.participant import Participant
from ..storage.files import write_durably
from ..wire.arrays import Arrays
from ..wire.requests import Assignment
from .run_files import delete_old, of_run
from .sealing import opened, sealed
from .secure import SecureUpload

_OLD_SECONDS = 7 * 24 * 3600.0
"""Files of a run that no longer asks are deleted after this time."""

Groups = Sequence[Sequence[str]]

_log = logging.getLogger(__name__)


class KeptUpdates:
    """One owner's folder of sealed updates, at most one per run.

    Guarantee: what ``keep`` returned is read back whole or not at all, also after a power cut, and by
    nobody without its key. A key comes from the operating system and seals one update. Of encrypted
    jobs it is in the journal of secure aggregation alone, with whose loss the update is lost too; of
    others in `keys`, which belongs where no backup reaches (default: beside the updates).
    """

    def __init__(self, folder: Path, keys: Path | None = None) -> None:
        self._folder, self._keys = folder, keys or folder

    def keep(self, run: str, what: bytes, update: Arrays) -> bytes:
        """Write an update through to the disk, in place of the run's last; the key that opens it.

        Raises ``FileError`` if it cannot be written.
        """
        self._tidy()
        key = os.urandom(32)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(self._file(run), sealed(key, what, update), secret=True)
        return key

    def read(
        self, run: str, what: bytes, key: bytes, shapes: Mapping[str, tuple[int, ...]]
    ) -> Arrays | None:
        """The update that was kept for `what`; None if it is not there, whole and under this key."""
        return opened(self._file(run), key, what, shapes)

    def close(self, run: str) -> None:
        """Delete what is kept of a run."""
        for path in (self._file(run), self._key_file(run)):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def remember(self, run: str, what: bytes, key: bytes) -> None:
        """Put a key where a job without encryption finds it again."""
        self._keys.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(self._key_file(run), what + key, secret=True)

    def recall(self, run: str, what: bytes) -> bytes | None:
        """The key that was remembered for `what`."""
        try:
            found = self._key_file(run).read_bytes()
        except OSError:
            return None
        return found[32:] if found[:32] == what and len(found) == 64 else None

    def _tidy(self) -> None:
        """Delete what runs left behind that nobody closed."""
        folders = {self._folder, self._keys}
        delete_old((path for place in folders for path in place.glob("*.update*")), _OLD_SECONDS)

    def _file(self, run: str) -> Path:
        return of_run(self._folder, run, ".update")

    def _key_file(self, run: str) -> Path:
        return of_run(self._keys, run, ".update-key")


@dataclass(frozen=True)
class KeptRound:
    """What an owner has kept of one round of a run, or will. `what` is ``requests.update_digest``."""

    store: KeptUpdates
    run: str
    what: bytes
    participant: Participant | None
    """The masking member; None in a job without encryption."""

    def find(
        self, request: bytes, shapes: Mapping[str, tuple[int, ...]], groups: Groups = ()
    ) -> Arrays | None:
        """The update, if it was trained before and may be sent in answer to this `request` to upload.

        What was kept of another round is let go of: its round is closed. `groups`: the sum with it was
        refused, and one of these is to be named; where it may not, ``ProtocolError``.
        """
        key = self._key(request, groups)
        if key is None:
            return None
        update = self.store.read(self.run, self.what, key, shapes)
        if update is not None:
            _log.info("run %s: an update that was trained before is sent again", self.run)
        return update

    def waiting(self, shapes: Mapping[str, tuple[int, ...]]) -> Arrays | None:
        """The update, if it was trained before: for a sum that has not asked for it yet, or a second one."""
        if self.participant is None:
            key = self.store.recall(self.run, self.what)
        else:
            key = self.participant.kept(self.what)
        return None if key is None else self.store.read(self.run, self.what, key, shapes)

    def keep(self, update: Arrays) -> bytes:
        """Keep a new update, before it leaves; `what`, or nothing if the disk would not take it."""
        try:
            key = self.store.keep(self.run, self.what, update)
            if self.participant is None:
                self.store.remember(self.run, self.what, key)
            else:
                self.participant.keep(self.what, key)
        except FileError as error:
            _log.error("the update could not be kept, so a repetition would be charged: %s", error)
            if self.participant is not None:
                self.participant.close()
            return b""
        return self.what

    def _key(self, request: bytes, groups: Groups) -> bytes | None:
        if groups and self.participant is not None:
            self.participant.check_repeat(request, self.what, groups)
            return self.participant.kept(self.what)
        if self.participant is None:
            return self.store.recall(self.run, self.what)
        if self.participant.close(self.what):
            self.store.close(self.run)
        key = self.participant.kept(self.what)
        if key is None:
            return None
        try:
            self.participant.check_repeat(request, self.what)
        except ProtocolError as error:
            if error.rule != "repeat":
                raise
            _log.warning("run %s: trained again, and charged: %s", self.run, error)
            return None
        return key


def close_round(store: KeptUpdates, run: str, participant: Participant | None, but: bytes) -> None:
    """Let go of the update that is kept of a run: its training is over. Not of the test of `but`."""
    if participant is not None:
        participant.close(but)
    store.close(run)


def told_once(upload: SecureUpload, what: bytes, kept: KeptRound | None) -> tuple[bytes, bool]:
    """Refuse (``ProtocolError``) exact counts of a model in a second slot, but by the rule of repeats.

    They have no noise: of two sums that differ in one member the difference is that member's counts.
    Gives what the journal knows them by, and whether it knows them already. It knows one content at a time,
    so the ledger remembers that they were told (``Budget.note_exact``).
    """
    again = upload.participant.kept(what) is not None
    if again:
        upload.participant.check_repeat(upload.request, what)
    return (what if kept is None else b""), again


def note_told(upload: SecureUpload, what: bytes) -> None:
    """Have the journal know exact counts by `what`, once the ledger has permitted them."""
    upload.participant.keep(what, os.urandom(32))


def groups_to_name(
    name: str, job: Job, assignment: Assignment, *, train: bool, test: bool
) -> list[list[str]]:
    """The groups of which one spoiled a sum, to be told by a kept update; none if none is asked for."""
    groups = assignment.groups_to_name
    if groups and not (job.encryption.name_spoilers and job.noised_locally and train):
        raise PlanRefused(f"{name}: this job does not name groups")
    if groups and test:
        raise PlanRefused(f"{name}: a request to name a group may ask for updates only")
    return groups
