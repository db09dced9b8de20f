"""A look at a file finds what is wrong with it, says what to set, and shows no record."""

import csv
import json
import random

import pytest

from umbel.cli.commands import app
from umbel.errors import DataError
from umbel.job import Job
from umbel.survey.advice import advice, facts, warnings
from umbel.survey.survey import survey

WORDS = [
    f"{a}{b}"
    for a in ("ka", "lo", "mi", "ne", "ru", "ta", "vo")
    for b in ("bel", "dor", "fin", "gas")
]


def rows_of(count, seed=1):
    """Texts without any fault, and classes that they do not tell."""
    drawn = random.Random(seed)
    return [
        {"text": " ".join(drawn.choices(WORDS, k=drawn.randint(9, 14))), "label": "ab"[n % 2]}
        for n in range(count)
    ]


@pytest.fixture
def look(tmp_path, tiny):
    def at(rows, **options):
        file = tmp_path / "brought.csv"
        with file.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.DictWriter(opened, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        given = {
            "data.path": str(file),
            "model.base": tiny("bert"),
            "model.max_length": 128,
            **options,
        }
        return survey(Job.compose(None, given, []))

    return at


def test_a_file_without_faults_gets_no_warning(look):
    found = look(rows_of(1200))
    assert found.used == found.rows == 1200
    assert found.classes == {"a": 600, "b": 600}
    assert warnings(found) == []
    assert advice(found) == []


def _copy(rows):
    return [*rows, *rows[:7]]


def _nearly_copy(rows):
    return [*rows, *({**row, "text": row["text"].upper() + " !"} for row in rows[:5])]


def _contradict(rows):
    return [*rows, {**rows[0], "label": "b"}]


def _change(rows, key, change):
    return [{**row, key: change(n, row)} for n, row in enumerate(rows)]


FAULTS = {
    "near copies": (_nearly_copy, "the 5 near copies"),
    "contradictions": (_contradict, "2 rows have a text that also occurs with another label"),
    "another encoding": (
        lambda rows: _change(rows, "text", lambda n, r: r["text"] + (" cafÃ©" if n < 4 else "")),
        "4 texts have letters of another encoding",
    ),
    "what could not be decoded": (
        lambda rows: _change(rows, "text", lambda n, r: r["text"] + (" �" if n < 3 else "")),
        "3 texts have characters that could not be decoded",
    ),
    "HTML": (
        lambda rows: _change(rows, "text", lambda n, r: "<p>" + r["text"] if n < 6 else r["text"]),
        "6 texts have HTML",
    ),
    "a prefix that is the label": (
        lambda rows: _change(
            rows, "text", lambda n, r: {"a": "+ ", "b": "- "}[r["label"]] + r["text"]
        ),
        "The first word of a text determines its label in 100%",
    ),
    "a code that begins with the label": (
        lambda rows: _change(
            rows, "text", lambda n, r: f"[{'NP'[r['label'] == 'a']}-{n}] {r['text']}"
        ),
        "The first word of a text, its digits aside, determines its label in 100%",
    ),
    "a column that is the label": (
        lambda rows: _change(rows, "stars", lambda n, r: {"a": "1", "b": "5"}[r["label"]]),
        "Column 'stars' determines the label in 100.0%",
    ),
    "classes that differ in spelling": (
        lambda rows: _change(rows, "label", lambda n, r: "A" if n % 40 == 0 else r["label"]),
        "'A' and 'a', which look like one",
    ),
    "a rare class": (
        lambda rows: _change(rows, "label", lambda n, r: "c" if n < 3 else r["label"]),
        "1 of 3 classes has fewer than 10 records, such as 'c'",
    ),
    "one class nearly alone": (
        lambda rows: _change(rows, "label", lambda n, r: "b" if n % 30 == 0 else "a"),
        "accuracy means little",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_and_nothing_else(look, fault):
    plant, words = FAULTS[fault]
    lines = warnings(look(plant(rows_of(1200))))
    assert len(lines) == 1
    assert words in lines[0]


def test_a_base_model_that_was_made_for_another_language_is_named(look, minilm):
    english = look(rows_of(60), **{"model.base": minilm})
    assert english.lengths.unknown == 0
    chinese = _change(rows_of(60), "text", lambda n, r: "今天下午又晴了" * (1 + n % 5))
    found = look(chinese, **{"model.base": minilm})
    assert found.lengths.unknown > 0.2
    assert any(f"characters that {minilm} does not know" in line for line in warnings(found))


def test_rows_that_cannot_be_used_are_counted_by_what_is_wrong(look):
    rows = _copy(rows_of(1200))
    rows += [{"text": "", "label": "a"}] * 3 + [{"text": "kabel lodor", "label": ""}] * 2
    found = look(rows)
    assert found.dropped == {"empty text": 3, "no label": 2}
    assert (found.rows, found.used, found.copies.equal) == (1212, 1207, 7)
    assert "left out: 3 with empty text, 2 with no label" in dict(facts(found))["records"]


def test_what_is_advised_can_be_set(look):
    """A stranger's file: other names of columns, long texts, several rows a patient."""
    rows = [
        {
            "Patient": f"p-{n // 3}",
            "Befund": " ".join([row["text"]] * 4),
            "Diagnose": {"a": "yes", "b": "no"}[row["label"]],
        }
        for n, row in enumerate(rows_of(1200))
    ]
    found = look(rows, **{"model.max_length": 24})
    assert (found.text_column, found.label_column) == ("Befund", "Diagnose")
    advised = advice(found)
    keys = [one.key for one in advised if one.key]
    assert {key.split("=")[0] for key in keys} == {
        "data.text_column",
        "data.label_column",
        "data.group_column",
        "model.max_length",
    }
    again = look(rows, **dict(key.split("=", 1) for key in keys if "max_length" not in key))
    assert again.group_column == "Patient"
    assert not [one for one in advice(again) if "column" in one.key]


def test_a_file_that_training_would_refuse_says_why(tmp_path, tiny):
    file = tmp_path / "brought.jsonl"
    lines = [json.dumps(row) for row in rows_of(1200)]
    file.write_text("\n".join([*lines[:5], *["{not json"] * 30, *lines[5:]]))
    found = survey(Job.compose(None, {"data.path": str(file), "model.base": tiny("bert")}, []))
    assert found.used == 1200
    (line,) = warnings(found)
    assert "cannot be used as it is" in line
    assert "line 6: it is not valid JSON" in line
    assert "30 of 1,230 rows cannot be read" in line


def test_a_file_with_one_class_says_so(look):
    found = look([{**row, "label": "a"} for row in rows_of(1200)])
    assert found.used == 1200
    (line,) = warnings(found)
    assert "every row of column 'label' has the label 'a'" in line


def test_a_file_with_nothing_to_read_is_refused(tmp_path):
    file = tmp_path / "brought.csv"
    file.write_text("")
    with pytest.raises(DataError, match="empty"):
        survey(Job.compose(None, {"data.path": str(file)}, []))


def test_the_command_shows_no_record(tmp_path, tiny):
    from typer.testing import CliRunner

    rows = rows_of(1200)
    file = tmp_path / "brought.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    arguments = ["data", str(file), "--model", tiny("bert")]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0
    assert "2 classes: a (600), b (600)" in " ".join(shown.stdout.split())
    assert not any(word in shown.stdout for word in WORDS)
    values = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert values["classes"] == {"a": 600, "b": 600}
    assert values["tokens"]["median"] >= 9
