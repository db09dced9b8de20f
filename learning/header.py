"""Names of the columns of a data file, without reading the data: for a quick look beforehand."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from ..errors import DataError
from .delimited import DELIMITED, header_of
from .signatures import no_dataset, unknown_format
from .tables import split_names

_LINES = 1000
"""JSON objects may leave out what they have no value for, so more than the first is looked at."""


def column_names(path: Path) -> list[str]:
    """The columns of any source that ``read_table`` reads; ``DataError`` for one that it cannot.

    A file that passes may still have a row that is refused when it is read.
    """
    if not path.exists():
        raise DataError(f"There is no data file {path}. Check the path.")
    try:
        names = _names(path)
    except (OSError, ValueError, KeyError, TypeError, csv.Error, pa.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read: {str(error)[:200].rstrip('.')}. Write the data again."
        ) from None
    if not names:
        raise DataError(f"{path} has no columns: it is empty. Write the data again.")
    return names


def _names(path: Path) -> list[str]:
    if path.is_dir():
        return _folder_names(path)
    suffix = path.suffix.lower()
    if suffix in DELIMITED:
        return header_of(path)[1]
    if suffix in (".jsonl", ".ndjson"):
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            records = map(_record, itertools.islice(file, _LINES))
            return list(dict.fromkeys(key for record in records for key in record))
    if suffix == ".parquet":
        return list(pyarrow.parquet.read_schema(path).names)
    raise unknown_format(path)


def _record(line: str) -> dict[str, object]:
    """A line's object; one that cannot be read names no columns."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _folder_names(path: Path) -> list[str]:
    splits = split_names(path)
    if splits is not None:
        path = path / (splits[0] if len(splits) == 1 else "train")
    if not (path / "state.json").is_file():
        raise DataError(no_dataset(path))
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    first = path / state["_data_files"][0]["filename"]
    with pa.OSFile(str(first)) as file:
        return list(pa.ipc.open_stream(file).schema.names)
