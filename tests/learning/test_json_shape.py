"""A JSON file that is not a list of records, or not whole, is refused as a whole, with its shape."""

import json
import random

import pytest

from umbel.errors import DataError
from umbel.learning.reading.layout import USUAL
from umbel.learning.reading.tables import find_layout, read_table
from umbel.reports.predictions import read_texts

ROWS = [
    {"id": n, "doc": {"text": f'text {n}, "quoted" [and] {{so}}'}, "label": "ab"[n % 2]}
    for n in range(40)
]


def refused(path):
    said = set()
    for look in (
        lambda: find_layout(path, USUAL),
        lambda: read_table(path, "doc.text", ["label"]),
        lambda: read_texts([], path, "doc.text", USUAL),
    ):
        with pytest.raises(DataError) as error:
            look()
        said.add(str(error.value))
    assert len(said) == 1
    return said.pop()


@pytest.mark.parametrize("indent", [None, 1, 2])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_list_that_is_cut_anywhere_is_refused_with_the_place(tmp_path, indent, wrapped):
    content = json.dumps({"data": ROWS} if wrapped else ROWS, indent=indent)
    path = tmp_path / "cut.json"
    drawn = random.Random(f"{indent} {wrapped}")
    for size in [*drawn.sample(range(40, len(content) - 1), 25), len(content) - 1]:
        path.write_text(content[:size])
        said = refused(path)
        assert "JSON object" in said if wrapped else "JSON list" in said
        assert f"ends in the middle, at byte {len(content[:size].encode()):,}" in said, content[
            :size
        ][-40:]


def test_a_list_that_is_damaged_inside_is_refused_with_the_place(tmp_path):
    content = json.dumps(ROWS, indent=1)
    at = content.index('"label"', 300)
    path = tmp_path / "damaged.json"
    path.write_text(content[:at] + content[at + 1 :])
    assert f"line {content[:at].count(chr(10)) + 1}, column" in refused(path)


FLAT = [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(40)]
OF_PANDAS = {
    "columns": (
        {name: {str(n): row[name] for n, row in enumerate(FLAT)} for name in FLAT[0]},
        "by column",
    ),
    "index": ({str(n): row for n, row in enumerate(FLAT)}, "each under its number"),
    "split": (
        {
            "columns": ["text", "label"],
            "index": list(range(40)),
            "data": [list(row.values()) for row in FLAT],
        },
        "split",
    ),
}


@pytest.mark.parametrize("orient", OF_PANDAS)
def test_what_pandas_writes_by_default_is_called_what_it_is(tmp_path, orient):
    found, words = OF_PANDAS[orient]
    path = tmp_path / "frame.json"
    path.write_text(json.dumps(found))
    said = refused(path)
    assert words in said
    assert 'orient="records"' in said


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"text": ["a", "b"], "label": ["x", "y"]}, "by column"),
        ({"train": ROWS, "test": ROWS}, "several lists of records"),
        ({"meta": {"a": 1}, "more": {"b": [1]}}, "one JSON object"),
    ],
)
def test_other_objects_are_called_what_they_are(tmp_path, found, words):
    path = tmp_path / "object.json"
    for indent in (None, 2):
        path.write_text(json.dumps(found, indent=indent))
        assert words in refused(path)


@pytest.mark.parametrize("found", [FLAT, {"schema": {"fields": []}, "data": FLAT}, FLAT[:1]])
@pytest.mark.parametrize("indent", [None, 2])
def test_lists_of_records_are_read(tmp_path, found, indent):
    path = tmp_path / "frame.json"
    path.write_text(json.dumps(found, indent=indent))
    assert find_layout(path, USUAL) == USUAL
    assert read_table(path, "text", ["label"]).columns["text"][0] == "text 0"


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_a_damaged_line_is_one_line_and_no_shape(tmp_path, ending):
    lines = [json.dumps(row) for row in ROWS * 5]
    path = tmp_path / f"lines.{ending}"
    for at in (0, 1, 199):
        path.write_text("\n".join([*lines[:at], '{"broken', *lines[at + 1 :]]))
        assert find_layout(path, USUAL) == USUAL
        assert list(read_table(path, "doc.text", ["label"]).faults) == [at]


def test_a_file_of_which_no_text_can_be_read_is_refused_and_not_answered(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": 1}\n{"text": 2}\n')
    with pytest.raises(DataError, match="line 1"):
        read_texts([], path, "text", USUAL)
