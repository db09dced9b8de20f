"""The second accountant: what it says of schedules beside the first."""

import logging
import random

import pytest

from umbel.privacy.accounting import second
from umbel.privacy.accounting.accountant import MechanismEvent, epsilon

DELTA = 1e-5


def schedule(seed):
    draw = random.Random(seed)
    events = [
        MechanismEvent(
            draw.uniform(0.7, 8), draw.choice([1.0, draw.uniform(0.01, 0.5)]), draw.randint(1, 60)
        )
        for _ in range(draw.randint(1, 3))
    ]
    if draw.random() < 0.5:
        events.append(MechanismEvent(10.0, 1.0, 1, "pure"))
    if seed % 2:
        events.append(MechanismEvent(draw.uniform(5, 40), 1.0, draw.randint(1, 6), "concentrated"))
    return events


@pytest.mark.parametrize("seed", range(10))
def test_both_accountants_say_the_same_within_a_hundredth(seed):
    events = schedule(seed)
    ours, theirs = epsilon(events, DELTA), second.epsilon(events, DELTA)
    assert ours == pytest.approx(theirs, rel=0.01)


@pytest.mark.parametrize(
    ("sigma", "rate", "steps"),
    [(1.0, 0.05, 1000), (20.0, 1.0, 1), (20.0, 1.0, 1000), (2.0, 0.1, 1), (0.9, 1.0, 2)],
)
def test_its_coarse_grid_is_fine_enough(sigma, rate, steps, monkeypatch):
    events = (MechanismEvent(sigma, rate, steps),)
    found = second.epsilon(events, DELTA)
    monkeypatch.setattr(second, "_MOST_STEPS", 0)
    fine = second._epsilon.__wrapped__(events, DELTA)
    assert fine * (1 - 1e-9) <= found <= fine * (1 + 1e-3)


def test_nothing_costs_nothing_and_less_noise_costs_more():
    assert second.epsilon([], DELTA) == 0
    some = [MechanismEvent(sigma, 0.1, 20) for sigma in (4.0, 2.0, 1.0)]
    found = [second.epsilon([one], DELTA) for one in some]
    assert found == sorted(found)
    assert second.epsilon([MechanismEvent(4.0, 1.0, 2, "pure")], DELTA) == 0.5


def test_orders_that_are_left_out_are_said_to_nobody(caplog):
    """Of Renyi's orders the best one counts: that others cannot be computed is no news for a reader."""
    second.epsilon([MechanismEvent(4.0, 1.0, 2, "concentrated")], DELTA)  # the library is loaded
    absl = logging.getLogger("absl")
    before = absl.level
    steps = MechanismEvent(1.2996, 0.140659, 40)
    with caplog.at_level(logging.WARNING):
        assert second.epsilon([steps, MechanismEvent(20.0, 1.0, 4, "concentrated")], DELTA) > 0
    assert not [record for record in caplog.records if record.name == "absl"]
    assert absl.level == before
