"""A data file becomes a clean corpus, or an error that tells what to do."""

from __future__ import annotations

import csv
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
from umbel.learning.data import Corpus, load_corpus
from umbel.learning.reading.names import alike, clean_text, sort_names
from umbel.learning.split import fingerprint, split_rows

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


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], None]] = {
    "rows.csv": lambda path, rows: as_delimited(path, rows, ","),
    "rows.tsv": lambda path, rows: as_delimited(path, rows, "\t"),
    "rows.jsonl": as_json_lines,
    "rows.ndjson": as_json_lines,
    "rows.parquet": lambda path, rows: pa.parquet.write_table(pa.Table.from_pylist(rows), path),
    "rows": as_dataset,
}


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


def test_a_file_with_no_usable_row_is_refused_with_the_reasons(tmp_path: Path) -> None:
    message = refusal(csv_file(tmp_path, "text,label\n ,x\nb,\n"))
    assert "1 with empty text" in message
    assert "1 with no label" in message


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


def test_an_unclear_split_of_a_saved_dataset_is_refused(tmp_path: Path) -> None:
    as_datasets(tmp_path / "set", first=ROWS, second=ROWS)
    assert "first, second" in refusal(tmp_path / "set")
    as_delimited(tmp_path / "rows.csv", ROWS, ",")
    message = refusal(tmp_path / "rows.csv", test_path=str(tmp_path / "set"))
    assert "none called 'test'" in message


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


def test_an_owner_may_hold_one_of_the_named_classes_only(tmp_path: Path) -> None:
    corpus = load(csv_file(tmp_path, "text,label\na,y\n"), labels=["x", "y"])
    assert corpus.label_names == ("x", "y")
    assert corpus.labels is not None
    assert corpus.labels.tolist() == [1]


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


def corpus_of(texts: list[str], groups: list[str] | None = None) -> Corpus:
    return Corpus(texts, None, (), groups, None, None, {})


ROW = st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["", "1", "2", "3", "4", "5", "6"]))


@given(st.lists(ROW, max_size=30), st.floats(0.01, 1), st.binary(max_size=64), st.data())
def test_a_rows_side_does_not_depend_on_the_other_rows(
    rows: list[tuple[str, str]], share: float, secret: bytes, data: st.DataObject
) -> None:
    texts, groups = [row[0] for row in rows], [row[1] for row in rows]
    train, test = split_rows(corpus_of(texts, groups), share, secret)
    assert train.dtype == test.dtype == np.int64
    assert sorted([*train, *test]) == list(range(len(rows)))
    assert sorted(train) == list(train)
    assert sorted(test) == list(test)
    held_out = {rows[i] for i in test}
    own = data.draw(st.lists(st.sampled_from(rows), max_size=8) if rows else st.just([]))
    _, own_test = split_rows(corpus_of([r[0] for r in own], [r[1] for r in own]), share, secret)
    assert [i for i, row in enumerate(own) if row in held_out] == own_test.tolist()
    sides: dict[tuple[str, str], bool] = {}
    for i, (text, group) in enumerate(rows):
        key = ("group", group) if group else ("text", text)
        assert sides.setdefault(key, i in test) == (i in test)


def test_the_held_out_share_is_what_was_declared_and_the_secret_decides() -> None:
    corpus = corpus_of([f"text {i}" for i in range(20_000)])
    _, test = split_rows(corpus, 0.8, b"1")
    assert abs(len(test) / 20_000 - 0.2) < 0.01
    _, other = split_rows(corpus, 0.8, b"2")
    assert abs(len(np.intersect1d(test, other)) / 20_000 - 0.04) < 0.01
    _, none = split_rows(corpus, 1.0, b"1")
    assert len(none) == 0
    _, more = split_rows(corpus, 0.7, b"1")
    assert set(test) < set(more)


@given(st.lists(st.tuples(LINES, LINES), max_size=8), st.randoms(use_true_random=False))
def test_a_fingerprint_does_not_depend_on_order(rows: list[tuple[str, str]], random: Any) -> None:
    shuffled = random.sample(rows, len(rows))
    texts, labels = [text for text, _ in rows], [label for _, label in rows]
    print_ = fingerprint(texts, labels)
    assert print_ == fingerprint([text for text, _ in shuffled], [label for _, label in shuffled])
    assert len(print_) == 64
    if rows:
        assert print_ != fingerprint(texts, None)
        assert print_ != fingerprint([*texts, texts[0]], [*labels, labels[0]])
        assert print_ != fingerprint([texts[0] + "x", *texts[1:]], labels)


def test_a_fingerprint_keeps_label_and_text_apart() -> None:
    assert fingerprint(["bc"], ["a"]) != fingerprint(["c"], ["ab"])
    assert fingerprint(["a", "b"], ["x", "y"]) != fingerprint(["a", "b"], ["y", "x"])


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
