"""A second place for what a ledger says, so that an older copy of it is recognised and mended.

A file beside the ledger: a line with the ledger's identity, then a line a row, each flushed to disk
after the row itself is. A ledger that has more rows than its witness was stopped in between; one
that has fewer, or others, is an older copy, or somebody else's.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import LedgerError
from ...storage.files import write_durably

_SUFFIX = ".witness"
_TAIL = 8192


@dataclass(frozen=True)
class Testimony:
    """The last line: the ledger had `number` rows, the last with `hash`, in a file of `content`.

    `content` is the SHA-256 of the whole database file; 0 rows have neither.
    """

    identity: str
    number: int
    hash: str
    content: str


class Witness:
    """The witness of the ledger at `ledger`."""

    def __init__(self, ledger: Path) -> None:
        self.path = ledger.with_suffix(_SUFFIX)

    def begin(self, identity: str) -> None:
        """Write a witness of no rows, in place of any other."""
        header = json.dumps({"witness of the privacy ledger": identity}) + "\n"
        write_durably(self.path, header.encode())

    def last(self) -> Testimony | None:
        """What was witnessed last; None if there is no witness."""
        try:
            with self.path.open("rb") as file:
                identity = self._identity(file.readline())
                start = file.tell()
                number, hash_, content = _last(file.fileno(), start)[0]
        except FileNotFoundError:
            return None
        return Testimony(identity, number, hash_, content)

    def rows(self) -> list[tuple[Any, ...]]:
        """Every witnessed row with its hash, oldest first, not checked."""
        with self.path.open("rb") as file:
            self._identity(file.readline())
            lines = [_parsed(line) for line in file if line.endswith(b"\n")]
        found = {line[0]: (*line[3], line[1]) for line in lines if line is not None}
        return [found[number] for number in sorted(found)]

    def add(self, rows: Sequence[tuple[Any, ...]], content: str) -> None:
        """Write down (*columns, hash) `rows` that are on disk in a ledger whose file has `content`.

        Rows that another process has written down meanwhile are left out.
        """
        descriptor = os.open(self.path, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            start = len(os.pread(descriptor, _TAIL, 0).partition(b"\n")[0]) + 1
            (number, *_), end = _last(descriptor, start)
            lines = [
                json.dumps([row[0], row[-1], content, row[:-1]], separators=(",", ":")) + "\n"
                for row in rows
                if row[0] > number
            ]
            if lines:
                # A line that a crash cut short is written over.
                os.ftruncate(descriptor, end)
                text = "".join(lines).encode()
                while text:
                    written = os.pwrite(descriptor, text, end)
                    text, end = text[written:], end + written
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _identity(self, line: bytes) -> str:
        try:
            return str(json.loads(line)["witness of the privacy ledger"])
        except (ValueError, KeyError, TypeError):
            raise LedgerError(
                f"{self.path} is not the witness of a privacy ledger, or is damaged. Restore it "
                "with the ledger from a backup; or, if you know that the ledger is the newest copy: "
                "umbel ledger recover --accept"
            ) from None


def _last(descriptor: int, start: int) -> tuple[tuple[int, str, str], int]:
    """Number, hash and content of the last whole line after `start`, and where it ends."""
    size = os.fstat(descriptor).st_size
    reach = _TAIL
    while True:
        begin = max(start, size - reach)
        tail = os.pread(descriptor, size - begin, begin)
        end = tail.rfind(b"\n") + 1
        while end:
            line = tail.rfind(b"\n", 0, end - 1) + 1
            if line == 0 and begin > start:
                break
            found = _parsed(tail[line:end])
            if found is not None:
                return (found[0], found[1], found[2]), begin + end
            end = line
        if begin == start:
            return (0, "", ""), start
        reach *= 2


def _parsed(line: bytes) -> list[Any] | None:
    """A line that holds what `add` writes; anything else was never flushed whole."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(found, list) and len(found) == 4 and isinstance(found[0], int)
    return found if whole else None
