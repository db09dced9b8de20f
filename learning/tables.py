"""Read named columns of a data file, or of a saved Hugging Face dataset, as strings.

The format follows from the name: ``.csv``, ``.tsv`` (quoted like CSV, as spreadsheets and pandas
write it; the header says what separates the columns), ``.jsonl`` or ``.ndjson``, ``.parquet``, and a
folder that ``datasets`` wrote with ``save_to_disk``. Every failure is a ``DataError`` that says what
is wrong, where, and what to do.
"""

from __future__ import annotations

import codecs
import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from ..errors import DataError
from .cells import arrow_cells, cell
from .columns import check_columns
from .delimited import DELIMITED, read_delimited
from .encoding import check_utf8
from .signatures import no_dataset, refuse_other_kinds, unknown_format

_JSON_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Table:
    """Columns of one source, all of the same length; None stands for a missing value."""

    source: str
    unit: str
    numbers: Sequence[int]
    columns: dict[str, list[str | None]]

    def __len__(self) -> int:
        return len(self.numbers)

    def place(self, row: int) -> str:
        """Where row `row` stands, in words: ``reviews.csv, row 12``."""
        return f"{self.source}, {self.unit} {self.numbers[row]}"

    def take(self, rows: Sequence[int]) -> Table:
        """The given rows, which keep their places in the source."""
        return Table(
            self.source,
            self.unit,
            [self.numbers[row] for row in rows],
            {name: [values[row] for row in rows] for name, values in self.columns.items()},
        )


def read_table(
    path: Path,
    text: str,
    others: Sequence[str] = (),
    optional: Sequence[str] = (),
    split: str | None = None,
    *,
    lenient: bool = False,
) -> Table:
    """Read column `text`, which must hold strings, and `others`, whose values become strings.

    Columns in `optional` are read where they exist. `split` picks a split of a dataset folder;
    None takes "train", or the only one there is.

    `lenient`: a record that cannot be read stands without values, and a table may be empty, so that
    no single record makes this fail. A record is a row of Parquet or of a saved dataset, a line of
    JSON, and of CSV and TSV what ``delimited`` says. Guarantee: none but the record itself is
    affected by what it holds (in CSV and TSV, by an open quote, lines near it may be). Assumption:
    the file as such is whole: what Parquet and Arrow keep beside the values can be read.
    """
    required = list(dict.fromkeys([text, *others]))
    extra = [name for name in dict.fromkeys(optional) if name not in required]
    if not path.exists():
        raise DataError(f"There is no data file {path}.{_near_file(path)}")
    if path.is_dir():
        return _filled(_read_folder(path, text, required, extra, split, lenient), lenient)
    if path.stat().st_size == 0 and not lenient:
        raise DataError(f"{path} is empty: it has no bytes at all. Write the data again.")
    if not lenient:
        refuse_other_kinds(path)
    suffix = path.suffix.lower()
    if suffix in DELIMITED:
        rows = read_delimited(path, required, extra, lenient)
        return _filled(Table(str(path), "row", *rows), lenient)
    if suffix in _JSON_LINES:
        return _filled(_read_json_lines(path, text, required, extra, lenient), lenient)
    if suffix == ".parquet":
        return _filled(_read_parquet(path, text, required, extra, lenient), lenient)
    raise unknown_format(path)


def split_names(path: Path) -> list[str] | None:
    """The splits of a saved DatasetDict; None for anything else."""
    description = path / "dataset_dict.json"
    if not description.is_file():
        return None
    names = _read_description(description).get("splits")
    if not isinstance(names, list) or not names:
        raise DataError(f"{description} names no splits. Save the dataset again.")
    return [str(name) for name in names]


def _read_json_lines(
    path: Path, text: str, required: list[str], extra: list[str], lenient: bool
) -> Table:
    if not lenient:
        check_utf8(path)
    wanted = required + extra
    values: dict[str, list[str | None]] = {name: [] for name in wanted}
    numbers: list[int] = []
    seen: dict[str, None] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            place = f"{path}, line {number}"
            cells: dict[str, str | None] = dict.fromkeys(wanted)
            try:
                record = _parse_json_line(place, line)
                cells = {one: cell(place, one, record.get(one), one == text) for one in wanted}
            except Exception:
                # Not DataError alone: deep nests and huge numbers fail in ways of their own.
                if not lenient:
                    raise
            else:
                seen.update(dict.fromkeys(record))
            numbers.append(number)
            for name in wanted:
                values[name].append(cells[name])
    if numbers and not lenient:
        check_columns(str(path), required, list(seen))
    return Table(
        str(path),
        "line",
        numbers,
        {name: column for name, column in values.items() if name in required or name in seen},
    )


def _parse_json_line(place: str, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{place} is not valid JSON: {error}. Each line must hold one JSON object, such as "
            '{"text": "...", "label": "..."}.'
        ) from None
    if not isinstance(record, dict):
        raise DataError(
            f"{place} holds a JSON {type(record).__name__}, not an object. Write one object a "
            'line, such as {"text": "...", "label": "..."}.'
        )
    return record


def _read_parquet(
    path: Path, text: str, required: list[str], extra: list[str], lenient: bool
) -> Table:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            found = file.schema_arrow.names
            check_columns(str(path), required, found)
            table = file.read(required + [name for name in extra if name in found])
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet: {str(error)[:200].rstrip('.')}. Write it again."
        ) from None
    return _from_arrow(str(path), table, text, _features(table.schema), lenient)


def _read_folder(
    path: Path, text: str, required: list[str], extra: list[str], split: str | None, lenient: bool
) -> Table:
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
            f"{path} keeps a selection of rows beside the data. Call dataset.flatten_indices() "
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
    check_columns(str(path), required, table.schema.names)
    features = _features(table.schema)
    if (path / "dataset_info.json").is_file():
        features = _read_description(path / "dataset_info.json").get("features") or features
    columns = required + [name for name in extra if name in table.schema.names]
    return _from_arrow(str(path), table.select(columns), text, features, lenient)


def _from_arrow(
    source: str, table: pa.Table, text: str, features: dict[str, Any], lenient: bool
) -> Table:
    columns: dict[str, list[str | None]] = {}
    unreadable: set[int] | None = set() if lenient else None
    for name in table.schema.names:
        feature = features.get(name)
        classes = feature.get("names") if isinstance(feature, dict) else None
        if not isinstance(classes, list):
            classes = None
        is_text = name == text
        columns[name] = arrow_cells(source, name, table[name], classes, is_text, unreadable)
    for row in unreadable or ():
        for values in columns.values():
            values[row] = None
    return Table(source, "row", range(1, table.num_rows + 1), columns)


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


def _filled(table: Table, lenient: bool) -> Table:
    if len(table) == 0 and not lenient:
        raise DataError(f"{table.source} has no rows after its header. Add rows, or fix the path.")
    return table


def _near_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f" Its folder {path.parent} does not exist either. Check data.path."
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()], n=1)
    return f" Did you mean {path.parent / near[0]}?" if near else " Check data.path."
