"""Read CoNLL files: a word on each line with its tags beside it, and a blank line between records.

Columns are separated by tabs, or else by blanks. They have no names: ``"1"`` is the first one, and so on; any
other name of the text column means the first, and of the column of labels the last. A comment before the
words of a record, ``# patient = 7``, is a column of that name. Lines that begin with ``-DOCSTART-`` say
nothing.

Guarantee: a record is the lines between two blank ones, and what becomes of it follows from these alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from ...errors import DataError
from ...quantities import counted
from .encoding import is_text, text_of
from .table import Table

CONLL = (".conll", ".bio", ".bioes", ".iob", ".iob2")

_DOCUMENT = "-DOCSTART-"
_COMMENT = re.compile(r"#\s*([^\s=]+)\s*=\s*(.*)")
_LOOK = 1000
_USUAL = ("text", "label")
_Line = tuple[int, str]


def read_conll(
    path: Path, codec: str, text: str | None, required: Sequence[str], extra: Sequence[str]
) -> Table:
    """Words of `text` and tags of the first other column `required` as lists in JSON, one a record; further
    columns as comments say them."""
    marks = next((name for name in required if name != text), None)
    listed = [name for name in (text, marks) if name is not None]
    beside = [name for name in (*required, *extra) if name not in listed]
    columns: dict[str, list[str | None]] = {name: [] for name in (*listed, *beside)}
    numbers: list[int] = []
    faults: dict[int, str] = {}
    for lines in _records(path, codec):
        comments, words = _parts(lines)
        if not words:
            continue
        found: dict[str, str | None] = {name: comments.get(name) for name in beside}
        try:
            for name in listed:
                found[name] = json.dumps(
                    _column(words, name, last=name == marks), ensure_ascii=False
                )
        except DataError as error:
            faults[len(numbers)] = str(error)
            found = {}
        numbers.append(words[0][0])
        for name, values in columns.items():
            values.append(found.get(name))
    return Table(str(path), "record at line", numbers, columns, faults)


def conll_columns(path: Path, codec: str, wanted: Sequence[str]) -> list[str]:
    """Names that the columns of the first records go by: the first two `wanted`, positions and comments."""
    names: dict[str, None] = {}
    for lines in islice(_records(path, codec), _LOOK):
        comments, words = _parts(lines)
        for _, line in words[:1]:
            names.update(dict.fromkeys(map(str, range(1, len(_cells(line)) + 1))))
        names.update(dict.fromkeys(comments))
    return list(dict.fromkeys([*wanted[:2], *_USUAL, *names])) if names else []


def _records(path: Path, codec: str) -> Iterator[list[_Line]]:
    lines: list[_Line] = []
    with text_of(path, codec, newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                lines.append((number, line.strip("\r\n")))
            elif lines:
                yield lines
                lines = []
    if lines:
        yield lines


def _parts(lines: list[_Line]) -> tuple[dict[str, str], list[_Line]]:
    """The comments before the words of a record, and the lines of its words."""
    comments: dict[str, str] = {}
    words: list[_Line] = []
    for number, line in lines:
        comment = _COMMENT.fullmatch(line.strip()) if not words else None
        if comment is not None:
            comments[comment[1]] = comment[2]
        elif not line.startswith(_DOCUMENT):
            words.append((number, line))
    return comments, words


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("\t")] if "\t" in line else line.split()


def _column(words: list[_Line], name: str, *, last: bool) -> list[str]:
    found = []
    for number, line in words:
        cells = _cells(line)
        place = int(name) - 1 if name.isdecimal() else len(cells) - 1 if last else 0
        if not is_text(line):
            raise DataError(f"its line {number} holds bytes that are not of the file's encoding.")
        if len(cells) < 2 or not 0 <= place < len(cells):
            raise DataError(
                f"its line {number} has {counted(len(cells), 'column')}, but a word and its tag are needed. "
                "Write both on each line, and a blank line between records."
            )
        found.append(cells[place])
    return found
