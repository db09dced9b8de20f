"""Read columns of an Excel workbook, as strings.

The header is the first row of a sheet that holds all columns that are asked for, among the first
``_LOOK`` that are not empty, or the first such row; rows below it that are not empty are records. A cell
holds what Excel shows as its value; one with an error (#N/A) holds nothing. Of several sheets, hidden ones
apart, the first that has the columns is read.
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
from .cells import as_name, cell
from .columns import check_columns
from .packing import most_bytes, seekable

SHEETS = (".xlsx", ".xlsm")

_LOOK = 20
_ERRORS = ("#N/A", "#DIV/0!", "#REF!", "#NAME?", "#VALUE!", "#NUM!", "#NULL!")


@dataclass(frozen=True)
class Sheet:
    """Columns of a sheet, with the number of each row in it."""

    title: str
    of: int
    """Sheets that are not hidden."""
    numbers: list[int]
    columns: dict[str, list[str | None]]
    faults: dict[int, str]


def sheet_columns(path: Path, wanted: Sequence[str] = ()) -> list[str]:
    """The header of the first sheet that has the columns `wanted`, else of the first that has one."""
    with _workbook(path) as sheets:
        headers = [header[1] for sheet in sheets if (header := _header(sheet, wanted)) is not None]
    fit = [names for names in headers if set(wanted) <= set(names)]
    return next(iter([*fit, *headers]), [])


def read_sheet(path: Path, required: list[str], extra: list[str]) -> Sheet:
    """Columns `required`, and those of `extra` that there are; ``DataError`` if one is missing."""
    with _workbook(path) as sheets:
        found: dict[str, tuple[int, list[str]]] = {}
        for sheet in sheets:
            header = _header(sheet, required)
            if header is not None:
                found[sheet.title] = header
                if set(required) <= set(header[1]):
                    return _read(path, sheet, len(sheets), header, required, extra)
        source = str(path)
        if len(found) > 1:
            source += f", sheets {', '.join(map(repr, found))}"
        check_columns(source, required, [name for _, names in found.values() for name in names])
        raise DataError(f"{path} has no sheet with all of the columns {', '.join(required)}.")


def _read(
    path: Path,
    sheet: Any,
    of: int,
    header: tuple[int, list[str]],
    required: list[str],
    extra: list[str],
) -> Sheet:
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
    return Sheet(sheet.title, of, numbers, values, faults)


def _cell(name: str, value: object) -> str | None:
    text = cell(name, value, False)
    return None if text is None or text in _ERRORS else text


def _rows(sheet: Any) -> Iterator[tuple[int, tuple[object, ...]]]:
    """Rows that hold something, with their numbers."""
    for number, cells in enumerate(sheet.iter_rows(values_only=True), start=1):
        if any(value is not None and value != "" for value in cells):
            yield number, cells


def _header(sheet: Any, required: Sequence[str]) -> tuple[int, list[str]] | None:
    usual = None
    for number, cells in itertools.islice(_rows(sheet), _LOOK):
        names = [as_name(value) or "" for value in cells]
        while names and not names[-1]:
            names.pop()
        usual = usual or (number, names)
        if set(required) <= set(names):
            return number, names
    return usual


@contextmanager
def _workbook(path: Path) -> Iterator[list[Any]]:
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
                yield [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"]
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
