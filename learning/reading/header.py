"""Names of the columns of a data file, without reading the data: for a quick look beforehand."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc

from ...errors import DataError
from . import text_files
from .arrow_files import ARROW, arrow_schema, split_names, unread_in
from .conll import CONLL, conll_columns
from .delimited import DELIMITED, header_of
from .encoding import usual_codec
from .layout import USUAL, Layout
from .lines import JSON, field_names, list_names
from .nested import schema_paths
from .packing import ending
from .picture_files import COLUMNS, is_picture_folder
from .sheet import SHEETS, refuse_sheet, sheet_columns
from .signatures import no_dataset, unknown_format


def column_names(
    path: Path,
    layout: Layout = USUAL,
    wanted: Sequence[str] = (),
    pictures: bool = False,
    nested: bool = False,
) -> list[str]:
    """The columns of any source that ``read_table`` reads; ``DataError`` for one that it cannot.

    wanted: columns that are asked for, by which a header, or the sheet of a workbook, is told.

    pictures: whether it may be a folder or an archive of pictures. nested: also those that hold lists.

    A file that passes may still have a row that is refused when it is read.
    """
    if not path.exists():
        raise DataError(f"There is no data file {path}. Check the path.")
    refuse_sheet(path, layout)
    try:
        if pictures and is_picture_folder(path):
            return list(COLUMNS)
        names = _names(path, layout, wanted)
        if nested:
            names = list(dict.fromkeys([*names, *unread_columns(path, layout)]))
    except (OSError, ValueError, KeyError, TypeError, csv.Error, pa.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read: {str(error)[:200].rstrip('.')}. Write the data again."
        ) from None
    if not names:
        raise DataError(
            f"{path} has no columns: it is empty, or has no records. Write the data again."
        )
    return names


def unread_columns(path: Path, layout: Layout = USUAL) -> list[str]:
    """Columns that hold what is not read: lists of several values, and in Arrow files maps and bytes."""
    if path.is_dir():
        return []
    if ending(path) in JSON:
        return list_names(path, usual_codec(path, layout.encoding))
    return unread_in(path) if ending(path) in ARROW else []


def _names(path: Path, layout: Layout, wanted: Sequence[str]) -> list[str]:
    if path.is_dir():
        return list(text_files.COLUMNS) if text_files.holds_texts(path) else _folder_names(path)
    suffix = ending(path)
    if suffix in SHEETS:
        return sheet_columns(path, wanted, layout.sheet)
    if suffix in ARROW:
        return schema_paths(arrow_schema(path))
    if suffix in DELIMITED:
        return header_of(path, usual_codec(path, layout.encoding), layout, wanted).names
    if suffix in CONLL:
        return conll_columns(path, usual_codec(path, layout.encoding), wanted)
    if suffix in JSON:
        return field_names(path, usual_codec(path, layout.encoding))
    raise unknown_format(path)


def _folder_names(path: Path) -> list[str]:
    splits = split_names(path)
    if splits is not None:
        path = path / (splits[0] if len(splits) == 1 else "train")
    if not (path / "state.json").is_file():
        raise DataError(no_dataset(path))
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    first = path / state["_data_files"][0]["filename"]
    with pa.OSFile(str(first)) as file:
        return schema_paths(pa.ipc.open_stream(file).schema)
