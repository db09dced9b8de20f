"""What is not data for a job is refused, with its place and what to do."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest

from .tables import ROWS, as_dataset, as_datasets, as_delimited, csv_file, load, refusal


def test_a_file_with_no_usable_row_is_refused_with_the_reasons(tmp_path: Path) -> None:
    message = refusal(csv_file(tmp_path, "text,label\n ,x\nb,\n"))
    assert "1 with empty text" in message
    assert "1 with no label" in message


def test_an_unclear_split_of_a_saved_dataset_is_refused(tmp_path: Path) -> None:
    as_datasets(tmp_path / "set", first=ROWS, second=ROWS)
    assert "first, second" in refusal(tmp_path / "set")
    as_delimited(tmp_path / "rows.csv", ROWS, ",")
    message = refusal(tmp_path / "rows.csv", test_path=str(tmp_path / "set"))
    assert "none called 'test'" in message


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ["rows.csv", "is empty"]),
        ("text,label\n", ["no rows after its header"]),
        ("text,label", ["no rows after its header"]),
        ("Text,label\na,1\n", ["no column 'text'", "mean 'Text'", "'Text', 'label'"]),
        ("text,lable\na,1\n", ["no column 'label'", "mean 'lable'"]),
        ("a film,1\nanother,2\n", ["'a film', '1'", "first row looks like data"]),
        ("the film was a long one,x\n", ["first row looks like data", "add a row with names"]),
        ("text,text,label\na,b,1\n", ["2 columns named 'text'"]),
        ("text,label\na,1\nb,2,3\n", ["data row 2", "expected 2 columns, got 3"]),
        ('text,label\n"a\nb",1\n"c,2\nd,3\n', ["data row 2", "close every quote"]),
        ("text,label\na,1\nb,1\n", ["every row", "'1'"]),
        (
            "text,label\ncafé,1\n".encode() + "café,2\n".encode("latin-1"),
            ["line 3", "mixes encodings", "1 lines are not UTF-8"],
        ),
    ],
)
def test_a_wrong_table_is_refused_with_its_place(
    tmp_path: Path, content: str | bytes, parts: list[str]
) -> None:
    message = refusal(csv_file(tmp_path, content))
    assert str(tmp_path / "rows.csv") in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ('{"text": "a", "label": 1}\n\n{"text": "b"', ["line 3: it is not valid JSON"]),
        ('{"text": "a", "label": 1}\n["b", 2]\n', ["line 2: it is a JSON list"]),
        ('{"text": 3, "label": 1}\n', ["line 1", "holds 3, which is not a text"]),
        ('{"text": "a", "label": [1, 2]}\n', ["line 1", "'label' holds a list of several"]),
        ('{"text": "\\ud83d", "label": 1}\n', ["line 1", "surrogate"]),
        ('{"text": "a"}\n{"text": "b"}\n', ["no column 'label'"]),
        ("\n\n", ["no rows"]),
    ],
)
def test_a_wrong_json_line_is_refused_with_its_place(
    tmp_path: Path, content: str, parts: list[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content, encoding="utf-8")
    message = refusal(path)
    assert str(path) in message
    for part in parts:
        assert part in message


def test_a_column_of_numbers_is_no_text(tmp_path: Path) -> None:
    pa.parquet.write_table(pa.table({"text": [1, 2], "label": [0, 1]}), tmp_path / "rows.parquet")
    assert "row 1: 'text' holds 1, which is not a text" in refusal(tmp_path / "rows.parquet")


def test_what_is_not_data_is_refused(tmp_path: Path) -> None:
    csv_file(tmp_path, "text,label\na,1\n")
    assert f"mean {tmp_path / 'rows.csv'}" in refusal(tmp_path / "row.csv")
    assert "does not exist either" in refusal(tmp_path / "none" / "rows.csv")
    assert "not a saved dataset" in refusal(tmp_path)
    (tmp_path / "rows.xlsx").write_bytes(b"PK")
    assert "not an Excel workbook" in refusal(tmp_path / "rows.xlsx")
    (tmp_path / "rows.parquet").write_bytes(b"text,label\na,1\n")
    assert "not a Parquet file" in refusal(tmp_path / "rows.parquet")
    as_dataset(tmp_path / "set", ROWS)
    (tmp_path / "set" / "data-00001-of-00002.arrow").unlink()
    assert "not a complete saved dataset" in refusal(tmp_path / "set")


def test_an_unknown_label_is_named_with_its_count_and_a_row(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "text,label\na,x\nb,y\nc,z\nd,z\n")
    message = refusal(path, labels=["x", "y"])
    assert f"{path}, data row 3: the label 'z' is not in data.labels ('x', 'y')" in message
    assert "2 rows have it" in message


@pytest.mark.parametrize("labels", [["x", "y", "x"], ["1", "1.0"], ["x", " x"], ["x"], ["x", ""]])
def test_impossible_classes_are_refused(tmp_path: Path, labels: list[str]) -> None:
    path = csv_file(tmp_path, "text,label\na,x\nb,1\n")
    assert "data.labels" in refusal(path, labels=labels)


def test_a_column_of_ids_is_not_taken_for_labels(tmp_path: Path) -> None:
    rows = "".join(f"text {i},{i / 7:.3f}\n" for i in range(50))
    assert "ids or scores" in refusal(csv_file(tmp_path, "text,label\n" + rows))


def test_a_client_that_names_its_classes_differently_is_refused(tmp_path: Path) -> None:
    content = "site,text,label\nA,a,pos\nA,b,neg\nB,c,1\nB,d,0\nC,e,pos\n"
    message = refusal(csv_file(tmp_path, content), client_column="site")
    assert "client 'B'" in message
    assert "'0', '1'" in message
    assert "'neg', 'pos'" in message
    corpus = load(tmp_path / "rows.csv", "site", labels=["pos", "neg", "1", "0"])
    assert len(corpus) == 5
