"""A sweep is whole, or a third that a seed draws."""

import pytest

MEMBERS = list(range(32))


@pytest.fixture
def third(sweep, monkeypatch):
    """What is drawn of the members, by a seed."""
    monkeypatch.setenv("UMBEL_SWEEP", "third")

    def draw(seed, kind="numbers"):
        monkeypatch.setenv("UMBEL_SEED", seed)
        return sweep.drawn(kind, MEMBERS)

    return draw


def test_a_sweep_is_whole_if_nobody_asks_for_a_third(sweep, monkeypatch):
    monkeypatch.delenv("UMBEL_SWEEP", raising=False)
    assert sweep.drawn("numbers", MEMBERS) == MEMBERS


def test_a_third_is_the_same_with_a_seed_and_another_with_another(third):
    assert third("a") == third("a")
    assert third("a") != third("b")
    assert third("a") != third("a", kind="letters")
    assert len(third("a")) == 11
    assert third("a") == sorted(set(third("a")))


def test_every_member_is_drawn_some_day(third):
    # A member is left out of all 100 thirds with a probability of (21 / 32) ** 100, below one in 10^18; the
    # seeds are fixed.
    assert set().union(*(third(str(day)) for day in range(100))) == set(MEMBERS)


def test_a_seed_is_the_date_if_none_is_set(sweep, monkeypatch):
    monkeypatch.delenv("UMBEL_SEED", raising=False)
    assert len(sweep.seed().split("-")) == 3
    monkeypatch.setenv("UMBEL_SEED", "7")
    assert sweep.seed() == "7"
