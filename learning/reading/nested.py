"""A field within a field, by a dotted path: ``doc.text`` is the text of {"doc": {"text": "..."}}.

A field whose own name has dots comes first. Guarantee: what a path finds in a record follows from this
record alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .cells import single

_DEPTH = 8


def has(record: Mapping[str, Any], path: str) -> bool:
    """Whether a record has a field."""
    try:
        _at(record, path)
    except KeyError:
        return False
    return True


def value_at(record: Mapping[str, Any], path: str) -> Any:
    """The value of a field; None if there is none."""
    try:
        return _at(record, path)
    except KeyError:
        return None


def _at(record: Mapping[str, Any], path: str) -> Any:
    if path in record:
        return record[path]
    found: Any = record
    for part in path.split("."):
        if not isinstance(found, Mapping):
            raise KeyError(path)
        found = found[part]
    return found


def paths(record: Mapping[str, Any]) -> Iterator[str]:
    """The fields of a record that hold single values, those within others by their paths.

    A list of one value is this value (``cells.single``).
    """
    return (path for path, value in _fields(record) if not isinstance(single(value), list))


def list_paths(record: Mapping[str, Any]) -> Iterator[str]:
    """Those that hold lists of several values, which are not read."""
    return (path for path, value in _fields(record) if isinstance(single(value), list))


def _fields(
    record: Mapping[str, Any], before: str = "", depth: int = _DEPTH
) -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        if isinstance(value, Mapping) and depth:
            yield from _fields(value, f"{before}{name}.", depth - 1)
        else:
            yield f"{before}{name}", value


def schema_paths(schema: pa.Schema) -> list[str]:
    """The same of an Arrow schema."""
    return [path for field in schema for path in _field_paths(field, "")]


def unread_paths(schema: pa.Schema) -> list[str]:
    """The fields of an Arrow schema that hold no single value: lists, maps and bytes."""
    return [path for field in schema for path in _unread(field, "")]


def _unread(field: pa.Field, before: str) -> Iterator[str]:
    name, kind = f"{before}{field.name}", field.type
    if pa.types.is_struct(kind):
        for inner in kind:
            yield from _unread(inner, f"{name}.")
    elif pa.types.is_nested(kind) or any(
        is_bytes(kind)
        for is_bytes in (
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_fixed_size_binary,
        )
    ):
        yield name


def _field_paths(field: pa.Field, before: str) -> Iterator[str]:
    name = f"{before}{field.name}"
    if pa.types.is_struct(field.type):
        for inner in field.type:
            yield from _field_paths(inner, f"{name}.")
    else:
        yield name


def root(path: str, names: list[str]) -> str:
    """The column of a table that holds a field."""
    return path if path in names else path.split(".")[0]


def column_at(table: pa.Table, path: str) -> pa.ChunkedArray:
    """The values of a field of a table."""
    if path in table.schema.names:
        return table[path]
    first, *rest = path.split(".")
    return pc.struct_field(table[first], rest)
