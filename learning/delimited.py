"""Read columns of a CSV or TSV file, as strings.

What a record is, where one that cannot be read is to be left out alone (``lenient``): it begins at
the beginning of a line, has as many fields as the header, and ends at the end of a line. A field that
begins with a quote ends at the next quote that is not doubled, behind which the delimiter or the line's
end stands; it may hold line ends, but the record spans at most ``MOST_LINES`` lines, and
``MOST_CHARACTERS`` characters if it is more than one. A line at which no such record begins is left
out, and reading goes on at the next line. So a quote that is not closed costs its own line, and not all
that follow.

Guarantee: where records are lines, one that is damaged affects none but itself and, if a quote that it
leaves open meets one that looks like its end, the next ``MOST_LINES`` - 1. Where records span several
lines, the lines of a damaged one may be read as records of their own. Formats that mark a record's end
(lines of JSON, Parquet, saved datasets) have no such neighbours.
"""

from __future__ import annotations

import contextlib
import csv
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from ..errors import DataError
from .columns import check_columns
from .encoding import check_utf8

Rows = tuple[Sequence[int], dict[str, list[str | None]]]
"""Numbers of the rows, counted after the header, and the columns."""

DELIMITED = {".csv": ",", ".tsv": "\t"}
"""Endings of names, and what separates columns unless the header says otherwise."""

_OTHERS = (",", ";", "\t", "|")

MOST_LINES = 256
"""Of one record in a file that is read leniently, with the line ends in its fields."""

MOST_CHARACTERS = 1 << 20
"""Of one record that spans several lines; a single line may be of any length."""

# One block must hold a whole row, however long its text; Arrow's offsets are 32 bits wide.
_LARGEST_BLOCK = 1 << 30


def header_of(path: Path) -> tuple[str, list[str]]:
    """What separates the columns of a file, and their names. No record has a part in it.

    That is a comma in CSV and a tab in TSV if it stands in the header; else a comma, semicolon (as
    spreadsheets write where the comma is decimal), tab or bar, whichever makes most columns of it.
    """
    usual = DELIMITED[path.suffix.lower()]
    delimiter, names = usual, _header(path, usual)
    if len(names) == 1:
        for other in _OTHERS:
            with contextlib.suppress(DataError):
                found = _header(path, other)
                if len(found) > len(names):
                    delimiter, names = other, found
    if len(names) > 1 and names[0] == "sep=":
        raise DataError(
            f"{path} begins with the line 'sep={delimiter}' of Excel. Remove that line."
        )
    return delimiter, names


def _header(path: Path, delimiter: str) -> list[str]:
    # What stands after the header must not decide whether the header can be read.
    with path.open(encoding="utf-8-sig", newline="", errors="replace") as file:
        try:
            return next((row for row in csv.reader(file, delimiter=delimiter) if row), [])
        except csv.Error as error:
            raise DataError(f"{path} has no header that can be read: {error}.") from None


def read_delimited(path: Path, required: list[str], extra: list[str], lenient: bool) -> Rows:
    """Columns `required`, and those of `extra` that there are; ``DataError`` for what cannot be read.

    `lenient`: a row that cannot be read is left out.
    """
    if not lenient:
        check_utf8(path)
    # pyarrow tells of neither duplicate nor absent columns in a way that helps, so look first.
    delimiter, header = header_of(path)
    check_columns(str(path), required, header)
    columns = required + [name for name in extra if name in header]
    if lenient:
        return _read_row_by_row(path, delimiter, header, columns)
    try:
        table = pyarrow.csv.read_csv(
            path,
            # Rows are numbered only when one thread reads.
            read_options=pyarrow.csv.ReadOptions(
                use_threads=False, block_size=min(path.stat().st_size + 1, _LARGEST_BLOCK)
            ),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=columns, column_types={name: pa.string() for name in columns}
            ),
        )
    except pa.ArrowInvalid as error:
        # Only a header without a line end is "empty" to pyarrow.
        if "Empty CSV" not in str(error):
            raise DataError(_explain_csv(path, str(error))) from None
        table = pa.table({name: pa.array([], pa.string()) for name in columns})
    values = {name: table[name].to_pylist() for name in columns}
    return range(1, table.num_rows + 1), values


def _read_row_by_row(path: Path, delimiter: str, header: list[str], columns: list[str]) -> Rows:
    """All records; a line at which none begins, and one that is not UTF-8 alone, has no values."""
    places = {name: header.index(name) for name in columns}
    values: dict[str, list[str | None]] = {name: [] for name in columns}
    with path.open(encoding="utf-8-sig", newline="", errors="surrogateescape") as file:
        # The header is what the strict reader takes for it.
        for row in csv.reader(file, delimiter=delimiter):
            if row:
                break
        count = 0
        for row in _records(file, delimiter, len(header)):
            count += 1
            sound = row is not None and all(map(_is_text, row))
            for name, place in places.items():
                values[name].append(row[place] if row is not None and sound else None)
    return range(1, count + 1), values


def _records(lines: Iterator[str], delimiter: str, width: int) -> Iterator[list[str] | None]:
    """The fields of each record, and None for each line at which none of `width` fields begins."""
    ahead: deque[str] = deque()
    while True:
        if not ahead:
            line = next(lines, None)
            if line is None:
                return
            ahead.append(line)
        if not ahead[0].rstrip("\r\n"):
            ahead.popleft()
            continue
        found = _record(ahead, lines, delimiter)
        if found is None or len(found[0]) != width:
            ahead.popleft()
            yield None
            continue
        fields, used = found
        for _ in range(used):
            ahead.popleft()
        yield fields


def _record(
    ahead: deque[str], lines: Iterator[str], delimiter: str
) -> tuple[list[str], int] | None:
    """The record that begins at the first line `ahead`, and how many lines it is; None if none does.

    `ahead` is filled from `lines` as far as the look at it goes.
    """
    line, at, used, size = ahead[0], 0, 1, len(ahead[0])
    fields: list[str] = []
    while True:
        if line.startswith('"', at):
            at += 1
            parts: list[str] = []
            while True:
                quote = line.find('"', at)
                if quote < 0:  # the field goes on in the next line
                    parts.append(line[at:])
                    if used == len(ahead):
                        more = next(lines, None)
                        if more is None:
                            return None
                        ahead.append(more)
                    line, at, used = ahead[used], 0, used + 1
                    size += len(line)
                    if used > MOST_LINES or size > MOST_CHARACTERS:
                        return None
                elif line.startswith('"', quote + 1):
                    parts.append(line[at : quote + 1])
                    at = quote + 2
                else:
                    parts.append(line[at:quote])
                    at = quote + 1
                    break
            fields.append("".join(parts))
        else:
            end = line.find(delimiter, at)
            if end < 0:
                end = len(line.rstrip("\r\n"))
            fields.append(line[at:end])
            at = end
        if line.startswith(delimiter, at):
            at += len(delimiter)
        elif not line[at:].rstrip("\r\n"):
            return fields, used
        else:
            return None


def _is_text(value: str) -> bool:
    """Whether it is made of whole characters, none of them half of a pair or a stray byte."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _explain_csv(path: Path, message: str) -> str:
    message = message.removeprefix("CSV parse error: ")
    if message.startswith("Row #") and "Expected" in message:
        row, _, rest = message.removeprefix("Row #").partition(": ")
        expected, _, content = rest.partition(": ")
        return (
            f"{path}, row {int(row) - 1} after the header: {expected[0].lower()}{expected[1:]}. "
            f"The row begins {content[:60]!r}. Quote a field that holds the delimiter, a quote or "
            'a line end ("..."), and close every quote.'
        )
    return f"{path} is not a table that can be read: {message[:200]}. Write it again as CSV."
