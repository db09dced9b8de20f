"""An owner's audit log: what was decided and what changed, never anything of the data.

One line of JSON an event. Each holds the hash of the line before, so that a line that was edited,
inserted, swapped or cut out is found; the last hash stands in a file of its own, so that a cut end is found
as well. A file that has grown large is put aside and the next one goes on after its last line. It answers,
years later, who asked what of the data and who let them.
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

from ..errors import FileError, LedgerError
from ..storage.canonical import canonical_json
from ..storage.files import flush_folder, write_durably

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
    "keys replaced",
    "roster approved",
    "log repaired",
    "log continued",
]
Detail = str | int | float | bool | None

MOST_BYTES = 4 * 2**20
"""A file that has become larger is put aside, and a new one begun."""
MOST_ARCHIVES = 32
"""At most this many are kept: a server that keeps asking must not fill the disk."""
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
    ASCII, so that a log can be shown in a terminal. Nothing is added to a log whose end was cut off or
    changed.

    Not detected: an older copy of log and witness put in their place together (the ledger's is:
    ``echo``). Archives beyond ``MOST_ARCHIVES`` are dropped, the oldest first; the first line that is left
    then says that others came before it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def witness(self) -> Path:
        """The hash of the last line, in a file of its own."""
        return self.path.with_suffix(".witness")

    @property
    def archives(self) -> list[Path]:
        """The files before the present one, oldest first."""
        return sorted(self.path.parent.glob(f"{self.path.stem}-[0-9]*{self.path.suffix}"))

    def write(self, event: Event, *, run: str = "", job: str = "", **details: Detail) -> None:
        """Add a line. A last line that a crash cut off is dropped first, and that is noted.

        run: its name; job: its digest. Raises ``LedgerError`` if the line cannot be written, or where
        the log's end was changed.
        """
        if event not in get_args(Event) or len(details) > _MOST_DETAILS:
            raise ValueError(
                f"{event!r} with {len(details)} details is not an event of an audit log"
            )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._turn(fcntl.LOCK_EX):
                with self._opened() as file:
                    previous = self._repaired(file)
                    if is_small := os.fstat(file).st_size < MOST_BYTES:
                        self._append(file, previous, event, run, job, details)
                if not is_small:
                    self._put_aside()
                    with self._opened() as file:
                        self._append(file, self._repaired(file), event, run, job, details)
        except (OSError, FileError) as error:
            raise LedgerError(f"The audit log {self.path} cannot be written ({error}).") from error

    def entries(self) -> Iterator[AuditEntry]:
        """All lines, oldest first, each checked against the one before; none if there is no file.

        A last line that was cut off by a crash is left out. Raises ``LedgerError`` if a line was changed,
        or where the end is missing; the latter after all lines were given.
        """
        try:
            with self._turn(fcntl.LOCK_SH):
                yield from self._checked([*self.archives, *filter(Path.exists, [self.path])])
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

    def _checked(self, files: list[Path]) -> Iterator[AuditEntry]:
        wanted, seen = self._witnessed(), False
        previous, first = _GENESIS, True
        for path in files:
            with path.open("rb") as stream:
                for number, line in enumerate(stream, start=1):
                    if path == self.path and not line.endswith(b"\n"):
                        break
                    entry = _parse(line)
                    follows = entry is not None and (
                        entry.previous == previous or (first and entry.event == "log continued")
                    )
                    if entry is None or not follows:
                        raise LedgerError(
                            f"The audit log {path} was changed: line {number} does not follow from "
                            "the lines before it (a line was edited, moved or removed). Restore the file "
                            "from a backup."
                        )
                    yield entry
                    previous, first = entry.hash, False
                    seen = seen or previous == wanted
        if wanted is not None and not seen:
            raise self._cut_off()

    def _witnessed(self) -> str | None:
        try:
            return self.witness.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            return ""

    @contextmanager
    def _turn(self, how: int) -> Iterator[None]:
        """Nobody else writes within the block; a reader of a log that nobody writes needs no right to."""
        lock = self.path.with_suffix(".lock")
        flags = os.O_RDONLY if how == fcntl.LOCK_SH else os.O_RDONLY | os.O_CREAT
        try:
            descriptor = os.open(lock, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            yield
            return
        try:
            fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.open(self.path, flags, 0o600)
        try:
            yield file
        finally:
            os.close(file)

    def _put_aside(self) -> None:
        """Make the file an archive; another one begins after it."""
        archives = self.archives
        number = int(archives[-1].stem.rpartition("-")[2]) + 1 if archives else 1
        os.rename(
            self.path, self.path.with_name(f"{self.path.stem}-{number:06d}{self.path.suffix}")
        )
        flush_folder(self.path.parent)
        for old in archives[: max(0, len(archives) + 1 - MOST_ARCHIVES)]:
            old.unlink(missing_ok=True)

    def _repaired(self, file: int) -> str:
        """Hash of the last whole line, also of an archive; what a crash cut off after it is dropped."""
        whole, lost = _end_of(file)
        previous, last = _GENESIS, whole
        if not whole and os.fstat(file).st_size > lost:
            raise LedgerError(
                f"The audit log {self.path} was changed: its end is not a log entry. {_RESTORE}"
            )
        archives = self.archives
        if not whole and archives:
            last = archives[-1].read_bytes()
        if last:
            entry = _parse(last[last.rfind(b"\n", 0, -1) + 1 :])
            if entry is None:
                raise LedgerError(
                    f"The audit log {self.path} was changed: its last line is not the one that "
                    f"was written. {_RESTORE}"
                )
            previous = entry.hash
            # A crash may have come between a line and its witness.
            if self._witnessed() not in (None, entry.hash, entry.previous):
                raise self._cut_off()
        elif self._witnessed() is not None:
            raise self._cut_off()
        if lost:
            os.ftruncate(file, os.fstat(file).st_size - lost)
        if last and self._witnessed() is None:
            missing: dict[str, Detail] = {"witness": "missing"}
            previous = self._append(file, previous, "log continued", "", "", missing)
        elif not whole and archives:
            before: dict[str, Detail] = {"after": archives[-1].name}
            previous = self._append(file, previous, "log continued", "", "", before)
        if lost:
            previous = self._append(file, previous, "log repaired", "", "", {"bytes_dropped": lost})
        return previous

    def _cut_off(self) -> LedgerError:
        return LedgerError(
            f"The audit log {self.path} was cut off at its end, or replaced by an older copy: it lacks the "
            f"last line that {self.witness.name} has recorded. {_RESTORE}"
        )

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
        is_first = os.fstat(file).st_size == 0
        while content:
            content = content[os.write(file, content) :]
        os.fsync(file)
        if is_first:
            flush_folder(self.path.parent)
        write_durably(self.witness, line["hash"].encode("ascii"), secret=True)
        return line["hash"]


_RESTORE = (
    "Restore log and witness from a backup; or move audit*.jsonl and audit.witness to another folder "
    "(keep them for an audit), and a new log begins."
)


def _end_of(file: int) -> tuple[bytes, int]:
    """What is whole of the last block of a file, and how many bytes come after that."""
    size = os.fstat(file).st_size
    start = max(0, size - _BLOCK)
    block = os.pread(file, size - start, start)
    whole = block[: block.rfind(b"\n") + 1]
    return whole, len(block) - len(whole)


def _cut(value: Detail) -> Detail:
    return value[:_LONGEST_TEXT] if isinstance(value, str) else value


def _digest(entry: AuditEntry) -> str:
    content = asdict(entry)
    del content["hash"]
    text = canonical_json(content)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _parse(line: bytes) -> AuditEntry | None:
    """A line as it was written here; None for any other."""
    try:
        entry = AuditEntry(**json.loads(line))
    except (ValueError, TypeError):
        return None
    return entry if entry.hash == _digest(entry) else None
