"""Whoever brings a file is told what was found in it, before anything runs."""

from collections import Counter

import pytest

from umbel.reports.holdings import holdings_lines


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
    assert lines == [
        "70 records; left out: 1 with empty text, 2 with no label",
        "2 classes: yes (40), no (30)",
    ]


def test_a_class_with_too_few_records_is_named(found):
    assert "such as 'rare'" in found([*ROWS, ("odd", "rare"), ("odder", "rare")])[-1]
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
    assert f"{len(sizes) + alone} groups; the largest has {max(sizes.values())} records" in lines[1]
    assert lines[2].startswith(f"{alone} records without a group")


def test_texts_that_are_cut_are_counted(found):
    long = [(f"{i} " + "word " * 5000, "yes") for i in range(30)]
    assert "of the texts fill" in found([*ROWS, *long])[-1]
    assert not any("fill" in line for line in found(ROWS))
