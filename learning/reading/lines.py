"""Read fields of JSON records: one object a line, or a document that is a list of objects.

Lines are the form in which no record affects another. A file named ``.json`` is a list if all of it is one,
which no single record of several lines can make it; else it is read as lines.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ...errors import DataError
from .cells import cell, reason
from .columns import check_columns
from .encoding import text_of
from .nested import has, list_paths, paths, value_at
from .packing import ending

JSON = (".jsonl", ".ndjson", ".json")

_LOOK = 1000
"""JSON objects may leave out fields without a value, so more than the first one is read."""
_LISTED = 60
_EXAMPLE = '{"text": "...", "label": "..."}'


@dataclass(frozen=True)
class Lines:
    """Fields of all records, and what could not be read; `unit` is what the numbers count."""

    unit: str
    numbers: list[int]
    columns: dict[str, list[str | None]]
    faults: dict[int, str]


def read_lines(
    path: Path,
    codec: str,
    text: str | None,
    required: list[str],
    extra: list[str],
    lenient: bool,
    nested: Collection[str | None] = (),
) -> Lines:
    """Fields `required` and `extra`; unless `lenient`, ``DataError`` for one that no record has.

    nested: fields that may hold lists and objects, which become JSON.
    """
    wanted = required + extra
    values: dict[str, list[str | None]] = {name: [] for name in wanted}
    numbers: list[int] = []
    faults: dict[int, str] = {}
    seen: set[str] = set()
    there: dict[str, None] = {}
    unit, records, parse = _records(path, codec)
    for number, found in records:
        cells: dict[str, str | None] = dict.fromkeys(wanted)
        try:
            record = _object(parse(found))
            cells |= {
                one: cell(one, value_at(record, one), one == text, one in nested)
                for one in required
            }
            cells |= {one: _if_readable(one, value_at(record, one)) for one in extra}
        except Exception as error:
            # Not DataError alone: deep nests and huge numbers fail in ways of their own.
            faults[len(numbers)] = reason(error)
            cells = dict.fromkeys(wanted)
        else:
            seen |= {name for name in wanted if name not in seen and has(record, name)}
            if len(there) < _LISTED:
                there.update(dict.fromkeys(paths(record)))
        numbers.append(number)
        for name in wanted:
            values[name].append(cells[name])
    if numbers and not lenient and len(faults) < len(numbers):
        check_columns(str(path), required, list(dict.fromkeys([*there, *seen])))
    columns = {name: column for name, column in values.items() if name in required or name in seen}
    return Lines(unit, numbers, columns, faults)


def field_names(path: Path, codec: str) -> list[str]:
    """The fields of the first records, those within others by their paths."""
    return list(dict.fromkeys(name for one in _first(path, codec) for name in paths(one)))


def list_names(path: Path, codec: str) -> list[str]:
    """The fields that hold lists in the first records and never a single value: they are not read."""
    first = list(_first(path, codec))
    single = {name for one in first for name in paths(one)}
    return [
        n for n in dict.fromkeys(n for one in first for n in list_paths(one)) if n not in single
    ]


def _first(path: Path, codec: str) -> Iterator[dict[str, Any]]:
    """The first records; what cannot be read names no columns, and is left out."""
    _, records, parse = _records(path, codec)
    for _, found in islice(records, _LOOK):
        with contextlib.suppress(DataError, RecursionError):
            yield _object(parse(found))


def _records(path: Path, codec: str) -> tuple[str, Iterator[tuple[int, Any]], Callable[[Any], Any]]:
    """What counts the records, the records, and what makes a value of one: lines are texts."""
    if ending(path) == ".json":
        listed = _document(path, codec)
        if listed is not None:
            return "record", iter(enumerate(listed, start=1)), lambda value: value
    return "line", _lines(path, codec), _parsed


def _lines(path: Path, codec: str) -> Iterator[tuple[int, str]]:
    with text_of(path, codec, newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, line


def _document(path: Path, codec: str) -> Iterable[Any] | None:
    """The list that a document is, or that its only field with a list holds; None for anything else."""
    with text_of(path, codec) as text:
        try:
            found = json.loads(text.read())
        except (ValueError, RecursionError):
            return None
    if isinstance(found, dict):
        lists = [value for value in found.values() if isinstance(value, list)]
        found = lists[0] if len(lists) == 1 else None
    return found if isinstance(found, list) else None


def _object(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise DataError(
            f"it is a JSON {type(found).__name__}, not an object. Write one object per line, such as "
            f"{_EXAMPLE}."
        )
    return found


def _parsed(line: str) -> Any:
    try:
        line.encode()
        return json.loads(line)
    except UnicodeEncodeError:
        raise DataError("it has bytes that are not valid in the file's encoding.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"it is not valid JSON: {error}. Each line must hold one JSON object, such as {_EXAMPLE}."
        ) from None


def _if_readable(name: str, value: Any) -> str | None:
    try:
        return cell(name, value, False)
    except DataError:
        return None
