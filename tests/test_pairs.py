"""``pytest.mark.pairs``: every two values meet in the default suite, and no case is in neither suite."""

import itertools

import pytest


def pairs_of(cases):
    return {pair for case in cases for pair in itertools.combinations(enumerate(case), 2)}


@pytest.mark.parametrize("leave", [lambda case: True, lambda case: case[:2] != ("a", 1)])
def test_every_two_values_that_occur_together_do_in_few_cases(pairs, leave):
    cases = [case for case in itertools.product("abc", [1, 2], "xyz", [True, False]) if leave(case)]
    chosen = [cases[place] for place in pairs.every_pair(cases)]
    assert pairs_of(chosen) == pairs_of(cases)
    assert len(chosen) <= 12 < len(cases)


class Item:
    def __init__(self, name, marked=True, **parameters):
        self.nodeid = f"{name}[{parameters}]"
        self.marked, self.slow = marked, False
        self.callspec = type("Call", (), {"params": parameters})

    def get_closest_marker(self, name):
        return self.marked and name == "pairs"

    def add_marker(self, marker):
        assert marker.name == "slow"
        self.slow = True


def test_the_other_cases_of_marked_tests_are_slow_and_nothing_else_is(pairs):
    made = [
        Item(name, name != "plain", a=a, b=b, c=c)
        for name in ("one", "two", "plain")
        for a in (1, 2, 3)
        for b in "xy"
        for c in "uv"
    ]
    pairs.mark(made)
    for name in ("one", "two"):
        kept = [
            tuple(i.callspec.params.values())
            for i in made
            if not i.slow and i.nodeid.startswith(name)
        ]
        assert pairs_of(kept) == pairs_of(itertools.product((1, 2, 3), "xy", "uv"))
        assert len(kept) < 12
    assert not any(item.slow for item in made if item.nodeid.startswith("plain"))


def test_a_case_that_is_named_alone_runs(pairs):
    alone = Item("one", a=1, b="x")
    pairs.mark([alone])
    assert not alone.slow
