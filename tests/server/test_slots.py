"""What a run's folder says of the sums in progress, which another process goes on from."""

import json

import pytest

from umbel.run.run_folder import RunFolder
from umbel.server.slots import OpenRound, OpenSlot, OpenSum, OpenSums

ROSTER = "ab" * 32
OPEN = [
    OpenSum(
        {"st-anna": 2, "st-mary": 3},
        OpenRound(
            "train",
            4,
            1,
            False,
            [OpenSlot(9, ["st-anna", "st-mary"], ["st-anna", "st-mary"], ["st-mary"], [])],
            ROSTER,
            left_out=[["st-john"]],
        ),
    ),
    OpenSum({"st-luke": 3}, OpenRound("train", 5, 0, False, [OpenSlot(10, ["st-luke"])], ROSTER)),
]


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def test_a_sum_that_was_taken_up_stays_on_the_disk_while_another_goes_on(folder):
    notes = OpenSums(folder)
    for number, one in enumerate(OPEN):
        notes.take_up(number, one)
    notes.hold(1, OPEN[1])
    assert OpenSums(folder).left() == OPEN
    notes.made(0)
    assert OpenSums(folder).left() == OPEN
    notes.hold(1, OPEN[1])
    assert OpenSums(folder).left() == OPEN[1:]
    notes.give_up(1)
    assert OpenSums(folder).left() == []


@pytest.mark.parametrize(
    "damaged",
    ["", "{}", "[1]", '["a"]', json.dumps([{"versions": {}, "open": "a"}]), '[{"versions": {}'],
)
def test_damaged_notes_are_as_good_as_none(folder, damaged):
    folder.write("sums.json", damaged.encode())
    assert OpenSums(folder).left() == []
