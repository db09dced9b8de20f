"""Read columns of Parquet and Feather (Arrow) files, and of folders that ``datasets`` saved."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet

from ...errors import DataError
from .cells import arrow_cells, is_list
from .columns import check_columns
from .nested import column_at, root, schema_paths, unread_paths
from .packing import ending, seekable
from .picture_files import bytes_of
from .signatures import no_dataset
from .table import Table

ARROW = (".parquet", ".feather", ".arrow")

_LOOK = 1000
"""Rows by which it is told whether lists hold one value each."""


def read_arrow(
    path: Path,
    text: str | None,
    required: list[str],
    extra: list[str],
    pictures: bool = False,
    nested: Collection[str | None] = (),
) -> Table:
    """Columns of a Parquet or Feather file; `pictures`: column `text` may hold the bytes of such files;
    `nested`: columns that may hold lists and structures, which become JSON."""
    try:
        schema = arrow_schema(path)
        columns = _there(str(path), schema, required, extra)
        roots = list(dict.fromkeys(root(name, schema.names) for name in columns))
        source = _source(path)
        if ending(path) == ".parquet":
            with pyarrow.parquet.ParquetFile(source) as file:
                table = file.read(roots)
        else:
            table = pyarrow.feather.read_table(source, columns=roots, memory_map=False)
    except (pa.ArrowException, OSError) as error:
        kind = "Parquet" if ending(path) == ".parquet" else "Feather"
        raise DataError(
            f"{path} cannot be read as {kind}: {str(error)[:200].rstrip('.')}. Write it again."
        ) from None
    return _table(str(path), table, text, columns, extra, _features(table.schema), pictures, nested)


def arrow_schema(path: Path) -> pa.Schema:
    """The columns of a Parquet or Feather file, without its values."""
    if ending(path) == ".parquet":
        return pyarrow.parquet.read_schema(_source(path))
    with pa.ipc.open_file(_source(path)) as file:
        return file.schema


def unread_in(path: Path) -> list[str]:
    """Columns of a Parquet or Feather file that hold maps, bytes, or, at first, no list of one value."""
    unread = unread_paths(arrow_schema(path))
    if not unread:
        return []
    if ending(path) == ".parquet":
        with pyarrow.parquet.ParquetFile(_source(path)) as file:
            head = next(file.iter_batches(_LOOK), None)
    else:
        with pa.ipc.open_file(_source(path)) as file:
            head = file.get_batch(0).slice(0, _LOOK) if file.num_record_batches else None
    if head is None:
        return unread
    table = pa.Table.from_batches([head])
    return [name for name in unread if not _holds_single(column_at(table, name))]


def _holds_single(column: pa.ChunkedArray) -> bool:
    """Whether any value is a list of one value that can be read."""
    if not is_list(column.type) or unread_paths(pa.schema([pa.field("", column.type.value_type)])):
        return False
    return pc.index(pc.list_value_length(column), 1).as_py() >= 0


def split_names(path: Path) -> list[str] | None:
    """The splits of a saved DatasetDict; None for anything else."""
    description = path / "dataset_dict.json"
    if not description.is_file():
        return None
    names = _read_description(description).get("splits")
    if not isinstance(names, list) or not names:
        raise DataError(f"{description} names no splits. Save the dataset again.")
    return [str(name) for name in names]


def read_folder(
    path: Path,
    text: str | None,
    required: list[str],
    extra: list[str],
    split: str | None,
    pictures: bool = False,
    nested: Collection[str | None] = (),
) -> Table:
    """Columns of a saved dataset, or of the split of several that `split` names."""
    names = split_names(path)
    if names is not None:
        split = split or (names[0] if len(names) == 1 else "train")
        if split not in names:
            raise DataError(
                f"{path} has no split {split!r}. Its splits: {', '.join(names)}. Point data.path "
                "or data.test_path to the folder of one of them."
            )
        path = path / split
    state = path / "state.json"
    if not state.is_file():
        raise DataError(no_dataset(path))
    description = _read_description(state)
    if description.get("_indices_data_files") or description.get("_indices_files"):
        raise DataError(
            f"{path} keeps a selection of rows apart from the data. Call dataset.flatten_indices() "
            "and save it again."
        )
    try:
        parts = []
        for entry in description["_data_files"]:
            with pa.OSFile(str(path / entry["filename"])) as file:
                parts.append(pa.ipc.open_stream(file).read_all())
        if not parts:
            raise DataError(f"{path} lists no data files in state.json, so it has no rows.")
        table = pa.concat_tables(parts)
    except (KeyError, TypeError, pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} is not a complete saved dataset: {str(error)[:200]}. Save it again."
        ) from None
    columns = _there(str(path), table.schema, required, extra)
    features = _features(table.schema)
    if (path / "dataset_info.json").is_file():
        features = _read_description(path / "dataset_info.json").get("features") or features
    return _table(str(path), table, text, columns, extra, features, pictures, nested)


def _source(path: Path) -> Any:
    source = seekable(path)
    return str(source) if isinstance(source, Path) else pa.py_buffer(source.getbuffer())


def _there(source: str, schema: pa.Schema, required: list[str], extra: list[str]) -> list[str]:
    """The columns to read: all that are required, and what there is of the others."""
    found = list(dict.fromkeys([*schema.names, *schema_paths(schema)]))
    doubled = [name for name in schema.names if schema.names.count(name) > 1]
    check_columns(source, required, [*found, *doubled])
    return required + [name for name in extra if name in found and name not in doubled]


def _table(
    source: str,
    table: pa.Table,
    text: str | None,
    columns: Sequence[str],
    extra: Sequence[str],
    features: dict[str, Any],
    pictures: bool,
    nested: Collection[str | None],
) -> Table:
    values: dict[str, list[str | None]] = {}
    faults: dict[int, str] = {}
    for name in columns:
        feature = features.get(name)
        if isinstance(feature, dict):  # of a list, what its values are
            feature = feature.get("feature", feature)
        classes = feature.get("names") if isinstance(feature, dict) else None
        if not isinstance(classes, list):
            classes = None
        # What is optional is missing if it cannot be read.
        missed = {} if name in extra else faults
        if pictures and name == text and (held := bytes_of(column_at(table, name))) is not None:
            values[name] = held
            continue
        column = column_at(table, name)
        values[name] = arrow_cells(name, column, classes, name == text, missed, name in nested)
    for row in faults:
        for column in values.values():
            column[row] = None
    return Table(source, "row", range(1, table.num_rows + 1), values, faults)


def _features(schema: pa.Schema) -> dict[str, Any]:
    """The column types that `datasets` leaves in Arrow and Parquet metadata, if any."""
    try:
        info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        return dict(info["info"]["features"])
    except (ValueError, KeyError, TypeError):
        return {}


def _read_description(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}. Save the dataset again.") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} is not the description of a dataset. Save the dataset again.")
    return value
