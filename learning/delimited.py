"""Read columns of a CSV or TSV file, as strings."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from ..errors import DataError
from .columns import check_columns
from .encoding import check_utf8

Rows = tuple[Sequence[int], dict[str, list[str | None]]]
"""Numbers of the rows, counted after the header, and the columns."""

# One block must hold a whole row, however long its text; Arrow's offsets are 32 bits wide.
_LARGEST_BLOCK = 1 << 30


def read_delimited(
    path: Path, delimiter: str, required: list[str], extra: list[str], lenient: bool
) -> Rows:
    """Columns `required`, and those of `extra` that there are; ``DataError`` for what cannot be read.

    `lenient`: a row that cannot be read is left out.
    """
    if not lenient:
        check_utf8(path)
    # pyarrow tells of neither duplicate nor absent columns in a way that helps, so look first.
    errors = "replace" if lenient else "strict"
    with path.open(encoding="utf-8-sig", newline="", errors=errors) as file:
        try:
            header = next((row for row in csv.reader(file, delimiter=delimiter) if row), [])
        except csv.Error as error:
            raise DataError(f"{path} has no header that can be read: {error}.") from None
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
    """All rows; one that has not as many fields as the header, or not UTF-8 alone, has no values."""
    places = {name: header.index(name) for name in columns}
    values: dict[str, list[str | None]] = {name: [] for name in columns}
    numbers: list[int] = []
    csv.field_size_limit(_LARGEST_BLOCK)
    with path.open(encoding="utf-8-sig", newline="", errors="surrogateescape") as file:
        rows = csv.reader(file, delimiter=delimiter)
        begun = False
        for number in itertools.count():
            try:
                row = next(rows)
            except StopIteration:
                break
            except csv.Error:
                row = [""]
            if not begun:
                begun = bool(row)
                continue
            if not row:
                continue
            sound = len(row) == len(header) and all(map(_is_text, row))
            numbers.append(number)
            for name, place in places.items():
                values[name].append(row[place] if sound else None)
    return numbers, values


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
