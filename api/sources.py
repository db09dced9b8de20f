"""From a job, a job file, a data file or a table in memory to a job."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from ..job import Job, dotted
from ..storage.cache import cache_folder
from ..storage.files import write_durably

if TYPE_CHECKING:
    import pyarrow as pa


def as_job(source: Any, sections: Mapping[str, Any]) -> Job:
    """A job from `source`, changed by `sections`.

    source: a ``Job``; a path that ends in .toml, a job file; any other path, the data of a job; else
    a table: see ``table_file``. Without a job file the recipe chooses the values that `sections` do not set.
    sections: ``training={"rounds": 3}``, or dotted keys, ``**{"training.rounds": 3}``.
    Raises ``JobError`` or ``DataError``.
    """
    given = dict(dotted(sections))
    if isinstance(source, Job):
        return source.changed(given) if given else source
    if isinstance(source, str | Path) and Path(source).suffix == ".toml":
        return Job.compose(Path(source), given)
    from ..simulations.first import first_job

    if isinstance(source, str | Path):
        return first_job({"data.path": str(source)} | given)
    path = table_file(source)
    job = first_job({"data.path": str(path), "name": "table"} | given)
    if job.data.path == str(path):
        _check_columns(path, job)
    return job


def _check_columns(path: Path, job: Job) -> None:
    """Refuse a table without the job's columns: later it is a file of the cache, whose name says nothing."""
    from ..learning.reading.arrow_files import arrow_schema
    from ..learning.reading.columns import check_columns
    from ..learning.reading.nested import schema_paths

    schema = arrow_schema(path)
    wanted = [job.data.text_column, *([job.data.label_column] if job.kind.labelled else [])]
    found = dict.fromkeys([*schema.names, *schema_paths(schema)])
    check_columns("The table", [name for name in wanted if name], list(found))


def table_file(table: Any) -> Path:
    """A Parquet file in the cache with the content of `table`; the same table is written once.

    table: a pandas, polars or pyarrow table, a dataset of ``datasets``, a list of records, or a mapping
    of columns. Raises ``DataError`` for anything else.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        if isinstance(table, Mapping):
            found = _by_column(table)
        elif isinstance(table, list):
            names = dict.fromkeys(name for row in table for name in row)
            found = _by_column({name: [row.get(name) for row in table] for name in names})
        elif hasattr(table, "iloc"):  # pandas: its columns may hold values of several types
            names = dict.fromkeys(map(str, table.columns))
            if len(names) < len(table.columns):
                raise ValueError("two of its columns have one name")
            found = _by_column({str(name): column for name, column in table.items()})
        elif hasattr(table, "__arrow_c_stream__"):
            found = pa.table(table)
        elif hasattr(table, "to_parquet"):
            return _kept(_written(table.to_parquet))
        else:
            raise TypeError(f"{type(table).__name__} is not a table")
    except (AttributeError, TypeError, ValueError, pa.ArrowException) as error:
        raise DataError(
            f"This cannot be read as a table: {error}. Give a file, a data frame (pandas, polars, "
            'pyarrow), a dataset of the library "datasets", a list of records, or a mapping of '
            "columns."
        ) from None
    return _kept(_written(lambda stream: parquet.write_table(found, stream)))


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
        texts = [None if gone else str(value) for value, gone in zip(values, missing, strict=True)]
        return pa.array(texts, pa.string())


def _written(write: Any) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def _kept(content: bytes) -> Path:
    path = cache_folder("tables") / f"{hashlib.sha256(content).hexdigest()[:32]}.parquet"
    if not path.exists():
        write_durably(path, content, secret=True)
    return path
