"""Why cells that Excel shows filled are read as empty: merged cells, formulas without a value."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...quantities import counted, verb
from .header_row import LOOK
from .packing import seekable

_MOST_BYTES = 64 << 20
"""Larger workbooks are not loaded whole for this."""


def gaps(path: Path, title: str, columns: Sequence[str]) -> list[str]:
    """A phrase for each of the columns of a sheet with cells that Excel fills and a reader finds empty."""
    import openpyxl

    if path.stat().st_size > _MOST_BYTES:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            formulas = openpyxl.load_workbook(seekable(path))[title]
            values = openpyxl.load_workbook(seekable(path), data_only=True)[title]
        except Exception:  # what cannot be opened so has no cells to explain
            return []
    places = _places(values, columns)
    return [
        phrase
        for name, (row, column) in places.items()
        for phrase in (
            _merged(values, name, row, column),
            _unsaved(formulas, values, name, row, column),
        )
        if phrase
    ]


def _places(sheet: Any, columns: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Row of the header and column of each name, from the first row that has them all."""
    for number, cells in enumerate(sheet.iter_rows(values_only=True, max_row=10 * LOOK), start=1):
        names = ["" if value is None else str(value) for value in cells]
        if set(columns) <= set(names):
            return {name: (number, names.index(name) + 1) for name in columns}
    return {}


def _merged(sheet: Any, name: str, header: int, column: int) -> str:
    empty = 0
    for area in sheet.merged_cells.ranges:
        if area.min_col <= column <= area.max_col:
            first = area.min_row + (area.min_col == column)
            empty += max(0, area.max_row - max(first, header + 1) + 1)
    if not empty:
        return ""
    cells = counted(empty, "cell")
    return (
        f"{cells} of column {name!r} {verb(empty, 'is', 'are')} merged with another, which alone has the "
        "value: unmerge them in Excel and fill the empty ones"
    )


def _unsaved(formulas: Any, values: Any, name: str, header: int, column: int) -> str:
    unsaved = sum(
        isinstance(formula, str) and formula.startswith("=") and value is None
        for (formula,), (value,) in zip(
            formulas.iter_rows(header + 1, None, column, column, values_only=True),
            values.iter_rows(header + 1, None, column, column, values_only=True),
            strict=False,
        )
    )
    if not unsaved:
        return ""
    cells = counted(unsaved, "cell")
    return (
        f"{cells} of column {name!r} {verb(unsaved, 'holds a formula', 'hold formulas')} without a saved "
        "value: open the workbook in Excel, save it, and try again"
    )
