"""From what somebody has at hand (a job, a job file, a data file, a table in memory) to a job."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..job import Job, dotted
from ..learning.cache import cache_folder
from ..storage.files import write_durably


def as_job(source: Any, sections: Mapping[str, Any]) -> Job:
    """A job from `source`, with `sections` over it.

    source: a ``Job``; a path that ends in .toml, a job file; any other path, the data of a job; else
    a table: see ``table_file``. Without a job file the recipe chooses what `sections` leave open.
    sections: ``training={"rounds": 3}``, or dotted keys, ``**{"training.rounds": 3}``.
    Raises ``JobError`` or ``DataError``.
    """
    given = dict(dotted(sections))
    if isinstance(source, Job):
        return source.changed(given) if given else source
    data = source if isinstance(source, str | Path) else table_file(source)
    if Path(data).suffix == ".toml":
        return Job.compose(Path(data), given)
    from ..simulations.first import first_job

    return first_job({"data.path": str(data)} | given)


def table_file(table: Any) -> Path:
    """A Parquet file in the cache with what `table` holds; the same table is written once.

    table: a pandas, polars or pyarrow table, a dataset of ``datasets``, a list of records, or a mapping
    of columns. Raises ``DataError`` for anything else.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        if isinstance(table, Mapping):
            found = pa.table(dict(table))
        elif isinstance(table, list):
            found = pa.Table.from_pylist(table)
        elif hasattr(table, "__arrow_c_stream__"):
            found = pa.table(table)
        elif hasattr(table, "to_parquet"):
            return _kept(_written(table.to_parquet))
        else:
            raise TypeError(f"{type(table).__name__} is not a table")
    except (AttributeError, TypeError, ValueError, pa.ArrowException) as error:
        raise DataError(
            f"This cannot be read as a table: {error}. Give a file, a data frame (pandas, polars, pyarrow), "
            'a dataset of the library "datasets", a list of records, or a mapping of columns.'
        ) from None
    return _kept(_written(lambda stream: parquet.write_table(found, stream)))


def _written(write: Any) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def _kept(content: bytes) -> Path:
    path = cache_folder("tables") / f"{hashlib.sha256(content).hexdigest()[:32]}.parquet"
    if not path.exists():
        write_durably(path, content, secret=True)
    return path
