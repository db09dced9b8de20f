"""What people and programs write that is not what they mean is said, and what to do about it works."""

import json
import random
import re
import shlex
import tomllib

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from umbel.errors import DataError
from umbel.job import DataSpec, Job
from umbel.learning.data import load_corpus
from umbel.learning.reading.names import stands_for_nothing, variants
from umbel.survey.advice import advice, warnings
from umbel.survey.concerns import concern_lines
from umbel.survey.survey import survey
from umbel.survey.texts import Copies

WORDS = ["kettle", "lamp", "hotel", "guide", "coat", "chair", "book", "ferry", "blender", "headset"]
TEXTS = [
    f"the {WORDS[n % 10]} and the {WORDS[n // 10 % 10]} came on day {n}, as we had hoped"
    for n in range(240)
]


def brought(tmp_path, **columns):
    path = tmp_path / "brought.jsonl"
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def looked(path, tiny, **given):
    return survey(
        Job.compose(None, {"data.path": str(path), "model.base": tiny("bert"), **given}, [])
    )


def test_a_word_for_a_missing_value_is_said_and_what_is_advised_leaves_it_out(tmp_path, tiny):
    words = ["nan", "NA", "None", "null", "N/A", "-", "?"]
    labels = [words[n % 7] if n % 5 == 0 else "ab"[n % 2] for n in range(240)]
    path = brought(tmp_path, text=TEXTS, label=labels)
    (line,) = [line for line in warnings(looked(path, tiny)) if "missing value" in line]
    assert all(repr(word) in line for word in words)
    named = json.loads(line.split("data.labels='")[1].split("'")[0])
    corpus = load_corpus(DataSpec(path=str(path), labels=named), "text-classification")
    assert corpus.label_names == ("a", "b")
    assert corpus.dropped == {"no label": 48}
    with pytest.raises(DataError, match=r"not in data\.labels"):
        load_corpus(DataSpec(path=str(path), labels=["a", *words]), "text-classification")
    kept = load_corpus(DataSpec(path=str(path), labels=["a", "b", *words]), "text-classification")
    assert not kept.dropped


def test_no_usual_name_of_a_class_stands_for_nothing():
    for name in (
        "good",
        "0",
        "1",
        "no",
        "neg",
        "false",
        "other",
        "nano",
        "nil by mouth",
        "nonesuch",
        "",
    ):
        assert not stands_for_nothing(name)


def test_texts_that_are_words_for_missing_values_are_said(tmp_path, tiny):
    texts = ["nan" if n % 60 == 0 else text for n, text in enumerate(TEXTS)]
    path = brought(tmp_path, text=texts, label=["ab"[n % 2] for n in range(240)])
    assert any(
        line.startswith("4 texts are a word for a missing value")
        for line in warnings(looked(path, tiny))
    )


def test_spellings_of_one_answer_are_said(tmp_path, tiny):
    labels = [("yes", "TRUE", "1", "no", "0")[n % 5] for n in range(240)]
    said = " ".join(warnings(looked(brought(tmp_path, text=TEXTS, label=labels), tiny)))
    assert "'1', 'true', 'yes' may be one class" in said
    assert "'0', 'no' may be one class" in said
    assert variants(["0", "1"]) == variants(["yes", "no"]) == variants(["good", "bad"]) == []


def test_the_commands_for_classes_run_in_a_shell_whatever_the_classes_are_called():
    """A quotation mark, a backslash or a dollar in a name is that character, not the shell's or TOML's."""
    names = ['a "b"', "it's", "c:\\new $HOME `x`", "été", "true", "yes"]
    classes = {name: n for n, name in enumerate([*names, "nan"], start=1)}
    asked = {}
    for line in concern_lines({}, Copies(0, 0, 0), (), classes, 0, {}):
        (_, text) = shlex.split(re.search(r"--set .*", line)[0])
        key, _, value = text.partition("=")
        asked[key] = tomllib.loads(f"value = {value}")["value"]
    assert sorted(asked.pop("data.labels")) == sorted(names)
    assert asked == {"data.spellings": {"yes": ["true"]}}


def test_all_pairs_of_names_that_look_alike_are_named_at_once(tmp_path):
    labels = [("Good", "good", "BAD", "bad", "so so", "So so")[n % 6] for n in range(240)]
    path = brought(tmp_path, text=TEXTS, label=labels)
    with pytest.raises(DataError) as refused:
        load_corpus(DataSpec(path=str(path)), "text-classification")
    for pair in ("'BAD' and 'bad'", "'Good' and 'good'", "'So so' and 'so so'"):
        assert pair in str(refused.value)


def test_several_columns_that_may_hold_classes_are_named_with_what_determines_them(tmp_path, tiny):
    path = brought(
        tmp_path,
        note=TEXTS,
        diagnosis=["well" if n % 3 else "ill" for n in range(240)],
        code=["A" if n % 3 else "B" for n in range(240)],
        site=[["North", "South", "East", "West"][n * 7 % 11 % 4] for n in range(240)],
    )
    said = [str(one) for one in advice(looked(path, tiny))]
    for name in ("diagnosis", "code", "site"):
        assert sum(line.startswith(f"Column {name!r} may hold the classes") for line in said) == 1
    assert any("'diagnosis'" in line and "'code' in 100.0%" in line for line in said)
    assert not any("causal-lm" in line for line in said)


def test_a_column_of_one_class_is_no_reason_for_a_language_model(tmp_path, tiny):
    found = looked(brought(tmp_path, text=TEXTS, label=["ok"] * 240), tiny)
    assert not any("causal-lm" in str(one) for one in advice(found))


def test_a_file_without_a_header_is_refused_and_no_record_is_shown(tmp_path, tiny):
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(f'"{text}",{"ab"[n % 2]}' for n, text in enumerate(TEXTS)))
    with pytest.raises(DataError, match="names above it") as refused:
        looked(path, tiny)
    assert "kettle" not in str(refused.value)


@pytest.mark.parametrize("ending", ["parquet", "feather"])
def test_columns_of_lists_and_bytes_are_said_not_to_be_read(tmp_path, tiny, ending):
    path = tmp_path / f"rows.{ending}"
    table = pa.table(
        {
            "text": TEXTS,
            "label": ["ab"[n % 2] for n in range(240)],
            "tags": [["x", "y"]] * 240,
            "raw": [b"x"] * 240,
            "doc": [{"tags": ["x", "y"], "n": 1}] * 240,
        }
    )
    write = pyarrow.parquet.write_table if ending == "parquet" else pyarrow.feather.write_feather
    write(table, path)
    found = looked(path, tiny)
    assert {column.name for column in found.columns} == {"text", "label", "doc.n"}
    (line,) = [line for line in warnings(found) if "not read: " in line]
    assert all(repr(name) in line for name in ("tags", "raw", "doc.tags"))


def test_json_columns_of_lists_are_said_not_to_be_read(tmp_path, tiny):
    rows = [
        {"text": text, "label": "ab"[n % 2], "tags": ["x", "y"], "doc": {"parts": [text] * 2}}
        | {"mixed": "a" if n else ["a"]}
        for n, text in enumerate(TEXTS)
    ]
    path = tmp_path / "lists.json"
    path.write_text(json.dumps(rows))
    found = looked(path, tiny)
    assert found.lists == ("tags", "doc.parts")
    (line,) = [line for line in warnings(found) if "lists" in line]
    assert "'tags', 'doc.parts'" in line


def test_a_column_of_many_codes_is_offered_as_classes_and_each_stage_is_said(tmp_path, tiny):
    path = brought(tmp_path, text=TEXTS, icd=[f"C{n % 60:02d}" for n in range(240)])
    stages = []
    found = survey(
        Job.compose(None, {"data.path": str(path), "model.base": tiny("bert")}, []), stages.append
    )
    assert stages == ["columns", "data", "tokens", "texts"]
    assert found.label_column is None
    (one,) = [one for one in advice(found) if "many classes (60 values)" in str(one)]
    assert one.flag == "--label-column icd"
    assert "No column seems to hold classes" not in str(advice(found))
    assert "--task causal-lm" in str(advice(found))


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "feather"])
def test_a_column_of_lists_of_one_class_is_found_as_the_classes(tmp_path, tiny, ending):
    """As annotation tools write them; one list of several, or of none, changes no other record."""
    rows = [{"doc": {"body": text, "tags": ["ab"[n % 2]]}} for n, text in enumerate(TEXTS)]
    rows[2]["doc"]["tags"] = ["a", "b"]
    rows[4]["doc"]["tags"] = []
    path = tmp_path / f"rows.{ending}"
    if ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        write = (
            pyarrow.parquet.write_table if ending == "parquet" else pyarrow.feather.write_feather
        )
        write(pa.Table.from_pylist(rows), path)
    found = looked(path, tiny)
    assert (found.text_column, found.label_column) == ("doc.body", "doc.tags")
    assert found.classes == {"a": 118, "b": 120}
    assert found.lists == ()


@pytest.mark.parametrize("kind", ["identifiers", "numbers", "dates", "classes", "one value"])
def test_a_text_column_that_holds_no_texts_comes_with_the_column_that_does(tmp_path, tiny, kind):
    held = {
        "identifiers": [f"{n:08x}-4f1e-{n * 7919:016x}" for n in range(240)],
        "numbers": [str(n % 100 / 7)[:5] for n in range(240)],
        "dates": [f"2026-11-{1 + n % 28:02d}" for n in range(240)],
        "classes": ["good" if n % 3 else "bad" for n in range(240)],
        "one value": ["see comment"] * 240,
    }[kind]
    path = brought(tmp_path, text=held, comment=TEXTS, label=["ab"[n % 2] for n in range(240)])
    (line,) = [str(one) for one in advice(looked(path, tiny)) if "data.text_column" in one.key]
    assert f"'text' seems to hold {kind}" in line
    assert "--text-column comment" in line
    assert not [
        one
        for one in advice(looked(path, tiny, **{"data.text_column": "comment"}))
        if "data.text_column" in one.key
    ]


def test_a_first_row_that_may_be_a_record_is_said(tmp_path, tiny):
    rows = "\n".join(f"{'good' if n % 3 else 'bad'};{text}" for n, text in enumerate(TEXTS))
    path = tmp_path / "brought.csv"
    path.write_text("good;very nice\n" + rows)
    (line,) = [line for line in warnings(looked(path, tiny)) if "first row" in line]
    assert "'good'" in line
    path.write_text("label;text\n" + rows)
    assert not [line for line in warnings(looked(path, tiny)) if "first row" in line]


def test_a_file_of_which_most_rows_are_left_out_is_no_quiet_matter(tmp_path, tiny):
    path = brought(
        tmp_path, text=TEXTS, label=["ab"[n % 2] if n % 5 < 2 else None for n in range(240)]
    )
    said = " ".join(warnings(looked(path, tiny)))
    assert "Most rows are left out (144 with no label)" in said


def test_what_a_column_seems_to_hold(tmp_path, tiny):
    drawn = random.Random(5)
    path = brought(
        tmp_path,
        text=TEXTS,
        label=[f"intent {n % 80}" for n in range(240)],
        uuid=[f"{drawn.getrandbits(128):032x}" for _ in range(240)],
        day=[f"2026-{1 + n % 12:02d}-{1 + n % 28:02d}" for n in range(240)],
        time=[f"2026-11-27 12:00:{n % 60:02d}" for n in range(240)],
        written=["27.11.2026"] * 240,
        comment=["又晴了，" * 8 + str(n) for n in range(240)],
        truth=["TRUE", "True", "false", "False"] * 60,
    )
    found = looked(path, tiny)
    assert {column.name: column.kind for column in found.columns} == {
        "text": "text",
        "label": "classes",
        "uuid": "identifier",
        "day": "dates",
        "time": "dates",
        "written": "dates",
        "comment": "text",
        "truth": "classes",
    }
    assert {column.name: column.distinct for column in found.columns}["truth"] == 2


def test_one_column_for_text_and_label_is_called_that(tmp_path):
    path = brought(tmp_path, note=TEXTS, label=["a"] * 240)
    with pytest.raises(DataError, match="both name 'note'"):
        load_corpus(
            DataSpec(path=str(path), text_column="note", label_column="note"), "text-classification"
        )


def test_a_column_of_dialogues_is_found_and_said_to_be_read_by_the_task_that_reads_them(
    tmp_path, tiny
):
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = [{"tags": ["x", "y"], "messages": said, "id": number} for number in range(240)]
    path = tmp_path / "dialogues.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = looked(path, tiny, task="chat")
    assert (found.text_column, found.used, found.lists) == ("messages", 240, ("tags",))
