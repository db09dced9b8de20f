"""Columns of one source, as every format is read into them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ...errors import DataError
from .encoding import TOLERATED


@dataclass(frozen=True)
class Table:
    """Columns of one source, all of the same length; None stands for a missing value."""

    source: str
    unit: str
    numbers: Sequence[int]
    columns: dict[str, list[str | None]]
    faults: dict[int, str] = field(default_factory=dict)
    """Rows, from 0, that cannot be read, each with the reason. They have no values."""
    notes: tuple[str, ...] = ()
    """How the source was read, for the person who brought it: phrases."""

    def __len__(self) -> int:
        return len(self.numbers)

    def place(self, row: int) -> str:
        """Where row `row` stands, in words: ``reviews.csv, row 12``."""
        return f"{self.source}, {self.unit} {self.numbers[row]}"

    def take(self, rows: Sequence[int]) -> Table:
        """The given rows, which keep their places in the source."""
        return Table(
            self.source,
            self.unit,
            [self.numbers[row] for row in rows],
            {name: [values[row] for row in rows] for name, values in self.columns.items()},
            {place: self.faults[row] for place, row in enumerate(rows) if row in self.faults},
            self.notes,
        )

    def checked(self) -> Table:
        """Itself. Raises ``DataError`` if it is empty, or if more rows are unreadable than are tolerated."""
        if not len(self):
            raise DataError(
                f"{self.source} has no rows after its header. Add rows, or correct the path."
            )
        if len(self.faults) > TOLERATED * len(self):
            first = min(self.faults)
            of = f" {len(self.faults):,} of {len(self):,} rows cannot be read."
            more = of if len(self.faults) > 1 else ""
            raise DataError(f"{self.place(first)}: {self.faults[first]}{more}")
        return self
