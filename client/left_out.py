"""Records that killed the worker: left out from then on, also by an agent that starts again.

Otherwise each start would let them kill again, and an answer would be late for it each time. They are
known by keyed hashes of their texts, which never leave the owner's folder.

Guarantee: one hash leaves out one record. Of equal texts each is numbered by its place among them, so
one record more or less changes who else is left out no more than it did when the record was found.
Nothing that leaves an owner has another form or time because of the file, but for the answers that
are no longer late.

Assumptions: the folder's secret (`split.key`) is the same as when the hashes were made.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..storage.files import write_durably


@dataclass(frozen=True)
class LeftOut:
    """A file of hashes, 16 bytes each. One that is damaged or gone costs restarts, and nothing else."""

    file: Path

    def __len__(self) -> int:
        return len(self._read())

    def rows(self, texts: Sequence[str], secret: bytes) -> frozenset[int]:
        """Which of these texts' rows are left out."""
        known = self._read()
        if not known:
            return frozenset()
        marks = _marks(texts, secret)
        return frozenset(row for row, mark in enumerate(marks) if mark in known)

    def add(self, texts: Sequence[str], rows: Collection[int], secret: bytes) -> None:
        """Remember these rows, too."""
        known = self._read()
        marks = _marks(texts, secret)
        found = known | {marks[row] for row in rows if row < len(marks)}
        if found != known:
            content = io.BytesIO()
            flat = np.frombuffer(b"".join(sorted(found)), np.uint8).reshape(-1, 16)
            np.save(content, flat, allow_pickle=False)
            write_durably(self.file, content.getvalue(), secret=True)

    def _read(self) -> set[bytes]:
        if not self.file.exists():
            return set()
        try:
            return {row.tobytes() for row in np.load(self.file, allow_pickle=False).reshape(-1, 16)}
        except (OSError, ValueError, EOFError) as error:
            logging.getLogger(__name__).warning(
                "%s starts again from nothing: %s", self.file, error
            )
            return set()


def _marks(texts: Sequence[str], secret: bytes) -> list[bytes]:
    """A keyed hash for each text, and its place among equal ones."""
    seen: Counter[str] = Counter()
    marks = []
    for text in texts:
        content = f"{seen[text]} {text}".encode()
        seen[text] += 1
        digest = hashlib.blake2b(content, digest_size=16, key=secret, person=b"left out")
        marks.append(digest.digest())
    return marks
