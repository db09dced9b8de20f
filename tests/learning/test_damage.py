"""A record that cannot be read is left out alone: as an owner's agent reads, whatever the format.

One record of a sound file is damaged in some way; all others come out as before.
"""

from __future__ import annotations

import csv
import json
from datetime import datetime

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from umbel.errors import DataError
from umbel.job import DataSpec
from umbel.learning.data import load_corpus
from umbel.learning.reading.delimited import MOST_CHARACTERS, MOST_LINES
from umbel.learning.reading.tables import read_table
from umbel.learning.split import fingerprint, row_marks, split_rows, units_of

ROWS = [(f"Täxt number {i}", ("good", "bad")[i % 2], f"person {i // 2}") for i in range(7)]
COLUMNS = ("text", "label", "group")
DAMAGED = 3

fuzz = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def read(path):
    """The records that an agent goes on with, after all that it does to each of them."""
    spec = DataSpec(
        path=str(path),
        text_column="text",
        label_column="label",
        labels=["bad", "good"],
        group_column="group",
    )
    corpus = load_corpus(spec, "text-classification", declared=True)
    assert len(row_marks(corpus, b"secret")) == len(units_of(corpus)) == len(corpus)
    assert sum(map(len, split_rows(corpus, 0.5, b"secret"))) == len(corpus)
    fingerprint(corpus.texts, corpus.labels)
    labels = [corpus.label_names[label] for label in corpus.labels]
    return list(zip(corpus.texts, labels, corpus.groups, strict=True))


def assert_others_stand(found, rows=ROWS, damaged=DAMAGED, most=1):
    """All but the damaged record, in their places; in its place at most `most`."""
    after = len(rows) - damaged - 1
    assert found[:damaged] == rows[:damaged]
    assert found[len(found) - after :] == rows[damaged + 1 :]
    assert 0 <= len(found) - (len(rows) - 1) <= most


def damages(one_line):
    """Bytes in place of a part of the record's: where it is cut, and what comes there."""
    marks = [b'"', b'""', b'",', b",", b"\t", b"{", b"}", b"[" * 3000, b"'", b"\\", b"\\ud800"]
    strays = [b"\0", b"\x1a", b"\x85", b"\xc3", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf"]
    kinds = st.sampled_from([*marks, *strays, b"\xe2\x80\xa8"])
    content = st.lists(st.one_of(st.binary(max_size=4), kinds), max_size=4).map(b"".join)
    if one_line:
        content = content.filter(lambda found: not set(found) & set(b"\r\n"))
    return st.tuples(st.floats(0, 1), st.floats(0, 1), content)


def damage(content, how):
    first, last, put = how
    start, end = sorted(round(share * len(content)) for share in (first, last))
    return content[:start] + put + content[end:]


def lines_of(form, rows=ROWS):
    if form == "jsonl":
        return [json.dumps(dict(zip(COLUMNS, row, strict=True))).encode() for row in rows]
    delimiter = "," if form == "csv" else "\t"
    return [delimiter.join(row).encode() for row in rows]


def write_lines(path, form, lines):
    head = {"csv": [b"text,label,group"], "tsv": [b"text\tlabel\tgroup"], "jsonl": []}[form]
    path.write_bytes(b"\n".join(head + lines) + b"\n")
    return path


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
def test_damaged_line(form, tmp_path):
    path = tmp_path / f"rows.{form}"
    sound = lines_of(form)
    assert read(write_lines(path, form, sound)) == ROWS

    @fuzz
    @given(damages(one_line=True))
    def others_stand(how):
        lines = [*sound[:DAMAGED], damage(sound[DAMAGED], how), *sound[DAMAGED + 1 :]]
        assert_others_stand(read(write_lines(path, form, lines)))

    others_stand()


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"text": ' * 100_000,
        '{"text": "t", "label": "bad", "group": ' + "[" * 900 + "]" * 900 + "}",
        '{"text": ' + "[" * 900 + "]" * 900 + ', "label": "bad"}',
        '{"text": "t", "label": ' + "9" * 5000 + "}",
        '{"text": "t", "label": NaN, "group": NaN}',
        '{"text": "t", "label": 1e999, "group": -Infinity}',
        '{"text": "\\ud800", "label": "bad"}',
        '{"text": "t", "label": "\\udfff", "group": "g"}',
        '{"text": "t", "label": "bad", "group": "\\ud83d"}',
        '{"\\ud800": "t", "text": "t", "label": "bad"}',
        '{"text": "a", "text": "b", "label": "bad", "label": 3}',
        '{"text": {"text": "t"}, "label": ["bad"]}',
        '{"text": null, "label": true}',
        '{"text": "' + "e\\u0301" * 100_000 + '", "label": "bad"}',
        "[]",
        "NaN",
        "\0\0\0{",
        "\ufeff{}",
    ],
    ids=range(19),
)
def test_json_line_of_a_hostile_kind(line, tmp_path):
    lines = lines_of("jsonl")
    lines[DAMAGED] = line.encode()
    assert_others_stand(read(write_lines(tmp_path / "rows.jsonl", "jsonl", lines)))


def as_strings(values, *, in_dictionary=False):
    """A column of strings that holds any bytes, as a careless writer leaves them."""
    held = pa.array(values, pa.binary())
    strings = pa.Array.from_buffers(pa.string(), len(held), held.buffers())
    if not in_dictionary:
        return strings
    strings = strings.fill_null("")
    places = pa.array([None if v is None else i for i, v in enumerate(values)], pa.int32())
    return pa.DictionaryArray.from_arrays(places, strings)


def write_table(path, table):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path)
        return path
    path.mkdir(exist_ok=True)
    with (path / "data.arrow").open("wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    return path


TABLES = pytest.mark.parametrize("name", ["rows.parquet", "rows"])


@TABLES
@pytest.mark.parametrize("in_dictionary", [False, True])
def test_damaged_string_of_a_table(name, in_dictionary, tmp_path):
    @fuzz
    @given(damages(one_line=False), st.sampled_from(range(3)), st.booleans())
    def others_stand(how, column, missing):
        values = [[value.encode() for value in column] for column in zip(*ROWS, strict=True)]
        values[column][DAMAGED] = None if missing else damage(values[column][DAMAGED], how)
        cells = [as_strings(column, in_dictionary=in_dictionary) for column in values]
        columns = dict(zip(COLUMNS, cells, strict=True))
        assert_others_stand(read(write_table(tmp_path / name, pa.table(columns))))

    others_stand()


@TABLES
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("value", [2**40, 2**53, -(2**53), 1])
def test_time_that_no_calendar_has(name, unit, value, tmp_path):
    values = pa.array(range(len(ROWS)), pa.int64()).to_pylist()
    sound = [str(datetime(1970, 1, 1, 0, 0, number)) for number in values]
    sound[0] = "1970-01-01"  # the hour 0 does not count
    scale = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    times = [number * scale for number in values]
    times[DAMAGED] = value
    texts, labels, _ = map(list, zip(*ROWS, strict=True))
    groups = pa.array(times, pa.int64()).cast(pa.timestamp(unit))
    path = write_table(tmp_path / name, pa.table({"text": texts, "label": labels, "group": groups}))
    assert_others_stand(read(path), list(zip(texts, labels, sound, strict=True)))


@TABLES
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.5, 1e300, 2.0, None])
def test_class_label_that_is_stored_as_a_fraction(name, value, tmp_path):
    names = ["bad", "good"]
    feature = {"label": {"names": names, "_type": "ClassLabel"}}
    numbers = [float(names.index(label)) for _, label, _ in ROWS]
    numbers[DAMAGED] = value
    texts, _, groups = map(list, zip(*ROWS, strict=True))
    table = pa.table({"text": texts, "label": pa.array(numbers), "group": groups})
    info = json.dumps({"info": {"features": feature}})
    path = write_table(tmp_path / name, table.replace_schema_metadata({"huggingface": info}))
    found = read(path)
    assert_others_stand(found)
    assert len(found) == len(ROWS) - 1


def test_a_record_whose_group_cannot_be_read_is_left_out_and_not_a_group_of_its_own(tmp_path):
    lines = lines_of("jsonl")
    lines[DAMAGED] = b'{"text": "t", "label": "bad", "group": ["person 1", "person 2"]}'
    path = write_lines(tmp_path / "rows.jsonl", "jsonl", lines)
    assert read(path) == ROWS[:DAMAGED] + ROWS[DAMAGED + 1 :]


@pytest.mark.parametrize("quoting", [csv.QUOTE_ALL, csv.QUOTE_MINIMAL])
@pytest.mark.parametrize("damaged", [2, 3])
def test_quotes_lost_or_added_at_any_place(quoting, damaged, tmp_path):
    """Texts hold quotes, delimiters and line ends, those of the damaged record too."""
    rows = [
        (f'It is {i}, "so"\nsays the end, {i}' if i % 2 else text, label, group)
        for i, (text, label, group) in enumerate(ROWS)
    ]
    written = []
    for row in rows:
        path = tmp_path / "row.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, quoting=quoting).writerow(row)
        written.append(path.read_bytes())
    path = tmp_path / "rows.csv"
    record = written[damaged].rstrip(b"\r\n")
    changed = [record[:at] + record[at + 1 :] for at in range(len(record))]
    changed += [record[:at] + b'"' + record[at:] for at in range(len(record) + 1)]
    for content in [record, *changed]:
        lines = [*written[:damaged], content + b"\r\n", *written[damaged + 1 :]]
        path.write_bytes(b"text,label,group\n" + b"".join(lines))
        assert_others_stand(read(path), rows, damaged, most=2)


@pytest.mark.parametrize("between", [MOST_LINES - 2, MOST_LINES - 1])
def test_an_open_quote_reaches_as_far_as_a_record_may_and_no_further(between, tmp_path):
    plain = [(f"text {i}", "bad", "g") for i in range(between)]
    rows = [*plain, ('size 5"', "bad", "g"), ("last", "good", "g")]
    lines = [b'"open,bad,g', *lines_of("csv", rows)]
    found = read(write_lines(tmp_path / "rows.csv", "csv", lines))
    if between < MOST_LINES - 1:
        assert [text[:5] for text, _, _ in found] == ["open,", "last"]
    else:
        assert found == rows


def test_a_record_of_several_lines_has_a_longest_and_one_of_a_single_line_has_none(tmp_path):
    long = "x" * MOST_CHARACTERS
    lines = [b'"open,bad,g', *lines_of("csv", [(long, "bad", "g"), ('5"', "bad", "g")])]
    found = read(write_lines(tmp_path / "rows.csv", "csv", lines))
    assert found == [(long, "bad", "g"), ('5"', "bad", "g")]


def test_sound_files_are_read_alike_with_and_without_leniency(tmp_path):
    path = tmp_path / "rows.csv"

    @fuzz
    @given(
        st.lists(st.tuples(*[st.text(st.sampled_from('a",\n\t é'), max_size=8)] * 3), min_size=1)
    )
    def alike(rows):
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_ALL)
            writer.writerows([COLUMNS, *rows])
        strict, lenient = (
            read_table(path, "text", ["label", "group"], lenient=lenient).columns
            for lenient in (False, True)
        )
        assert lenient == strict

    alike()


def test_a_simulation_is_told_of_each(tmp_path):
    table = pa.table({"text": as_strings([b"t", b"\xff"]), "label": ["a", "b"]})
    with pytest.raises((DataError, UnicodeDecodeError)):
        read_table(write_table(tmp_path / "rows.parquet", table), "text", ["label"])
    lines = lines_of("csv")
    lines[DAMAGED] = b"open,bad"
    with pytest.raises(DataError):
        read_table(write_lines(tmp_path / "rows.csv", "csv", lines), "text", ["label"])
