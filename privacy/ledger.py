"""An owner's ledger of privacy: what was spent on each data set, over all jobs and servers.

Before an agent touches data it reserves the noisy steps here. What a data set has spent is the
composition of all its rows (``accounting.epsilon``), so a job cannot be cut into cheap pieces.
The file is SQLite; rows are only ever added, and each one holds the hash of the one before.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..errors import BudgetExceeded, LedgerError
from .accounting import MechanismEvent, epsilon

SCHEMA = 1
_APPLICATION = 0x554D424C  # "UMBL": tells a ledger from any other SQLite file
_GENESIS = hashlib.sha256(b"umbel privacy ledger").hexdigest()
_COLUMNS = (
    "number, dataset, noise_multiplier, sampling_rate, steps, job, key, delta, epsilon_limit, "
    "replay, recorded, hash"
)
_TABLE = """CREATE TABLE entries (
    number INTEGER PRIMARY KEY,
    dataset TEXT NOT NULL,
    noise_multiplier REAL NOT NULL,
    sampling_rate REAL NOT NULL,
    steps INTEGER NOT NULL,
    job TEXT NOT NULL,
    key TEXT NOT NULL,
    delta REAL NOT NULL,
    epsilon_limit REAL NOT NULL,
    replay INTEGER NOT NULL,
    recorded TEXT NOT NULL,
    hash TEXT NOT NULL
)"""


@dataclass(frozen=True)
class Entry:
    """One row: `event` was reserved for `dataset` by request `key` of `job`.

    `delta` and `limit` are those of the decision, `recorded` is UTC in ISO 8601, `hash` is SHA-256
    over all of it and the hash of the row before.
    """

    number: int
    dataset: str
    event: MechanismEvent
    job: str
    key: str
    delta: float
    limit: float
    replay: bool
    recorded: str
    hash: str


class Ledger:
    """Append-only, hash-chained record of every reserved mechanism event.

    Guarantees: when ``reserve`` has returned, its row is on disk, whatever happens to the process
    or the machine afterwards (given a disk that honours fsync). Processes that hold the same file
    open take turns, so none can spend what another has just spent. A row that was edited, inserted
    or cut out of the middle makes every method raise ``LedgerError``.

    Not detected by the file alone: rows cut off at its end, or an older copy put in its place. For
    that, ``head`` is kept elsewhere too (the coordinator, the certificate).
    """

    def __init__(self, path: str | Path, *, patience: float = 60.0) -> None:
        """Open the ledger at `path`, or begin one; wait `patience` seconds for other processes."""
        self.path = Path(path)
        with self._explained("opened"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, timeout=patience, isolation_level=None)
        try:
            with self._explained("opened"):
                # EXTRA is FULL, and also syncs the folder after the rollback journal is deleted:
                # a journal that comes back after a power cut would undo the last reservation.
                self._connection.execute("PRAGMA synchronous = EXTRA")
                self._begin_or_recognise()
        except BaseException:
            self._connection.close()
            raise

    def reserve(
        self,
        dataset: str,
        event: MechanismEvent,
        *,
        job: str,
        key: str,
        delta: float,
        limit: float,
        replay: bool = False,
    ) -> float:
        """Charge `event` to the data set and return its epsilon afterwards, at `delta`.

        dataset: fingerprint of the content. key: names the request (run, round, attempt).

        Raises ``BudgetExceeded``, and charges nothing, where the composition of all events of the
        data set with this one would pass `limit`. With ``replay=False`` a key that was seen before
        is charged again: what ran before a crash counts as spent. With ``replay=True`` the same key
        with the same event and job is charged once. That is right only for reproducible runs,
        where noise and samples are a function of the key, so that a repetition releases the very
        same value; the first reservation must have said ``replay=True`` as well. The same key with
        another event or job raises ``LedgerError``: one noise would hide two values.
        """
        with self._turn():
            entries = self._read()
            if replay and self._is_replayed(entries, dataset, event, job, key):
                return epsilon(_events(entries, dataset), delta)
            after = self._checked(entries, dataset, event, delta, limit)
            mechanism = (
                float(event.noise_multiplier),
                float(event.sampling_rate),
                int(event.steps),
            )
            decision = (job, key, float(delta), float(limit), int(replay))
            recorded = datetime.now(UTC).isoformat(timespec="seconds")
            self._append(
                entries[-1].hash if entries else _GENESIS,
                (len(entries) + 1, dataset, *mechanism, *decision, recorded),
            )
        return after

    def ensure_affordable(
        self, dataset: str, event: MechanismEvent, *, delta: float, limit: float
    ) -> float:
        """Epsilon that the data set would have after `event`; nothing is written.

        Raises ``BudgetExceeded`` where that passes `limit`. For a whole job before its first round.
        """
        return self._checked(self.entries(), dataset, event, delta, limit)

    def spent(self, dataset: str, delta: float) -> float:
        """Epsilon at `delta` of everything that was ever reserved for the data set."""
        return epsilon(self.events(dataset), delta)

    def events(self, dataset: str) -> list[MechanismEvent]:
        """Every event reserved for the data set, oldest first."""
        return _events(self.entries(), dataset)

    def entries(self) -> list[Entry]:
        """All rows, oldest first, for showing and exporting."""
        with self._explained("read"):
            return self._read()

    def verify(self) -> int:
        """Check the chain of hashes; return the number of rows, or raise naming the wrong one."""
        return len(self.entries())

    def head(self) -> str:
        """Hash of the last row: it commits to the whole ledger."""
        entries = self.entries()
        return entries[-1].hash if entries else _GENESIS

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

    def _begin_or_recognise(self) -> None:
        if self._pragma("application_id") != _APPLICATION:
            # Two processes may begin the same ledger; the second finds it begun.
            with self._turn():
                tables = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
                if tables[0] == 0:
                    self._connection.execute(_TABLE)
                    self._connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                    self._connection.execute(f"PRAGMA user_version = {SCHEMA}")
        if self._pragma("application_id") != _APPLICATION:
            raise LedgerError(f"{self.path} is a database, but not a privacy ledger of Umbel.")
        version = self._pragma("user_version")
        if version != SCHEMA:
            raise LedgerError(
                f"The privacy ledger {self.path} has version {version}, and this Umbel reads "
                f"version {SCHEMA}. Use the Umbel that wrote it, or a newer one."
            )

    def _pragma(self, name: str) -> int:
        return int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])

    def _is_replayed(
        self, entries: list[Entry], dataset: str, event: MechanismEvent, job: str, key: str
    ) -> bool:
        for entry in entries:
            if entry.replay and (entry.dataset, entry.key) == (dataset, key):
                if (entry.event, entry.job) != (event, job):
                    raise LedgerError(
                        f"Request {key} was reserved for data set {_short(dataset)} before, as "
                        f"{_described(entry.event)} of job {entry.job}, and now as "
                        f"{_described(event)} of job {job}. A reproducible run cannot use one key "
                        "for two values: give the run another name."
                    )
                return True
        return False

    def _checked(
        self,
        entries: list[Entry],
        dataset: str,
        event: MechanismEvent,
        delta: float,
        limit: float,
    ) -> float:
        events = _events(entries, dataset)
        after = epsilon([*events, event], delta)
        # Written so that a limit or an epsilon that is not a number refuses.
        if not after <= limit:
            before = epsilon(events, delta)
            raise BudgetExceeded(
                f"This data set has spent epsilon {before:.4g} of its limit "
                f"{limit:g} at delta {delta:g} ({max(0.0, limit - before):.4g} left), and this "
                f"request ({_described(event)}) would make it {after:.4g}. Ask for fewer rounds or "
                "more noise (a smaller privacy.epsilon), or let the owner raise the limit."
            )
        return after

    def _append(self, previous: str, row: tuple[Any, ...]) -> None:
        self._connection.execute(
            f"INSERT INTO entries ({_COLUMNS}) VALUES ({', '.join('?' * (len(row) + 1))})",
            (*row, _chained(previous, row)),
        )

    def _read(self) -> list[Entry]:
        """All rows, each checked against the hash of the one before."""
        entries: list[Entry] = []
        previous = _GENESIS
        rows = self._connection.execute(f"SELECT {_COLUMNS} FROM entries ORDER BY number")
        for place, (*row, stored) in enumerate(rows, start=1):
            if row[0] != place or _chained(previous, row) != stored:
                raise LedgerError(
                    f"The privacy ledger {self.path} was changed: row {row[0]} does not follow "
                    "from the rows before it (edited, or rows before it cut out). What was spent "
                    "can no longer be trusted; restore the file from a backup."
                )
            number, dataset, sigma, rate, steps, job, key, delta, limit, replay, recorded = row
            event = MechanismEvent(sigma, rate, steps)
            entries.append(
                Entry(
                    number, dataset, event, job, key, delta, limit, bool(replay), recorded, stored
                )
            )
            previous = stored
        return entries

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
    def _explained(self, done: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise LedgerError(
                f"The privacy ledger {self.path} cannot be {done} ({error}). Nothing was spent, "
                "because nothing ran on the data."
            ) from error


def _events(entries: list[Entry], dataset: str) -> list[MechanismEvent]:
    return [entry.event for entry in entries if entry.dataset == dataset]


def _chained(previous: str, row: Sequence[Any]) -> str:
    """SHA-256 of the row before and this one; JSON writes a float64 so that it reads back equal.

    A value that JSON does not know cannot have been written here; its repr makes the check fail.
    """
    return hashlib.sha256(json.dumps([previous, *row], default=repr).encode()).hexdigest()


def _short(dataset: str) -> str:
    return dataset[:12]


def _described(event: MechanismEvent) -> str:
    steps = "1 step" if event.steps == 1 else f"{event.steps} steps"
    return f"{steps} at noise {event.noise_multiplier:g} and rate {event.sampling_rate:g}"
