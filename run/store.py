"""What the coordination server remembers of its runs: SQLite, so that any process may die or look.

The run folders hold models and figures in files; this holds who is to run what, and how it went.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import RunFolderError
from .events import E, Event, Round, from_json

Status = Literal[
    "queued", "running", "stopping", "finishing", "delivering", "stopped", "finished", "failed"
]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    name TEXT PRIMARY KEY, id TEXT NOT NULL UNIQUE, status TEXT NOT NULL, reason TEXT NOT NULL,
    rounds INTEGER NOT NULL, round INTEGER NOT NULL, created TEXT NOT NULL, updated TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL REFERENCES runs(name),
    time TEXT NOT NULL, event TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS heads (member TEXT PRIMARY KEY, head TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS notes (what TEXT PRIMARY KEY, time TEXT NOT NULL, text TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS events_of_run ON events(run, number);
"""


@dataclass(frozen=True)
class RunRow:
    """A run, as it stands."""

    name: str
    id: str
    status: Status
    reason: str
    rounds: int
    round: int
    created: str
    updated: str

    @property
    def over(self) -> bool:
        """Whether it needs somebody to go on."""
        return self.status in ("stopped", "finished", "failed")

    @property
    def standing(self) -> str:
        """Its status, as people say it."""
        early = self.status == "finished" and self.round < self.rounds
        return "finished early" if early else self.status


class Store:
    """The runs of a consortium. Every method is one transaction; processes take turns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as database:
            database.executescript(_SCHEMA)

    def add(self, name: str, id_: str, rounds: int) -> None:
        """A new run that waits for its turn."""
        now = _now()
        with self._open() as database:
            database.execute(
                "INSERT INTO runs VALUES (?, ?, 'queued', '', ?, 0, ?, ?)",
                (name, id_, rounds, now, now),
            )

    def runs(self) -> list[RunRow]:
        """All runs, oldest first."""
        with self._open() as database:
            rows = database.execute("SELECT * FROM runs ORDER BY created, name").fetchall()
        return [RunRow(*row) for row in rows]

    def run(self, name: str) -> RunRow:
        """A run by its name, the beginning of it, or its id; ``RunFolderError`` if there is not one."""
        runs = self.runs()
        found = [run for run in runs if name in (run.name, run.id)] or [
            run for run in runs if run.name.startswith(name)
        ]
        if len(found) != 1:
            known = ", ".join(run.name for run in runs[-5:]) or "none"
            problem = "is the beginning of several runs' names" if found else "is not a run"
            raise RunFolderError(
                f"{name!r} {problem} here (the last ones: {known}). See: umbel runs"
            )
        return found[0]

    def set_status(self, name: str, status: Status, reason: str = "") -> None:
        assert status in get_args(Status)
        with self._open() as database:
            database.execute(
                "UPDATE runs SET status = ?, reason = ?, updated = ? WHERE name = ?",
                (status, reason, _now(), name),
            )

    def fail(self, name: str, reason: str) -> None:
        """Say that a run failed; one whose result is sent is finished all the same."""
        row = self.run(name)
        if row.status == "delivering":
            self.set_status(name, "finished", row.reason)
        else:
            self.set_status(name, "failed", reason)

    def change(self, name: str, before: tuple[Status, ...], after: Status) -> bool:
        """Set a status only if it is one of `before`; whether it was."""
        marks = ", ".join("?" * len(before))
        with self._open() as database:
            done = database.execute(
                "UPDATE runs SET status = ?, reason = '', updated = ? WHERE name = ? "
                f"AND status IN ({marks})",
                (after, _now(), name, *before),
            )
            return done.rowcount == 1

    def tell(self, name: str, event: Event) -> None:
        """Keep an event, and how far the run has come."""
        round_ = event.round if isinstance(event, Round) and event.aggregated else 0
        with self._open() as database:
            database.execute(
                "INSERT INTO events (run, time, event) VALUES (?, ?, ?)",
                (name, _now(), json.dumps(event.to_json())),
            )
            database.execute(
                "UPDATE runs SET round = max(round, ?), updated = ? WHERE name = ?",
                (round_, _now(), name),
            )

    def events(self, name: str, after: int = 0) -> list[tuple[int, str, dict[str, Any]]]:
        """Number, time and content of a run's events, oldest first."""
        with self._open() as database:
            rows = database.execute(
                "SELECT number, time, event FROM events WHERE run = ? AND number > ? ORDER BY number",
                (name, after),
            ).fetchall()
        return [(number, when, json.loads(event)) for number, when, event in rows]

    def of_kinds(self, name: str, *kinds: type[E]) -> list[tuple[int, E]]:
        """Number and content of a run's events of these kinds, oldest first; no others are parsed."""
        wanted = " OR ".join(["event LIKE ?"] * len(kinds))
        with self._open() as database:
            rows = database.execute(
                f"SELECT number, event FROM events WHERE run = ? AND ({wanted}) ORDER BY number",
                (name, *map(_beginning, kinds)),
            ).fetchall()
        return _typed(rows, kinds)

    def last(self, name: str, kind: type[E]) -> list[tuple[int, E]]:
        """The same of the last event of a kind alone; empty if there is none."""
        with self._open() as database:
            rows = database.execute(
                "SELECT number, event FROM events WHERE run = ? AND event LIKE ? "
                "ORDER BY number DESC LIMIT 1",
                (name, _beginning(kind)),
            ).fetchall()
        return _typed(rows, (kind,))

    def keep_heads(self, heads: Mapping[str, str]) -> None:
        """Keep what members have sent of their ledgers, in place of what they sent before."""
        with self._open() as database:
            database.executemany("INSERT OR REPLACE INTO heads VALUES (?, ?)", list(heads.items()))

    def heads(self) -> dict[str, str]:
        """What each member last sent of its ledger, in any run."""
        with self._open() as database:
            return dict(database.execute("SELECT member, head FROM heads").fetchall())

    def note(self, what: str, text: str) -> None:
        """Say what is wrong with the server at the moment; an empty text takes it back."""
        with self._open() as database:
            database.execute("DELETE FROM notes WHERE what = ?", (what,))
            if text:
                database.execute("INSERT INTO notes VALUES (?, ?, ?)", (what, _now(), text))

    def notes(self) -> dict[str, tuple[str, str]]:
        """What is wrong with the server, by what it is about: since when, and the text."""
        with self._open() as database:
            rows = database.execute("SELECT what, time, text FROM notes ORDER BY what").fetchall()
        return {what: (when, text) for what, when, text in rows}

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            database = sqlite3.connect(self._path, timeout=30)
            try:
                database.execute("PRAGMA journal_mode = WAL")
                with database:
                    yield database
            finally:
                database.close()
        except sqlite3.Error as error:
            raise RunFolderError(f"{self._path} cannot be used: {error}") from None


def _typed(rows: Sequence[tuple[int, str]], kinds: tuple[type[E], ...]) -> list[tuple[int, E]]:
    found = ((number, from_json(json.loads(text))) for number, text in rows)
    return [(number, event) for number, event in found if isinstance(event, kinds)]


def _beginning(kind: type[Event]) -> str:
    """A pattern of the events of a kind, as ``tell`` writes them."""
    return json.dumps({"event": kind.kind})[:-1] + "%"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
