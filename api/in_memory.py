"""Tables in memory as files of the cache, which every later part reads like any other file."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from ..storage.cache import cache_folder
from ..storage.files import write_durably

if TYPE_CHECKING:
    import pyarrow as pa

TEST = "test"
TRAIN = "train"


def table_files(source: Any) -> dict[str, Path]:
    """The files of a table, or of several that stand apart: by job key, ``data.path`` and ``data.test_path``.

    source: see ``table_file``; or a mapping of such tables by the name of a split, as a ``DatasetDict`` of
    ``datasets`` is. As in a saved one, "train" (or the only one) is trained on, and tests use "test", if
    there is one. Raises ``DataError``.
    """
    if not isinstance(source, Mapping) or not source or not all(map(_is_table, source.values())):
        return {"data.path": table_file(source)}
    splits = {str(name): table for name, table in source.items()}
    trained = TRAIN if TRAIN in splits or len(splits) > 1 else next(iter(splits))
    if trained not in splits:
        raise DataError(
            f"None of the tables is called {TRAIN!r}, but {', '.join(map(repr, splits))}. Give one of "
            f'them, or a mapping {{"{TRAIN}": ..., "{TEST}": ...}}.'
        )
    found = {"data.path": table_file(splits[trained])}
    if trained == TRAIN and TEST in splits:
        found["data.test_path"] = table_file(splits[TEST])
    return found


def _is_table(value: Any) -> bool:
    """Whether it has columns of its own, so that it is not a column (a list is a column)."""
    return hasattr(value, "column_names") or hasattr(value, "columns")


def table_file(table: Any) -> Path:
    """A Parquet file in the cache with the content of `table`; the same table is written once.

    table: a pandas, polars or pyarrow table, a dataset of ``datasets``, records (mappings) in a list, a
    tuple or one after the other from a generator, or a mapping of columns. Raises ``DataError`` for anything
    else.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        if isinstance(table, Mapping):
            found = _by_column(table)
        elif isinstance(table, list | tuple | Iterator):
            found = _of_records(list(table))
        elif hasattr(table, "iloc") and hasattr(table, "columns"):
            # Of pandas, whose columns may hold values of several types.
            names = dict.fromkeys(map(str, table.columns))
            if len(names) < len(table.columns):
                raise ValueError("two of its columns have one name")
            found = _by_column({str(name): column for name, column in table.items()})
        elif hasattr(table, "__arrow_c_stream__"):
            found = pa.table(table)
        elif hasattr(table, "collect_schema"):  # polars, of which nothing is computed yet
            found = pa.table(table.collect())
        elif hasattr(table, "to_parquet"):
            return _kept(_written(table.to_parquet))
        else:
            raise TypeError(f"{type(table).__name__} is not a table")
    except (AttributeError, TypeError, ValueError, pa.ArrowException) as error:
        raise DataError(
            f"This cannot be read as a table: {error}. Give a file, a data frame (pandas, polars, "
            'pyarrow), a dataset of the library "datasets", a list of records such as {"text": ..., '
            '"label": ...}, or a mapping of columns.'
        ) from None
    return _kept(_written(lambda stream: parquet.write_table(found, stream)))


def _of_records(records: list[Any]) -> pa.Table:
    for number, record in enumerate(records, 1):
        if not isinstance(record, Mapping):
            raise TypeError(f"record {number} is {type(record).__name__}, which names no columns")
    names = dict.fromkeys(name for record in records for name in record)
    return _by_column({name: [record.get(name) for record in records] for name in names})


def _by_column(columns: Mapping[str, Any]) -> pa.Table:
    """A table in which a column with values of several types, which no format has, is one of text."""
    import pyarrow as pa

    return pa.table({name: _column(values) for name, values in columns.items()})


def _column(values: Any) -> Any:
    import pyarrow as pa

    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    try:
        return pa.array(values, from_pandas=True)
    except (TypeError, pa.ArrowException):
        missing = [value is None or value != value for value in values]
        texts = [
            None if gone else _said(value) for value, gone in zip(values, missing, strict=True)
        ]
        return pa.array(texts, pa.string())


def _said(value: Any) -> str:
    """As a file of text has a value: lists and objects, such as dialogues, in JSON."""
    return json.dumps(value, default=str) if isinstance(value, list | tuple | dict) else str(value)


def _written(write: Any) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def _kept(content: bytes) -> Path:
    path = cache_folder("tables") / f"{hashlib.sha256(content).hexdigest()[:32]}.parquet"
    if not path.exists():
        write_durably(path, content, secret=True)
    return path
