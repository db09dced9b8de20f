"""An owner's audit log: what was decided and what changed, never anything of the data.

One line of JSON an event. Each holds the hash of the line before, so that a line that was edited,
inserted or cut out of the middle is found. It answers, years later, who asked what of the data and
who let them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from ..durable import flush_folder
from ..errors import LedgerError

Event = Literal[
    "result kept",
    "result refused",
    "agent started",
    "agent stopped",
    "job accepted",
    "job refused",
    "job waits",
    "job approved",
    "job denied",
    "job finished",
    "budget reserved",
    "model loaded",
    "keys followed",
    "log repaired",
]
Detail = str | int | float | bool | None

_GENESIS = hashlib.sha256(b"umbel audit log").hexdigest()
_LONGEST_TEXT = 1_000
_MOST_DETAILS = 16
# A character may become twelve bytes of ASCII; so a block of this size holds the last line whole.
_BLOCK = 12 * _LONGEST_TEXT * (2 * _MOST_DETAILS + 4)


@dataclass(frozen=True)
class AuditEntry:
    """One line: `time` is UTC in ISO 8601, `job` a job's digest, `hash` SHA-256 over all the rest."""

    time: str
    event: str
    run: str
    job: str
    details: dict[str, Detail]
    previous: str
    hash: str


class AuditLog:
    """Append-only, hash-chained record of an owner's decisions.

    Guarantees: when ``write`` has returned, its line is on disk, whatever happens afterwards (given a
    disk that honours fsync). Processes and threads that write to the same file take turns. Only the
    file's owner can read it. Texts that came from others are cut to 1,000 characters and written in
    ASCII, so that a log can be shown in a terminal.

    Not detected by the file alone: lines cut off at its end, or an older copy put in its place.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, event: Event, *, run: str = "", job: str = "", **details: Detail) -> None:
        """Add a line. A last line that a crash cut off is dropped first, and that is noted.

        run: its name; job: its digest. Raises ``LedgerError`` where the line cannot be written, or where
        the last one was changed.
        """
        if event not in get_args(Event) or len(details) > _MOST_DETAILS:
            raise ValueError(f"{event!r} with {len(details)} details is no event of an audit log")
        with self._open() as file:
            previous = self._repaired(file)
            self._append(file, previous, event, run, job, details)

    def entries(self) -> Iterator[AuditEntry]:
        """All lines, oldest first, each checked against the one before; none where there is no file.

        A last line that was cut off is left out.
        """
        try:
            with self.path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                previous = _GENESIS
                for number, line in enumerate(file, start=1):
                    if not line.endswith(b"\n"):
                        return
                    entry = _parse(line)
                    if entry is None or entry.previous != previous:
                        raise LedgerError(
                            f"The audit log {self.path} was changed: line {number} does not follow from "
                            "the lines before it (edited, or lines before it cut out). Restore the file "
                            "from a backup."
                        )
                    yield entry
                    previous = entry.hash
        except FileNotFoundError:
            return
        except OSError as error:
            raise LedgerError(f"The audit log {self.path} cannot be read ({error}).") from error

    def verify(self) -> int:
        """Check the chain of hashes; the number of lines, or a ``LedgerError`` that names the wrong one."""
        return sum(1 for _ in self.entries())

    def head(self) -> str:
        """Hash of the last line: it commits to the whole log. Kept elsewhere, it shows a cut-off end."""
        last = _GENESIS
        for entry in self.entries():
            last = entry.hash
        return last

    @contextmanager
    def _open(self) -> Iterator[int]:
        """The file's descriptor, while nobody else writes."""
        try:
            is_new = not self.path.exists()
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                if is_new:
                    flush_folder(self.path.parent)
                yield file
            finally:
                os.close(file)
        except OSError as error:
            raise LedgerError(f"The audit log {self.path} cannot be written ({error}).") from error

    def _repaired(self, file: int) -> str:
        """The last whole line's hash, after what follows it was dropped."""
        size = os.fstat(file).st_size
        start = max(0, size - _BLOCK)
        block = os.pread(file, size - start, start)
        whole = block[: block.rfind(b"\n") + 1]
        previous = _GENESIS
        if whole:
            entry = _parse(whole[whole.rfind(b"\n", 0, -1) + 1 :])
            if entry is None:
                raise LedgerError(
                    f"The audit log {self.path} was changed: its last line is not as it was written. "
                    "Restore the file from a backup, or put it away and a new one begins."
                )
            previous = entry.hash
        elif start:
            raise LedgerError(
                f"The audit log {self.path} was changed: its end is no log. Restore the file from a "
                "backup, or put it away and a new one begins."
            )
        lost = len(block) - len(whole)
        if lost:
            os.ftruncate(file, size - lost)
            previous = self._append(file, previous, "log repaired", "", "", {"bytes_dropped": lost})
        return previous

    def _append(
        self, file: int, previous: str, event: Event, run: str, job: str, details: dict[str, Detail]
    ) -> str:
        entry = AuditEntry(
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            event=event,
            run=run[:_LONGEST_TEXT],
            job=job[:_LONGEST_TEXT],
            details={key: _cut(value) for key, value in details.items()},
            previous=previous,
            hash="",
        )
        line = {**asdict(entry), "hash": _digest(entry)}
        content = json.dumps(line).encode("ascii") + b"\n"
        while content:
            content = content[os.write(file, content) :]
        os.fsync(file)
        return line["hash"]


def _cut(value: Detail) -> Detail:
    return value[:_LONGEST_TEXT] if isinstance(value, str) else value


def _digest(entry: AuditEntry) -> str:
    content = asdict(entry)
    del content["hash"]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _parse(line: bytes) -> AuditEntry | None:
    """A line as it was written here; None for any other."""
    try:
        entry = AuditEntry(**json.loads(line))
    except (ValueError, TypeError):
        return None
    return entry if entry.hash == _digest(entry) else None
