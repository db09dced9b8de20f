"""Work that takes turns with the run: in one order, whatever the machine does."""

import pytest

from umbel.server.turns import Aside, Turns


@pytest.fixture
def turns(moved_clock):
    return Turns(moved_clock)


def steps(turns, said, name, *, pause):
    def work():
        for number in range(3):
            said.append(f"{name}{number}")
            turns.wait_until(turns.now() + pause)
        return name

    return Aside(turns, work)


def test_work_runs_only_in_its_turns_and_waits_by_the_clock(turns):
    said = []
    quick, slow = (steps(turns, said, name, pause=n) for name, n in (("a", 1), ("b", 2)))
    while not (quick.done and slow.done):
        said.append("-")
        quick.go_on()
        slow.go_on()
        turns.wait_until(turns.now() + 1)
    assert "".join(said) == "-a0b0-a1-a2b1--b2--"
    assert (quick.result(), slow.result()) == ("a", "b")


def test_what_work_raises_is_raised_where_it_goes_on(turns):
    def fails():
        turns.wait_until(1)
        raise ValueError("no")

    work = Aside(turns, fails)
    assert not work.go_on()
    turns.wait_until(1)
    with pytest.raises(ValueError, match="no"):
        work.go_on()
    assert work.done
    assert work.result() is None


def test_work_that_is_given_up_ends_where_it_waits(turns):
    said = []

    def waits():
        try:
            turns.wait_until(1)
            said.append("went on")
        finally:
            said.append("ended")

    begun, not_begun = Aside(turns, waits), Aside(turns, waits)
    begun.go_on()
    for work in (begun, not_begun):
        work.give_up()
        assert work.done
    assert said == ["ended"]
