"""Numbers stand with what they count in the right form."""

import pytest

from umbel.quantities import counted, plural, quoted


@pytest.mark.parametrize(
    ("one", "several"),
    [
        ("row", "rows"),
        ("class", "classes"),
        ("copy", "copies"),
        ("day", "days"),
        ("batch", "batches"),
        ("row of it", "rows of it"),
        ("training row", "training rows"),
        ("class of two", "classes of two"),
    ],
)
def test_a_count_is_said_with_its_noun_in_the_right_form(one, several):
    assert counted(1, one) == f"1 {one}"
    assert counted(1200, one) == f"1,200 {several}"
    assert counted(0, one) == f"0 {plural(one)}"
    assert counted(2, "person", "people") == "2 people"


@pytest.mark.parametrize(
    "value", ["it's " * 30, 'a "quote" ' * 30, "short", b"bytes" * 40, ["a"] * 50]
)
def test_what_is_cut_keeps_its_quotes(value):
    said = quoted(value)
    assert len(said) <= 64
    if isinstance(value, str):
        assert said[0] == said[-1]


def test_no_time_left_is_told_from_the_first_few_pieces():
    from umbel.reports.progress import _Stage

    stage = _Stage("reading", 1000, begun=0.0)
    assert stage.pace(8, now=2.5) == ""
    assert stage.pace(8, now=20.0).endswith("left")
    assert stage.pace(400, now=2.5).endswith("left")
