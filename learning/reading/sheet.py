"""Read columns of an Excel workbook, as strings.

The header is the first row of a sheet that holds all columns that are asked for, among the first
20 that are not empty, or the first such row; rows below it that are not empty are records. A cell
holds what Excel shows as its value; one with an error (#N/A) holds nothing. Of several sheets, hidden ones
apart, the first that has the columns is read, unless one is named.
"""

from __future__ import annotations

import itertools
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...quantities import counted
from .cells import as_name, cell
from .columns import check_columns, renamed
from .header_row import LOOK as HEADER_LOOK
from .header_row import header_row
from .layout import Layout
from .packing import ending, most_bytes, seekable

SHEETS = (".xlsx", ".xlsm")

_ERRORS = ("#N/A", "#DIV/0!", "#REF!", "#NAME?", "#VALUE!", "#NUM!", "#NULL!")


def refuse_sheet(path: Path, layout: Layout) -> None:
    """``DataError`` for a sheet that is asked for of a file that has none."""
    if layout.sheet is not None and (path.is_dir() or ending(path) not in SHEETS):
        raise DataError(
            f"{path} is not an Excel workbook ({' or '.join(SHEETS)}), and sheet {layout.sheet!r} of it is "
            "asked for. Leave out the sheet (data.sheet, or --sheet)."
        )


@dataclass(frozen=True)
class Sheet:
    """Columns of a sheet, with the number of each row in it."""

    title: str
    of: int
    """Sheets that are not hidden."""
    alike: tuple[str, ...]
    """Titles of others that have the columns too."""
    numbers: list[int]
    columns: dict[str, list[str | None]]
    faults: dict[int, str]

    def said(self, *, asked: bool) -> str:
        """Which sheet was read, and which others could have been."""
        if asked:
            return f"sheet {self.title!r}, as asked"
        alike = ", ".join(map(repr, self.alike))
        others = f" (the columns are also in {alike}: data.sheet names one)" if alike else ""
        return f"sheet {self.title!r}, of {self.of} sheets{others}"


def sheet_columns(path: Path, wanted: Sequence[str] = (), title: str | None = None) -> list[str]:
    """The header of the sheet called `title`, or of the first that has the columns `wanted`; if none are,
    that of the likely sheet. ``DataError`` for a title that no sheet has."""
    with _workbook(path, title) as sheets:
        headers = {s.title: header for s in sheets if (header := _header(s, wanted)) is not None}
        fit = [names for _, names in headers.values() if wanted and set(wanted) <= set(names)]
        if fit or not headers:
            return next(iter(fit), [])
        return headers[_likely(sheets, headers)][1]


def sheets_said(path: Path) -> str:
    """The sheets of a workbook with their rows and columns, if there are several: a phrase."""
    with _workbook(path, None) as sheets:
        headers = {s.title: header for s in sheets if (header := _header(s, ())) is not None}
        if len(headers) < 2:
            return ""
        said = [
            f"{title!r} ({counted(_size(sheet, headers[title][0]), 'row')}: "
            f"{', '.join(filter(None, headers[title][1]))[:80]})"
            for sheet in sheets
            if (title := sheet.title) in headers
        ]
    return "its sheets: " + "; ".join(said)


def _likely(sheets: Sequence[Any], headers: dict[str, tuple[int, list[str]]]) -> str:
    """The sheet with the most rows, or the first with the same columns, which is read if they are named."""
    sizes = {s.title: _size(s, headers[s.title][0]) for s in sheets if s.title in headers}
    most = max(sizes, key=lambda title: sizes[title])
    return next(title for title in sizes if headers[title][1] == headers[most][1])


def _size(sheet: Any, header: int) -> int:
    return sum(number > header for number, _ in _rows(sheet))


def read_sheet(
    path: Path, required: list[str], extra: list[str], title: str | None = None
) -> Sheet:
    """Columns `required`, and those of `extra` that there are, of the sheet called `title`, or of the first
    that has them; ``DataError`` if one is missing, or no sheet is called so."""
    with _workbook(path, title) as sheets:
        found: dict[str, tuple[int, list[str]]] = {}
        for sheet in sheets:
            header = _header(sheet, required)
            if header is not None:
                found[sheet.title] = header
        fit = [
            sheet
            for sheet in sheets
            if sheet.title in found and set(required) <= set(found[sheet.title][1])
        ]
        if fit and not required:
            likely = _likely(sheets, found)
            fit = [sheet for sheet in sheets if sheet.title == likely]
        if fit:
            of, alike = len(sheets), tuple(sheet.title for sheet in fit[1:])
            numbers, columns, faults = _read(path, fit[0], found[fit[0].title], required, extra)
            return Sheet(fit[0].title, of, alike, numbers, columns, faults)
        source = str(path)
        if len(found) > 1:
            source += f", sheets {', '.join(map(repr, found))}"
        check_columns(source, required, [name for _, names in found.values() for name in names])
        raise DataError(f"{path} has no sheet with all of the columns {', '.join(required)}.")


def _read(
    path: Path,
    sheet: Any,
    header: tuple[int, list[str]],
    required: list[str],
    extra: list[str],
) -> tuple[list[int], dict[str, list[str | None]], dict[int, str]]:
    first, names = header
    check_columns(str(path), required, names)
    columns = required + [name for name in extra if names.count(name) == 1]
    places = {name: names.index(name) for name in columns}
    values: dict[str, list[str | None]] = {name: [] for name in columns}
    numbers: list[int] = []
    faults: dict[int, str] = {}
    for number, cells in _rows(sheet):
        if number <= first:
            continue
        found: dict[str, str | None] = dict.fromkeys(columns)
        try:
            for name, place in places.items():
                found[name] = _cell(name, cells[place] if place < len(cells) else None)
        except DataError as error:
            faults[len(numbers)] = str(error)
            found = dict.fromkeys(columns)
        for name in columns:
            values[name].append(found[name])
        numbers.append(number)
    return numbers, values, faults


def _cell(name: str, value: object) -> str | None:
    text = cell(name, value, False)
    return None if text is None or text in _ERRORS else text


def _rows(sheet: Any) -> Iterator[tuple[int, tuple[object, ...]]]:
    """Rows that hold something, with their numbers."""
    for number, cells in enumerate(sheet.iter_rows(values_only=True), start=1):
        if any(value is not None and value != "" for value in cells):
            yield number, cells


def _header(sheet: Any, required: Sequence[str]) -> tuple[int, list[str]] | None:
    """The number of the header's row, and its names: the row with the columns, else the likely one."""
    rows = [
        (number, renamed(_names(cells), required))
        for number, cells in itertools.islice(_rows(sheet), HEADER_LOOK)
    ]
    for number, names in rows:
        if required and set(required) <= set(names):
            return number, names
    return rows[header_row([names for _, names in rows])] if rows else None


def _names(cells: Sequence[object]) -> list[str]:
    names = [as_name(value) or "" for value in cells]
    while names and not names[-1]:
        names.pop()
    return names


def _chosen(path: Path, sheets: list[Any], title: str | None) -> list[Any]:
    """Those that are not hidden, or the one that is named, hidden or not."""
    if title is None:
        return [sheet for sheet in sheets if sheet.sheet_state == "visible"]
    named = [sheet for sheet in sheets if sheet.title == title]
    if not named:
        titles = [
            repr(sheet.title) + ("" if sheet.sheet_state == "visible" else " (hidden)")
            for sheet in sheets
        ]
        raise DataError(
            f"{path} has no sheet {title!r}. Its sheets: {', '.join(titles) or 'none'}. Name one of them "
            "(data.sheet, or --sheet)."
        )
    return named


@contextmanager
def _workbook(path: Path, title: str | None) -> Iterator[list[Any]]:
    import openpyxl

    content = seekable(path)
    try:
        with zipfile.ZipFile(content) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > most_bytes(path):
            raise DataError(
                f"{path} unpacks to {unpacked >> 20:,} MiB, which is too much for its size. Save the sheet "
                "as CSV, and name that file."
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and checks that are of no use here
            book = openpyxl.load_workbook(content, read_only=True, data_only=True)
            try:
                for sheet in book.worksheets:
                    sheet.reset_dimensions()  # what a file says of its size is often wrong
                yield _chosen(path, book.worksheets, title)
            finally:
                book.close()
    except DataError:
        raise
    except Exception as error:  # openpyxl lets through whatever its parsers raise
        why = str(error)[:160].rstrip(".") or type(error).__name__
        raise DataError(
            f"{path} cannot be read as an Excel workbook: {why}. Save it again without a password, or as "
            "CSV."
        ) from None
