"""Which records belong to which account of an owner, by keyed hashes that never leave its folder.

Guarantee: a record that an account has had is left out of every other account of the same folder, as
if it were not in the file. So accounts are disjoint record by record, whatever their files hold, and
what they spend composes in parallel; and no answer tells that a record was left out.

Assumptions: the folder's secret (`split.key`) is the same as when the hashes were made. A text counts
as the same if it is equal after cleaning; one that was changed by a letter is another one. Two folders
have two secrets and do not know of each other.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import LedgerError
from ..storage.files import write_durably


@dataclass(frozen=True)
class Marks:
    """The folder with a file of hashes (uint64, ascending) for each account."""

    folder: Path

    def foreign(self, marks: np.ndarray, account: str) -> np.ndarray:
        """bool[rows]: which of these hashes another account than `account` has had."""
        found = np.zeros(len(marks), dtype=bool)
        for file in self._files():
            if file.stem != account:
                found |= np.isin(marks, _read(file))
        return found

    def keep(self, marks: np.ndarray, account: str) -> None:
        """Remember that `account` has these; those of before stay."""
        file = self.folder / f"{account}.npy"
        known = _read(file) if file.exists() else np.array([], dtype=np.uint64)
        union = np.union1d(known, marks)
        if len(union) > len(known):
            self.folder.mkdir(mode=0o700, exist_ok=True)
            content = io.BytesIO()
            np.save(content, union, allow_pickle=False)
            write_durably(file, content.getvalue(), secret=True)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.npy"))


def _read(file: Path) -> np.ndarray:
    try:
        found: np.ndarray = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise LedgerError(
            f"{file} cannot be read ({error}): it records which records an account has had. Put "
            "the newest copy back."
        ) from None
    return found
