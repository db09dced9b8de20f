"""A data file becomes a clean corpus, or an error that tells what to do."""

from __future__ import annotations

import json
import shlex
import tomllib
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.client.propose import propose
from umbel.errors import DataError
from umbel.job import DataSpec
from umbel.learning.data import load_corpus
from umbel.learning.reading.names import alike, clean_text, sort_names
from umbel.learning.split import split_rows

from .tables import (
    LINES,
    ROWS,
    as_dataset,
    as_datasets,
    as_delimited,
    as_json_lines,
    csv_file,
    load,
    refusal,
)

WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], None]] = {
    "rows.csv": lambda path, rows: as_delimited(path, rows, ","),
    "rows.tsv": lambda path, rows: as_delimited(path, rows, "\t"),
    "rows.jsonl": as_json_lines,
    "rows.ndjson": as_json_lines,
    "rows.parquet": lambda path, rows: pa.parquet.write_table(pa.Table.from_pylist(rows), path),
    "rows": as_dataset,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_corpus(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name, ROWS)
    corpus = load(tmp_path / name)
    assert corpus.texts == [row["text"] for row in ROWS]
    assert corpus.label_names == ("bad", "good")
    assert corpus.labels is not None
    assert corpus.labels.dtype == np.int64
    assert corpus.labels.tolist() == [0, 1, 1]
    assert corpus.groups is corpus.clients is corpus.held_out is None
    assert corpus.dropped == {}


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_byte_order_mark_and_either_line_end_change_nothing(
    tmp_path: Path, line_end: str
) -> None:
    content = line_end.join(["text,label", '"a,', 'b",1', "c,2", ""])
    corpus = load(csv_file(tmp_path, b"\xef\xbb\xbf" + content.encode()))
    assert corpus.texts == ["a,\nb", "c"]
    jsonl = tmp_path / "rows.jsonl"
    as_json_lines(jsonl, [{"text": "c", "label": 1}, {"text": "d", "label": 2}])
    jsonl.write_bytes(b"\xef\xbb\xbf" + jsonl.read_bytes().replace(b"\n", line_end.encode()))
    assert load(jsonl).texts == ["c", "d"]


def test_one_very_long_text_is_read(tmp_path: Path) -> None:
    long = "word " * 1_000_000
    corpus = load(csv_file(tmp_path, f"text,label\n{long},1\nshort,2\n"))
    assert corpus.texts == [long.strip(), "short"]


def test_rows_without_text_label_or_client_are_dropped_and_counted(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "text,label,site\na,x,p\n  ,x,p\nb, ,p\nc,x,\n d , y ,q\ne,x,q\n")
    corpus = load(path, client_column="site")
    assert corpus.texts == ["a", "d", "e"]
    assert corpus.label_names == ("x", "y")
    assert corpus.clients == ["p", "q", "q"]
    assert corpus.dropped == {"empty text": 1, "no label": 1, "no client": 1}


def test_the_same_document_from_different_systems_is_the_same_text(tmp_path: Path) -> None:
    composed = "Café\nNoël"
    decomposed = unicodedata.normalize("NFD", composed).replace("\n", "\r\n")
    as_json_lines(
        tmp_path / "rows.jsonl",
        [{"text": composed, "label": "a"}, {"text": decomposed, "label": "b"}],
    )
    assert load(tmp_path / "rows.jsonl").texts == [composed, composed]


def test_numbers_sort_by_value_and_names_by_spelling(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "text,label\na,10\nb,2\nc,-1\nd,2.5\n")
    assert load(path).label_names == ("-1", "2", "2.5", "10")
    assert sort_names(["10", "2", "x"]) == ["10", "2", "x"]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([1.0, 2.0, None, float("nan")], ("1", "2")),
        ([10, 9, None], ("9", "10")),
        ([True, False, None], ("false", "true")),
        ([0.5, 1.0], ("0.5", "1")),
    ],
)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_typed_labels_become_plain_names(
    tmp_path: Path, name: str, values: list[Any], names: tuple[str, ...]
) -> None:
    rows = [{"text": f"text {i}", "label": value} for i, value in enumerate(values)]
    WRITERS[name](tmp_path / name, rows)
    corpus = load(tmp_path / name)
    assert corpus.label_names == names
    missing = len(values) - len(names)
    assert corpus.dropped == ({"no label": missing} if missing else {})


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
@pytest.mark.parametrize("values", [["b", "a", "b"], [2, 1.5, 2.0], [True, False, True]])
def test_a_list_of_one_value_is_this_value(tmp_path: Path, name: str, values: list[Any]) -> None:
    WRITERS[name](
        tmp_path / name, [{"text": f"text {n}", "label": v} for n, v in enumerate(values)]
    )
    plain = load(tmp_path / name)
    listed = [{"text": [f"text {n}"], "label": [v]} for n, v in enumerate(values)]
    WRITERS[name](tmp_path / name, [*listed, {"text": ["other"], "label": []}])
    found = load(tmp_path / name)
    assert (found.texts, found.label_names) == (plain.texts, plain.label_names)
    assert found.labels is not None
    assert found.labels.tolist() == plain.labels.tolist()  # type: ignore[union-attr]
    assert found.dropped == {"no label": 1}


def test_a_list_of_one_class_label_has_its_name(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": [label]} for i, label in enumerate([1, 0, 1])]
    features = {"label": {"feature": {"names": ["neg", "pos"], "_type": "ClassLabel"}}}
    as_dataset(tmp_path / "set", rows, features)
    assert load(tmp_path / "set").label_names == ("neg", "pos")


def test_a_whole_number_with_a_decimal_point_is_that_number(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "text,label\na,1.0\nb,0.0\n")
    assert load(path).label_names == ("0", "1")
    assert load(path, labels=["1", "0"]).labels.tolist() == [0, 1]


def test_class_labels_of_a_saved_dataset_get_their_names(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": label} for i, label in enumerate([1, 0, -1, 1])]
    features = {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}
    as_dataset(tmp_path / "set", rows, features)
    corpus = load(tmp_path / "set")
    assert corpus.label_names == ("neg", "pos")
    assert corpus.labels is not None
    assert corpus.labels.tolist() == [1, 0, 1]
    assert corpus.dropped == {"no label": 1}
    info = json.dumps({"info": {"features": features}})
    table = pa.Table.from_pylist(rows).replace_schema_metadata({"huggingface": info})
    pa.parquet.write_table(table, tmp_path / "rows.parquet")
    assert load(tmp_path / "rows.parquet").label_names == ("neg", "pos")


def test_the_test_split_of_a_saved_dataset_is_held_out(tmp_path: Path) -> None:
    as_datasets(tmp_path / "set", train=ROWS, validation=ROWS[:1], test=ROWS[1:])
    corpus = load(tmp_path / "set")
    assert corpus.held_out is not None
    assert corpus.held_out.tolist() == [False] * 3 + [True] * 2
    train, test = split_rows(corpus, 0.1, b"1")
    assert train.tolist() == [0, 1, 2]
    assert test.tolist() == [3, 4]


def test_rows_of_the_test_file_are_held_out_and_need_no_group(tmp_path: Path) -> None:
    as_delimited(tmp_path / "test.csv", ROWS[:2], ",")
    as_json_lines(tmp_path / "rows.jsonl", [{**row, "author": 7} for row in ROWS])
    corpus = load(
        tmp_path / "rows.jsonl", test_path=str(tmp_path / "test.csv"), group_column="author"
    )
    assert corpus.held_out is not None
    assert corpus.held_out.tolist() == [False] * 3 + [True] * 2
    assert corpus.groups == ["7"] * 3 + [""] * 2


def test_an_owner_holds_out_what_it_declares_and_not_what_a_folder_happens_to_have(
    tmp_path: Path,
) -> None:
    rows = [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(12)]
    as_datasets(tmp_path / "saved", train=rows[:8], test=rows[8:])
    declared = propose(tmp_path / "saved").declared
    assert declared.test_path == declared.path
    assert declared.share == 1.0
    spec = {"path": declared.path, "label_column": "label"}
    alone = load_corpus(DataSpec(**spec), "text-classification", declared=True)
    assert (len(alone), alone.held_out) == (8, None)
    both = load_corpus(
        DataSpec(**spec, test_path=declared.test_path), "text-classification", declared=True
    )
    assert both.held_out is not None
    assert both.held_out.sum() == 4


def test_language_models_need_no_labels(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "text\nTo be\nor not\n")
    corpus = load_corpus(DataSpec(path=str(path)), "causal-lm")
    assert corpus.texts == ["To be", "or not"]
    assert corpus.labels is None
    assert corpus.label_names == ()


def test_a_limit_takes_rows_from_all_over_the_file(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": "ab"[i // 500]} for i in range(1000)]
    as_delimited(tmp_path / "rows.csv", rows, ",")
    corpus = load(tmp_path / "rows.csv", limit=50)
    assert len(corpus) == 50
    assert corpus.labels is not None
    assert 10 < corpus.labels.sum() < 40
    assert corpus.texts == load(tmp_path / "rows.csv", limit=50).texts


def test_an_owner_may_hold_one_of_the_named_classes_only(tmp_path: Path) -> None:
    corpus = load(csv_file(tmp_path, "text,label\na,y\n"), labels=["x", "y"])
    assert corpus.label_names == ("x", "y")
    assert corpus.labels is not None
    assert corpus.labels.tolist() == [1]


@given(st.lists(st.tuples(LINES, st.sampled_from(["x", "y"])), min_size=1, max_size=6))
def test_any_text_survives_a_table(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    labels = ["x", "y"]
    records = [{"text": text, "label": label} for text, label in rows]
    expected = [
        unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")).strip()
        for text, _ in rows
    ]
    kept = [text for text in expected if text]
    for name, write in WRITERS.items():
        if name in ("rows", "rows.ndjson"):
            continue
        write(folder / name, records)
        if kept:
            assert load(folder / name, labels=labels).texts == kept
        else:
            assert "empty text" in refusal(folder / name, labels=labels)


def test_a_job_for_owners_data_needs_no_path_and_a_simulation_says_that_it_does():
    from umbel.job import Job

    job = Job.build({"data": {"labels": ["no", "yes"]}})
    with pytest.raises(DataError, match=r"data\.path is missing"):
        load_corpus(job.data, job.task)


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_what_a_file_brings_is_the_text_that_predictions_read(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("one") / "data.parquet"
    pa.parquet.write_table(pa.table({"text": [text, "another"]}), path)
    texts = load_corpus(DataSpec(path=str(path)), "causal-lm").texts
    assert texts == [*filter(None, [clean_text(text)]), "another"]
    assert clean_text(clean_text(text)) == clean_text(text)
    # A prompt keeps its end, and is otherwise the same.
    assert clean_text(clean_text(text, goes_on=True)) == clean_text(text)


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["TRUE", "true", "false"], [("TRUE", "true")]),
        (["ＹＥＳ", "yes", "no"], [("yes", "ＹＥＳ")]),
        (["a  b", "a b", "A B"], [("A B", "a  b"), ("A B", "a b")]),
        (["1", "2", "10"], []),
        (["ja", "jä"], []),
        (["positive", "negative"], []),
    ],
)
def test_names_that_look_like_one_are_paired(
    names: list[str], pairs: list[tuple[str, str]]
) -> None:
    assert alike(names) == pairs


def test_two_classes_that_look_like_one_are_two_only_if_they_are_named(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    rows = [{"text": f"text {n}", "label": ["YES", "yes", "no"][n % 3]} for n in range(9)]
    as_delimited(path, rows, ",")
    spec = DataSpec(path=str(path))
    with pytest.raises(DataError, match="'YES' and 'yes', which look like one"):
        load_corpus(spec, "text-classification")
    with pytest.raises(DataError, match="'YES' and 'yes', which look like one"):
        propose(path)
    # What is advised counts them together.
    advised = tomllib.loads(shlex.split(refusal(path).split("--set data.")[1])[0])
    together = load(path, **advised)
    assert together.labels is not None
    counts = np.bincount(together.labels).tolist()
    assert dict(zip(together.label_names, counts, strict=True)) == {"YES": 6, "no": 3}
    named = ["YES", "yes", "no"]
    found = load_corpus(spec.model_copy(update={"labels": named}), "text-classification")
    assert found.label_names == tuple(named)
    assert propose(path, labels=named).declared.labels == named
