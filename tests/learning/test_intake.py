"""The same table, written in every way that people write one, is the same corpus.

Tables are drawn at random: texts with quotes, delimiters, line ends and letters of many scripts; labels of
every kind that a table can hold.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import zipfile
from decimal import Decimal

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from umbel.client.propose import propose
from umbel.errors import DataError
from umbel.learning.reading.header import column_names
from umbel.learning.reading.layout import Layout
from umbel.learning.reading.names import canonical, label_name
from umbel.learning.reading.packing import PACKED, most_bytes
from umbel.learning.reading.tables import read_table

from .writers import LABELS, WRITERS, as_delimited, corpus_of, drawn

SEEDS = range(4)


@pytest.mark.parametrize("kind", LABELS)
def test_every_format_gives_the_same_records_and_classes(tmp_path, kind):
    for seed in SEEDS:
        rows = drawn(seed, kind)
        expected = None
        for name, write in WRITERS.items():
            found, corpus = corpus_of(write(tmp_path / name, rows))
            expected = expected or found
            assert found == expected, name
            assert corpus.dropped == {"no label": 1}, name
        assert [text for text, _ in expected] == [text for text, label in rows if label is not None]
        assert len({label for _, label in expected}) == len({label for _, label in rows} - {None})


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("one", ["commas.csv", "sheet.xlsx"])
def test_training_and_test_files_of_two_formats_have_the_same_classes(tmp_path, kind, one):
    rows = drawn(9, kind)
    first = WRITERS[one](tmp_path / one, rows)
    classes = corpus_of(first)[1].label_names
    for name, write in WRITERS.items():
        second = write(tmp_path / f"test-{name}", rows[:5])
        assert corpus_of(first, test_path=str(second))[1].label_names == classes, name


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize(
    "name", ["semicolons.csv", "lines.jsonl", "sheet.xlsx", "table.parquet", "table.feather"]
)
def test_compressed_files_are_read_as_what_is_in_them(tmp_path, name, packed):
    rows = drawn(1, "name")
    plain = WRITERS[name](tmp_path / name, rows)
    path = tmp_path / f"{name}{packed}"
    path.write_bytes(pack(packed, plain.read_bytes(), name))
    assert column_names(path) == column_names(plain)
    assert corpus_of(path)[0] == corpus_of(plain)[0]
    assert f"unpacked as {PACKED[packed]}" in corpus_of(path)[1].notes[0]


def pack(packed, content, name):
    if packed == ".zip":
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"folder/{name}", content)
            archive.writestr(f"__MACOSX/folder/._{name}", b"what a Mac adds")
        return made.getvalue()
    if packed == ".zst":
        return pa.compress(content, codec="zstd", asbytes=True)
    return {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[packed](content)


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("name", ["bomb.csv", "bomb.jsonl", "bomb.parquet"])
def test_what_unpacks_to_far_too_much_is_refused(tmp_path, monkeypatch, name, packed):
    monkeypatch.setattr("umbel.learning.reading.packing._ALWAYS", 1 << 20)
    path = tmp_path / f"{name}{packed}"
    path.write_bytes(pack(packed, b"text,label\n" + bytes(3 << 20), name))
    assert most_bytes(path) < 3 << 20
    with pytest.raises(DataError, match="unpacks to more than 1 MiB"):
        read_table(path, "text", ["label"], lenient=True)


def test_what_is_done_to_a_file_is_said(tmp_path):
    rows = [("two\nlines", "a"), ("three\nmore\nlines", "b"), ("one", "a")]
    _, corpus = corpus_of(as_delimited(tmp_path / "rows.csv", rows, ";"))
    assert corpus.notes == (
        "columns separated by semicolons",
        "2 rows span several lines, the longest 3: line ends within quotes are part of a field",
    )
    assert corpus_of(as_delimited(tmp_path / "plain.csv", [("a", "1"), ("b", "2")]))[1].notes == ()


def test_quotes_that_enclose_nothing_are_characters(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text(
        'label\ttext\na\t"Great" movie\nb\tsays "no\na\t"open\nb\tfine\n', encoding="utf-8"
    )
    found, corpus = corpus_of(path)
    assert [text for text, _ in found] == ['"Great" movie', 'says "no', '"open', "fine"]
    assert "quotes read as plain characters" in corpus.notes[0]
    declared = propose(path).declared
    assert declared.quoting == "none"
    assert (
        read_table(path, "text", lenient=True, layout=declared.layout).columns["text"][0]
        == '"Great" movie'
    )


def test_a_line_sep_of_excel_and_empty_cells_at_the_end_are_no_obstacle(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("sep=;\ntext;label\nfine, I say;a;;\nill;b\n", encoding="utf-8")
    found, corpus = corpus_of(path)
    assert found == [("fine, I say", "a"), ("ill", "b")]
    assert corpus.notes == ("columns separated by semicolons",)


def test_the_columns_that_are_asked_for_tell_the_delimiter(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text;label, main\nfine, I say;a\nill;b\n", encoding="utf-8")
    assert corpus_of(path, label_column="label, main")[0] == [("fine, I say", "a"), ("ill", "b")]


@pytest.mark.parametrize("form", ["lines.jsonl", "list.json", "table.parquet", "table.feather"])
def test_fields_within_fields_are_reached_by_their_paths(tmp_path, form):
    rows = [{"doc": {"text": f"text {n}", "meta": {"label": n % 2 == 0}}, "n": n} for n in range(6)]
    path = tmp_path / form
    if form.endswith(("jsonl", "json")):
        listed = json.dumps(rows) if form == "list.json" else "\n".join(map(json.dumps, rows))
        path.write_text(listed)
    elif form.endswith("parquet"):
        pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        pa.feather.write_feather(pa.Table.from_pylist(rows), path)
    assert column_names(path) == ["doc.text", "doc.meta.label", "n"]
    found, _ = corpus_of(path, text_column="doc.text", label_column="doc.meta.label")
    assert found == [(f"text {n}", "true" if n % 2 == 0 else "false") for n in range(6)]
    with pytest.raises(DataError, match=r"mean 'doc\.text'"):
        corpus_of(path, text_column="doc.txt", label_column="n")


def test_a_name_with_a_dot_comes_before_a_path(tmp_path):
    path = tmp_path / "rows.jsonl"
    record = {"doc.text": "whole", "doc": {"text": "inner"}, "label": "a"}
    path.write_text(json.dumps(record))
    assert read_table(path, "doc.text").columns["doc.text"] == ["whole"]


def test_a_few_unreadable_rows_are_left_out_and_said_and_many_are_refused(tmp_path):
    lines = [json.dumps({"text": f"text {n}", "label": "ab"[n % 2]}) for n in range(300)]
    path = tmp_path / "rows.jsonl"
    lines[7:7] = ["{broken", '{"text": 3, "label": "a"}']
    path.write_text("\n".join(lines))
    found, corpus = corpus_of(path)
    assert len(found) == 300
    assert corpus.dropped == {"unreadable": 2}
    assert "2 unreadable; the first is line 8: it is not valid JSON" in corpus.notes[0]
    path.write_text("\n".join(lines + ["{broken"] * 2))
    with pytest.raises(
        DataError, match=r"line 8: it is not valid JSON.* 4 of 304 rows cannot be read"
    ):
        corpus_of(path)


@pytest.mark.parametrize("kind", ["truth", "whole", "fraction"])
def test_numbers_of_any_width_and_precision_are_the_same_names(tmp_path, kind):
    types = {
        "truth": [pa.bool_()],
        "whole": [
            pa.int8(),
            pa.int64(),
            pa.float32(),
            pa.float64(),
            pa.string(),
            pa.decimal128(9, 3),
        ],
        "fraction": [
            pa.float32(),
            pa.float64(),
            pa.decimal128(9, 3),
            pa.dictionary(pa.int8(), pa.string()),
        ],
    }
    values = {"truth": [True, False], "whole": [1, 0, 2], "fraction": [0.1, 0.25, 3.5]}[kind]
    expected = {label_name(str(value)) for value in values}
    for form in types[kind]:
        plain = [Decimal(str(v)) for v in values] if pa.types.is_decimal(form) else values
        if pa.types.is_string(form) or pa.types.is_dictionary(form):
            plain = [str(v) for v in values]
        table = pa.table({"text": ["t"] * len(values), "label": pa.array(plain).cast(form)})
        path = tmp_path / "rows.parquet"
        pa.parquet.write_table(table, path)
        assert set(corpus_of(path)[1].label_names) == expected, form


def test_a_canonical_name_is_its_own_canonical_name():
    at = random.Random(3)
    for _ in range(3000):
        name = "".join(at.choices("0123456789.eE+-TtrueFals:", k=at.randint(1, 9)))
        assert canonical(canonical(name)) == canonical(name), name
    for value in [at.uniform(-1e6, 1e6) for _ in range(300)] + [
        10.0**n for n in range(-300, 300, 7)
    ]:
        assert label_name(repr(value)) == label_name(json.dumps(value)) == canonical(repr(value))
    for spelled in ("1.0", "+1", "1.000", "1"):
        assert canonical(spelled) == "1"
    for kept in ("007", "1e5", "1.2.3", "yes", "-", "0x1", "1,5", "None"):
        assert canonical(kept) == kept


def test_a_column_of_one_text_per_line_keeps_its_blank_lines(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text\none\n\nthree\n\n\n", encoding="utf-8")
    assert read_table(path, "text").columns["text"] == ["one", "", "three"]


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "backslash.csv"])
def test_an_agent_reads_what_a_simulation_reads(tmp_path, name):
    """By what its owner declared when it looked at the file."""
    rows = drawn(5, "name")
    path = WRITERS[name](tmp_path / name, rows)
    declared = propose(path).declared
    strict = read_table(path, "text", ["label"])
    agent = read_table(path, "text", ["label"], lenient=True, layout=declared.layout)
    assert agent.columns == strict.columns
    assert Layout(declared.encoding, declared.quoting) == declared.layout
