"""Whoever brings a file is told what was found in it, before anything runs."""

from collections import Counter

import numpy as np
import pytest

from umbel.errors import DataError
from umbel.simulations.federation import federate
from umbel.survey.holdings import holdings_lines


@pytest.fixture
def found(federation_of_rows):
    return lambda rows, **data: holdings_lines(federation_of_rows(rows, **data).holdings())


@pytest.fixture
def federation_of_rows(job_of, tmp_path):
    import json

    from umbel.simulations.federation import federate

    def build(rows, privacy=None, **data):
        path = tmp_path / "rows.jsonl"
        names = ("text", "label", "patient")
        path.write_text("\n".join(json.dumps(dict(zip(names, row, strict=False))) for row in rows))
        section = {"path": str(path), "labels": None, **data}
        dealt = {"partition": "iid", "clients": 2}
        return federate(job_of(data=section, simulation=dealt, privacy=privacy or {}))

    return build


ROWS = [(f"good {i}", "yes") for i in range(40)] + [(f"bad {i}", "no") for i in range(30)]


def test_records_classes_and_what_is_left_out_are_told(found):
    lines = found([*ROWS, ("", "yes"), ("x", ""), ("y", None)])
    assert lines[0].startswith("70 records, ")
    assert lines[0].endswith(" of them held out; left out: 1 with empty text, 2 with no label")
    assert lines[1] == "2 classes: yes (40), no (30)"
    assert lines[2].startswith("The first word of a text determines its label")
    assert len(lines) == 3


def test_a_plan_names_columns_that_determine_the_label_and_near_copies(job_of, tmp_path):
    """As ``umbel data`` does; not the column by which clients are told apart."""
    path = tmp_path / "tickets.csv"
    lines = [
        f"{n},ticket {n % 30} {'ab'[n % 2]}{'' if n < 60 else ' !'},{'ab'[n % 2]},{'XY'[n % 2]}-{n % 3},"
        f"{n % 5}"
        for n in range(90)
    ]
    path.write_text("\n".join(["id,text,label,team,shift", *lines]), encoding="utf-8")
    data = {"path": str(path), "labels": None}

    def told(partition, **more):
        dealt = {"partition": partition, **more}
        return holdings_lines(federate(job_of(data=data, simulation=dealt)).holdings())

    one = "Column 'team' determines the label in 100.0% of the rows. It is not read, but make sure"
    lines = told("iid", clients=2)
    assert len([line for line in lines if line.startswith(one)]) == 1
    assert not any("'shift'" in line or "'id'" in line for line in lines)
    assert any("near copies may be on both" in line for line in lines)
    path.write_text(path.read_text().replace("X-", "Z-").replace("-1,", "-2,"), encoding="utf-8")
    data["labels"] = ["a", "b"]
    assert not any("'team'" in line for line in told("column:team"))


def test_a_class_with_too_few_records_is_named(found):
    assert "such as 'rare'" in found([*ROWS, ("odd", "rare"), ("odder", "rare")])[2]
    many = [(f"text {i} {j}", f"2026-01-{i}") for i in range(1, 60) for j in range(3)]
    lines = found(many)
    assert "59 classes" in lines[1]
    assert "and 47 more" in lines[1]
    assert "fewer than 10 records, too few to learn: 59" in lines[2]


def test_groups_are_counted_where_they_are_protected(federation_of_rows, job_of, tmp_path):
    rows = [
        (text, label, "" if n % 10 == 0 else f"P{n % 7}") for n, (text, label) in enumerate(ROWS)
    ]
    privacy = {"unit": "group"}
    federation = federation_of_rows(rows, privacy, group_column="patient")
    lines = holdings_lines(federation.holdings())
    sizes = Counter(group for _, _, group in rows if group)
    alone = sum(not group for _, _, group in rows)
    assert f"{len(sizes) + alone} groups; the largest has {max(sizes.values())} records" in lines[2]
    assert lines[3].startswith(f"{alone} records without a group")


def test_texts_that_are_cut_are_counted_with_what_to_set(found):
    long = [(f"{i} " + "word " * 5000, "yes") for i in range(30)]
    said = "About 30% of the texts are cut at 24 tokens (model."
    assert any(line.startswith(said) for line in found([*ROWS, *long]))
    longer = [(f"{i} " + "good " * 50, "yes") for i in range(30)]
    assert "set model.max_length=" in " ".join(found([*ROWS, *longer]))
    assert not any("cut" in line for line in found(ROWS))


def test_a_text_that_is_held_out_is_not_trained_on(found, federation_of_rows, tmp_path):
    """Also if one group has it in training and another in the test."""
    test = tmp_path / "test.csv"
    test.write_text("text,label\n good 1 ,yes\nbad 2,no\nanother,no\n")
    federation = federation_of_rows(ROWS, test_path=str(test))
    assert federation.dropped == {"the same text as a held-out record": 2}
    trained = np.concatenate([share.train for share in federation.shares])
    assert len(trained) == len(ROWS) - 2
    assert "2 with the same text as a held-out record" in holdings_lines(federation.holdings())[0]
    grouped = [(f"text {n // 4}", ("yes", "no")[n // 4 % 2], f"p{n}") for n in range(80)]
    federation = federation_of_rows(grouped, group_column="patient")
    assert federation.dropped["the same text as a held-out record"] > 0
    path = tmp_path / "rows.jsonl"
    with pytest.raises(DataError, match="Every training text is held out too"):
        federation_of_rows(ROWS, test_path=str(path))


def test_nothing_held_out_and_classes_without_a_held_out_record_are_said(found, tmp_path):
    assert "No record is held out, so nothing is measured" in found(ROWS, test_fraction=0)[1]
    test = tmp_path / "test.csv"
    test.write_text("text,label\nanother,no\n")
    lines = found(ROWS, test_path=str(test))
    assert "classes without a held-out record: 1, such as 'yes'" in " ".join(lines)


def test_how_the_file_was_read_comes_first(federation_of_rows, tmp_path):
    test = tmp_path / "test.csv"
    test.write_text("text;label\nanother;no\none more;yes\n")
    lines = holdings_lines(federation_of_rows(ROWS, test_path=str(test)).holdings())
    assert lines[0] == "test.csv: columns separated by semicolons"


def test_a_plan_says_what_a_look_at_the_file_says(found):
    """Contradictions, markup, giveaways, words for missing values: in a plan, in a run, on its page."""
    rows = [(f"<p>{text}</p>", label) for text, label in ROWS]
    rows += [(rows[0][0], "nan"), (rows[1][0], "nan")]
    said = " ".join(found(rows))
    assert f"{len(rows)} texts have HTML" in said
    assert "rows have a text that also occurs with another label" in said
    assert "usually stands for a missing value: 'nan' (2 rows)" in said
