"""The file of a ledger: rows that are only ever added, and never unnoticed changed or taken away.

It is SQLite; each row holds the hash of the one before (``chain``), and each is written down a second
time beside it (``witness``). What the rows mean is the ledger's affair (``ledger``).
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ...errors import FileError, LedgerError
from ..accounting.accountant import MechanismEvent
from .chain import COLUMNS, GENESIS, VERSION, Entry, chained, checked
from .schema import APPLICATION, FROM_VERSION_1, ROW, TABLES
from .witness import Testimony, Witness

# Clocks are corrected by seconds; a clock that is minutes behind was set back.
_CLOCK_TOLERANCE = timedelta(minutes=10)


class LedgerFile:
    """Append-only, hash-chained, witnessed rows.

    Guarantees: processes that hold the same file open take turns. Every method but ``identity``
    raises ``LedgerError`` if a row was edited, inserted or cut out, if the file is an older
    copy than its witness has seen, and if it is another ledger than its witness knows.

    The chain is checked row by row whenever rows are shown (``entries``, ``verify``), and before a
    row is added wherever the file is not, byte for byte, the one that was written last: its SHA-256
    is in the witness. So a charge on a long ledger does not hash every row again, and still none is
    made on an edited one.

    Not detected by these two files alone: both put back together to the same older state, or both
    forged. For that, ``verify`` takes a head that is kept elsewhere (a certificate).

    A row is refused if the clock is more than ten minutes behind the last one, since the record
    would no longer say when data was used.
    """

    def __init__(
        self, path: str | Path, *, patience: float = 60.0, recovering: bool = False
    ) -> None:
        """Open the ledger at `path`, or begin one; wait `patience` seconds for other processes.

        A ledger of version 1 is checked whole and then goes on as version 2. `recovering` begins a
        ledger if its witness has seen one before, for ``recover`` to fill.
        """
        self.path = Path(path)
        self._witness = Witness(self.path)
        with self._explained("opened"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, timeout=patience, isolation_level=None)
        try:
            with self._explained("opened"):
                # EXTRA is FULL, and also syncs the folder after the rollback journal is deleted:
                # a journal that comes back after a power cut would undo the last reservation.
                self._connection.execute("PRAGMA synchronous = EXTRA")
                self._begin_or_recognise(recovering)
        except BaseException:
            self._connection.close()
            raise

    @staticmethod
    def begun(path: Path) -> bool:
        """Whether there is a ledger at `path`, or its witness says that there was one."""
        return path.exists() or Witness(path).path.exists()

    def entries(self) -> list[Entry]:
        """All rows, oldest first, each checked against the one before."""
        with self._view(whole=True):
            return self._read()

    def entries_of(self, run: str) -> list[Entry]:
        """The rows whose key is of `run` (run/round/attempt), oldest first, on a checked ledger."""
        with self._view():
            found = self._connection.execute(
                f"SELECT {ROW}, hash FROM entries WHERE substr(key, 1, ?) = ? ORDER BY number",
                (len(run) + 1, f"{run}/"),
            )
            return [Entry.of(row[:-1], row[-1]) for row in found]

    def verify(self, head: str | None = None) -> int:
        """Check the chain of hashes; return the number of rows, or raise naming the wrong one.

        `head` is a hash that the ledger once ended with, kept elsewhere. ``LedgerError`` if no
        row has it: then this ledger is an older copy, or another one.
        """
        entries = self.entries()
        if head is not None and head not in {GENESIS, *(entry.hash for entry in entries)}:
            raise LedgerError(
                f"The privacy ledger {self.path} ({len(entries)} rows) never ended with {head}. It "
                "is older than this head, or another owner's. Restore the newest copy of ledger and "
                "witness; until then it may report more as left than there is."
            )
        return len(entries)

    def head(self) -> str:
        """Hash of the last row: it commits to the whole ledger."""
        with self._view():
            return self._end()[1]

    @property
    def identity(self) -> str:
        """The ledger's random name, by which a witness knows it, and which its rows are bound to."""
        found = self._connection.execute("SELECT id FROM identity").fetchone()
        return str(found[0]) if found else ""

    def recover(self, *, accept: bool = False) -> int:
        """Bring back the rows that only the witness still has; return how many.

        If the witness is missing or knows another ledger, nothing can be brought back. With
        `accept` the owner then takes the ledger as it is: a row that says so is added (also if
        the clock is behind the last row), and a new witness begun. What was spent and is not in
        this ledger is then forgotten for good.
        """
        with self._turn():
            rows, lost = self._read(), []
            if accept:
                self._append(_note(datetime.now(UTC).isoformat(timespec="seconds")))
            else:
                problem = self._disagreement(self._witness.last())
                if problem and not self._is_behind():
                    raise LedgerError(problem)
                witnessed = checked(self._witness.rows(), self.identity, str(self._witness.path))
                lost = list(witnessed)[len(rows) :]
                for entry in lost:
                    self._insert(entry.row(), entry.hash)
        if accept:
            with self._explained("witnessed"):
                self._witness.begin(self.identity)
        self._witness_rows()
        return len(lost)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _begin_or_recognise(self, recovering: bool) -> None:
        if self._pragma("application_id") != APPLICATION:
            # Two processes may begin the same ledger; the second finds it begun.
            with self._turn():
                tables = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
                if tables[0] == 0:
                    self._become(TABLES, recovering)
                    self._connection.execute(f"PRAGMA application_id = {APPLICATION}")
        if self._pragma("application_id") != APPLICATION:
            raise LedgerError(f"{self.path} is a database, but not a privacy ledger of Umbel.")
        if self._pragma("user_version") == 1:
            self._migrate()
        version = self._pragma("user_version")
        if version != VERSION:
            raise LedgerError(
                f"The privacy ledger {self.path} has version {version}, but this Umbel reads "
                f"version {VERSION}. Use the Umbel that wrote it, or a newer one."
            )

    def _become(self, statements: tuple[str, ...], recovering: bool) -> None:
        """Give the ledger its identity, which its witness holds before it does.

        A crash between the two leaves a witness of no rows, whose identity is then taken.
        """
        seen = self._witness.last()
        if seen is None:
            identity = secrets.token_hex(16)
            self._witness.begin(identity)
        elif seen.number and not recovering:
            raise LedgerError(
                f"The privacy ledger {self.path} is missing, or was replaced by an older one: its "
                f"witness {self._witness.path} has seen {seen.number} rows. Restore them with: "
                "umbel ledger recover"
            )
        else:
            identity = seen.identity
        for statement in statements:
            self._connection.execute(statement)
        self._connection.execute("INSERT INTO identity VALUES (?)", (identity,))
        self._connection.execute(f"PRAGMA user_version = {VERSION}")

    def _migrate(self) -> None:
        """From version 1, whose rows keep their hashes; checked whole before anything is changed."""
        with self._turn():
            if self._pragma("user_version") != 1:
                return
            columns = ", ".join(
                {"kind": "'gaussian'", "version": "1"}.get(name, name) for name in COLUMNS
            )
            for _ in checked(self._rows(columns), "", str(self.path)):
                pass
            self._become(FROM_VERSION_1, recovering=False)
        self._witness_rows()

    def _pragma(self, name: str) -> int:
        return int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])

    def _check(self, seen: Testimony | None = None) -> None:
        """Refuse a ledger that was changed, or that is not what its witness has seen."""
        seen = seen or self._witness.last()
        if problem := self._disagreement(seen):
            raise LedgerError(problem)
        if seen is None or seen.content != self._content():
            self._read()

    def _disagreement(self, seen: Testimony | None) -> str:
        """What is wrong between ledger and witness, and the way out; empty if nothing is."""
        where = f"The privacy ledger {self.path}"
        if seen is None:
            return (
                f"{where} has no witness ({self._witness.path}): it was copied here without it, or "
                "the witness was deleted. Copy both files. If the witness is lost, and you know that "
                "this is the newest copy of this owner's ledger: umbel ledger recover --accept"
            )
        if seen.identity != self.identity:
            return (
                f"{where} is not the ledger of its witness {self._witness.path}: it was copied "
                "from another owner or folder. Put back the ledger that belongs here, or move this "
                "one away and run: umbel ledger recover"
            )
        number, _ = self._end()
        if number < seen.number:
            return (
                f"{where} was rolled back: it has {number} rows, but its witness has seen "
                f"{seen.number}. The missing ones still count. Restore them with: umbel ledger "
                "recover"
            )
        if seen.number and self._hash(seen.number) != seen.hash:
            # An edit is named more exactly by the chain.
            self._read()
            return (
                f"{where} differs from its witness in row {seen.number}: it was continued from an "
                "older copy. Move it to another folder, keep it, and run: umbel ledger recover"
            )
        return ""

    def _is_behind(self) -> bool:
        """Whether the witness has seen this ledger with more rows."""
        seen, (number, head) = self._witness.last(), self._end()
        if seen is None or seen.identity != self.identity or seen.number <= number:
            return False
        return number == 0 or self._witness.rows()[number - 1][-1] == head

    def _content(self) -> str:
        """SHA-256 of the database file as this connection's transaction sees it."""
        return hashlib.sha256(self._connection.serialize()).hexdigest()

    def _witness_rows(self) -> None:
        """Tell the witness of every row that it has not seen; several processes may at once."""
        with self._explained("witnessed", "What was reserved is on disk and counts as spent"):
            seen = self._witness.last()
            self._connection.execute("BEGIN")
            try:
                rows = self._rows(ROW, seen.number if seen else 0).fetchall()
                content = self._content()
            finally:
                self._connection.execute("ROLLBACK")
            self._witness.add(rows, content)

    def _now(self) -> str:
        """The time of a new row; refuses a clock that was set back."""
        now = datetime.now(UTC)
        last = self._connection.execute(
            "SELECT recorded FROM entries ORDER BY number DESC LIMIT 1"
        ).fetchone()
        if last and now < datetime.fromisoformat(last[0]) - _CLOCK_TOLERANCE:
            raise LedgerError(
                f"The clock of this machine says {now.isoformat(timespec='seconds')}, and the last "
                f"row of the privacy ledger {self.path} is from {last[0]}. Set the clock right. "
                "Spending does not depend on it: nothing was lost, and nothing was charged. If the "
                "clock was ahead when that row was written: umbel ledger recover --accept"
            )
        return now.isoformat(timespec="seconds")

    def _append(self, entry: Entry) -> None:
        """Add the entry with the next number and its hash."""
        number, previous = self._end()
        row = replace(entry, number=number + 1).row()
        self._insert(row, chained(previous, self.identity, row))

    def _insert(self, row: tuple[Any, ...], hash_: str) -> None:
        self._connection.execute(
            f"INSERT INTO entries ({ROW}, hash) VALUES ({', '.join('?' * (len(row) + 1))})",
            (*row, hash_),
        )

    def _end(self) -> tuple[int, str]:
        """Number and hash of the last row."""
        found = self._connection.execute(
            "SELECT number, hash FROM entries ORDER BY number DESC LIMIT 1"
        ).fetchone()
        return (int(found[0]), str(found[1])) if found else (0, GENESIS)

    def _hash(self, number: int) -> str:
        found = self._connection.execute("SELECT hash FROM entries WHERE number = ?", (number,))
        row = found.fetchone()
        return str(row[0]) if row else ""

    def _rows(self, columns: str, after: int = 0) -> sqlite3.Cursor:
        return self._connection.execute(
            f"SELECT {columns}, hash FROM entries WHERE number > ? ORDER BY number", (after,)
        )

    def _read(self) -> list[Entry]:
        return list(checked(self._rows(ROW), self.identity, str(self.path)))

    @contextmanager
    def _view(self, whole: bool = False) -> Iterator[None]:
        """One read transaction on a checked ledger; `whole` if the block checks every row."""
        with self._explained("read"):
            # The witness first: it never knows a row that the ledger does not have yet.
            seen = self._witness.last()
            self._connection.execute("BEGIN")
            try:
                if whole:
                    if problem := self._disagreement(seen):
                        raise LedgerError(problem)
                else:
                    self._check(seen)
                yield
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One write transaction: no other process can read-then-write in between."""
        with self._explained("written"):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                # SQLite has rolled back by itself after some errors (a full disk).
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _explained(self, done: str, consequence: str = "") -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, FileError) as error:
            consequence = consequence or "Nothing was spent, because nothing ran on the data"
            raise LedgerError(
                f"The privacy ledger {self.path} cannot be {done} ({error}). {consequence}."
            ) from error


def _note(recorded: str) -> Entry:
    """A row that charges nothing and says that the owner accepted the rows before it."""
    return Entry(
        number=0,
        dataset="",
        event=MechanismEvent(0.0, 0.0, 0),
        job="",
        key="accepted by the owner",
        delta=0.0,
        limit=0.0,
        replay=False,
        recorded=recorded,
        hash="",
    )
