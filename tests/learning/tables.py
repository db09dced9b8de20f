"""Rows written in every format, and read: what tests of data files share."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest
from hypothesis import strategies as st

from umbel.errors import DataError
from umbel.job import DataSpec
from umbel.learning.data import Corpus, load_corpus

ROWS = [
    {"text": 'It rained, and "rained"\non.', "label": "bad"},
    {"text": "Ein schöner Tag", "label": "good"},
    {"text": "又晴了", "label": "good"},
]

LINES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


def as_delimited(path: Path, rows: list[dict[str, Any]], delimiter: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def as_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def as_dataset(
    path: Path,
    rows: list[dict[str, Any]],
    features: dict[str, Any] | None = None,
    files: int = 2,
) -> None:
    """What save_to_disk of `datasets` writes: stream files, their list, and the column types."""
    path.mkdir(parents=True)
    table = pa.Table.from_pylist(rows)
    entries = []
    for number, part in enumerate(np.array_split(np.arange(len(rows)), files)):
        name = f"data-{number:05d}-of-{files:05d}.arrow"
        entries.append({"filename": name})
        with (path / name).open("wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table.take(part))
    (path / "state.json").write_text(json.dumps({"_data_files": entries, "_split": None}))
    (path / "dataset_info.json").write_text(json.dumps({"features": features or {}}))


def as_datasets(path: Path, **splits: list[dict[str, Any]]) -> None:
    for name, rows in splits.items():
        as_dataset(path / name, rows)
    (path / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))


def load(path: Path, client_column: str | None = None, **spec: Any) -> Corpus:
    return load_corpus(
        DataSpec(path=str(path), **spec), "text-classification", client_column=client_column
    )


def refusal(path: Path, client_column: str | None = None, **spec: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(path, client_column, **spec)
    message = str(caught.value)
    assert "\n" not in message
    return message


def csv_file(folder: Path, content: str | bytes) -> Path:
    path = folder / "rows.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path
