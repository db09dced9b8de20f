"""Read columns of a CSV or TSV file, as strings.

What a record is: it begins at the beginning of a line, has as many fields as the header, and ends at the
end of a line; empty fields beyond those of the header do not count. A field that begins with a quote ends
at the next quote that is not doubled (or behind a backslash, if the file is so written), behind which the
delimiter or the line's end stands; it may hold line ends, but the record spans at most ``MOST_LINES`` lines,
and ``MOST_CHARACTERS`` characters if it is more than one. A line at which no such record begins is a record
that cannot be read, and reading goes on at the next line. So a quote that is not closed costs its own line,
and not all that follow.

Guarantee: if records are lines, one that is damaged affects none but itself and, if a quote that it
leaves open meets one that looks like its end, the next ``MOST_LINES`` - 1. If records span several
lines, the lines of a damaged one may be read as records of their own. Formats that mark a record's end
(lines of JSON, Parquet, saved datasets) have no such neighbours.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from ...errors import DataError
from .columns import check_columns, renamed
from .encoding import is_text, text_of
from .header_row import LOOK, header_row
from .layout import Layout, Quoting
from .packing import ending

DELIMITED = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
"""Endings of names, and what separates columns unless the header says otherwise."""

CALLED = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars (|)"}
_OTHERS = (",", ";", "\t", "|")

MOST_LINES = 256
"""Of one record, with the line ends in its fields."""

MOST_CHARACTERS = 1 << 20
"""Of one record that spans several lines; a single line may be of any length."""

_BACKSLASHED = re.compile(r'\\(["\\])')
_EXCEL = re.compile(r'"?sep=(.)"?[\r\n]*')


@dataclass(frozen=True)
class Header:
    """What separates the columns of a file, and their names. No record has a part in it."""

    delimiter: str
    names: list[str]
    announced: bool = False
    """Whether Excel's line "sep=..." comes before it."""
    above: int = 0
    """Rows above it that are titles."""


@dataclass(frozen=True)
class Delimited:
    """Columns of a file, and what was met on the way."""

    columns: dict[str, list[str | None]]
    faults: dict[int, str]
    """Rows, from 0, that cannot be read, each with the reason; they have no values."""
    rows: int
    several: int
    """Rows that span several lines."""
    longest: int
    """Most lines of one row."""


def header_of(path: Path, codec: str, layout: Layout, wanted: Sequence[str] = ()) -> Header:
    """The header: the first line that is not blank, behind a line "sep=..." if there is one.

    It is separated by a comma in CSV and a tab in TSV if one stands in it; else by a comma, semicolon (as
    spreadsheets write if the comma is decimal), tab or bar, whichever makes most columns of it. If only
    another of these makes the columns that are `wanted`, it is that. If the first row has not the columns
    that are `wanted`, the header is the first row that has them; if none are, see ``header_row``.
    """
    usual = DELIMITED[ending(path)]
    delimiter, names, announced = _header(path, codec, layout, usual)
    names = renamed(names, wanted)
    if announced:
        return Header(delimiter, names, True)
    others = {}
    for other in _OTHERS:
        with contextlib.suppress(DataError):
            others[other] = renamed(_header(path, codec, layout, other)[1], wanted)
    if not set(wanted) <= set(names):
        for other, found in others.items():
            if set(wanted) <= set(found):
                return Header(other, found)
    if not wanted or not set(wanted) <= set(names):
        below = _below_titles(path, codec, layout, wanted)
        if below is not None:
            return below
    if len(names) == 1:
        for other, found in others.items():
            if len(found) > len(names):
                delimiter, names = other, found
    return Header(delimiter, names)


def _below_titles(path: Path, codec: str, layout: Layout, wanted: Sequence[str]) -> Header | None:
    """A header that is not the first row, however its columns are separated; None if there is none."""
    likely: dict[str, Header] = {}
    title = True
    for delimiter in dict.fromkeys((DELIMITED[ending(path)], *_OTHERS)):
        try:
            with text_of(path, codec) as lines:
                rows = list(itertools.islice(_rows(lines, layout, delimiter), LOOK))
        except csv.Error:
            continue
        for above, found in enumerate(rows[1:], start=1):
            names = renamed(found, wanted)
            if wanted and set(wanted) <= set(names):
                return Header(delimiter, names, above=above)
        title &= sum(map(bool, map(str.strip, rows[0] if rows else ()))) == 1
        if above := header_row(rows, split=True):
            likely[delimiter] = Header(delimiter, rows[above], above=above)
    return (
        max(likely.values(), key=lambda header: len(header.names), default=None) if title else None
    )


def _header(path: Path, codec: str, layout: Layout, delimiter: str) -> tuple[str, list[str], bool]:
    # What stands after the header must not decide whether the header can be read.
    with text_of(path, codec) as lines:
        try:
            return _read_header(lines, layout, delimiter)
        except csv.Error as error:
            raise DataError(
                f"{path} has no readable header: {error}. Write the first row again, "
                "with a name for each column."
            ) from None


def _read_header(
    lines: TextIO, layout: Layout, delimiter: str, above: int = 0
) -> tuple[str, list[str], bool]:
    first = next((line for line in lines if line.strip("\r\n")), "")
    announced = _EXCEL.fullmatch(first)
    if announced:
        delimiter = announced[1]
        first = next((line for line in lines if line.strip("\r\n")), "")
    rows = _rows(itertools.chain([first], lines), layout, delimiter)
    return delimiter, next(itertools.islice(rows, above, None), []), bool(announced)


def _rows(lines: Iterable[str], layout: Layout, delimiter: str) -> Iterator[list[str]]:
    quoting: Any = csv.QUOTE_NONE if layout.quoting == "none" else csv.QUOTE_MINIMAL
    return (row for row in csv.reader(lines, delimiter=delimiter, quoting=quoting) if row)


def read_delimited(
    path: Path, codec: str, layout: Layout, required: list[str], extra: list[str]
) -> tuple[Header, Delimited]:
    """Columns `required`, and those of `extra` that there are; ``DataError`` if one is missing."""
    header = header_of(path, codec, layout, required)
    check_columns(str(path), required, header.names)
    columns = required + [name for name in extra if header.names.count(name) == 1]
    places = {name: header.names.index(name) for name in columns}
    values: dict[str, list[str | None]] = {name: [] for name in columns}
    faults: dict[int, str] = {}
    row = several = longest = 0
    for record in _records_of(path, codec, layout, header):
        if record.fields is None:
            faults[row] = record.fault
        for name, place in places.items():
            values[name].append(None if record.fields is None else record.fields[place])
        several += record.lines > 1
        longest = max(longest, record.lines)
        row += 1
    return header, Delimited(values, faults, row, several, longest)


def quoting_of(path: Path, codec: str) -> Quoting | None:
    """How quotes are written, by a look at all of a file; None for the usual way.

    The usual way, unless it leaves rows unreadable of which another reads more. Quotes are plain characters
    only if fewer fields stand in quotes than rows are broken by one.
    """
    usual, _, last = _broken(path, codec, "doubled")
    if not usual or (usual == 1 and last):
        return None  # the last row alone: the file was cut off in it
    backslash, _, _ = _broken(path, codec, "backslash")
    plain, enclosed, _ = _broken(path, codec, "none")
    if plain < min(usual, backslash) and enclosed < usual:
        return "none"
    return "backslash" if backslash < usual else None


def _broken(path: Path, codec: str, quoting: Quoting) -> tuple[int, int, bool]:
    """Rows that cannot be read so, fields that begin and end with a quote nevertheless, and whether the
    last row is one that cannot be read."""
    layout = Layout(codec, quoting)
    header = header_of(path, codec, layout)
    broken = enclosed = 0
    last = False
    for record in _records_of(path, codec, layout, header):
        last = record.fields is None
        broken += last
        fields = record.fields or ()
        enclosed += sum(len(f) > 1 and f[0] == f[-1] == '"' for f in fields)
    return broken, enclosed, last


class Record(NamedTuple):
    """The fields of a record, or why there are none, and how many lines it spans."""

    fields: list[str] | None
    lines: int
    fault: str = ""


def _records_of(path: Path, codec: str, layout: Layout, header: Header) -> Iterator[Record]:
    with text_of(path, codec) as lines:
        _read_header(lines, layout, header.delimiter, header.above)
        for record in _records(
            lines, header.delimiter, len(header.names), layout.quoting or "doubled"
        ):
            if record.fields is None or all(map(is_text, record.fields)):
                yield record
            else:
                yield Record(
                    None, record.lines, "it has bytes that are not valid in the file's encoding."
                )


def _records(
    lines: Iterator[str], delimiter: str, width: int, quoting: Quoting
) -> Iterator[Record]:
    """Each record, and one without fields for each line at which none of `width` fields begins."""
    ahead: deque[str] = deque()
    blank = 0
    while True:
        if not ahead:
            line = next(lines, None)
            if line is None:
                return
            ahead.append(line)
        line = ahead[0]
        bare = line.rstrip("\r\n")
        if not bare:
            ahead.popleft()
            blank += width == 1
            continue
        # In a table of one column a blank line is a record, unless nothing follows.
        yield from [Record([""], 1)] * blank
        blank = 0
        if quoting == "none" or '"' not in line:
            found: tuple[list[str], int] | None = bare.split(delimiter), 1
        else:
            found = _record(ahead, lines, delimiter, quoting)
        fields, used = found or ([], 1)
        if len(fields) > width and not any(fields[width:]):
            fields = fields[:width]
        if len(fields) == width:
            yield Record(fields, used)
        else:
            used = 1
            yield Record(None, 1, _fault(found, width, bare))
        for _ in range(used):
            ahead.popleft()


def _fault(found: tuple[list[str], int] | None, width: int, line: str) -> str:
    what = (
        "a quote in it is not closed"
        if found is None
        else f"expected {width} columns, got {len(found[0])}"
    )
    return (
        f"{what}. The row begins {line[:60]!r}. Quote a field that holds the delimiter, a quote or a line "
        'end ("..."), and close every quote.'
    )


def _record(
    ahead: deque[str], lines: Iterator[str], delimiter: str, quoting: Quoting
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
                elif quoting == "backslash" and _escaped(line, at, quote):
                    parts.append(line[at : quote + 1])
                    at = quote + 1
                elif line.startswith('"', quote + 1):
                    parts.append(line[at : quote + 1])
                    at = quote + 2
                else:
                    parts.append(line[at:quote])
                    at = quote + 1
                    break
            field = "".join(parts)
            fields.append(_BACKSLASHED.sub(r"\1", field) if quoting == "backslash" else field)
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


def _escaped(line: str, at: int, quote: int) -> bool:
    """Whether an odd number of backslashes stands before the quote, from place `at` on."""
    before = line[at:quote]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1
