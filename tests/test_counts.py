"""Numbers stand with what they count in the right form."""

import pytest

from umbel.quantities import counted, plural


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
