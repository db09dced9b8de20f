"""An epsilon in plain words: the most right guesses of whether a record was there."""

import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from scipy.special import ndtr

from umbel.privacy.accounting.accountant import MechanismEvent, noise_multiplier
from umbel.privacy.accounting.odds import most_right

DELTA = 1e-5


@pytest.mark.parametrize(("sigma", "steps"), [(1.0, 1), (4.0, 10), (20.0, 3)])
def test_of_noise_without_sampling_it_is_what_the_best_attack_reaches(sigma, steps):
    exact = ndtr(math.sqrt(steps) / sigma / 2)
    found = most_right([MechanismEvent(sigma, 1.0, steps)], DELTA)
    assert exact <= found <= exact * 1.001


@pytest.mark.parametrize(
    ("sigma", "rate", "steps"), [(1.0, 0.1, 40), (0.8, 0.01, 500), (2.0, 0.5, 8)]
)
def test_of_sampled_steps_it_is_what_dp_accounting_says(sigma, rate, steps):
    one = pld.from_gaussian_mechanism(sigma, sampling_prob=rate, value_discretization_interval=1e-4)
    expected = (1 + one.self_compose(steps).get_delta_for_epsilon(0.0)) / 2
    assert most_right([MechanismEvent(sigma, rate, steps)], DELTA) == pytest.approx(
        expected, rel=2e-3
    )


def test_of_a_pure_release_it_is_that_of_randomised_response():
    found = most_right([MechanismEvent(0.5, 1.0, 1, "pure")], DELTA)
    assert found == pytest.approx(math.e**2 / (1 + math.e**2), rel=1e-4)


def test_nothing_released_leaves_a_coin_and_no_noise_leaves_no_doubt():
    assert most_right([], DELTA) == 0.5
    assert most_right([MechanismEvent(0.0, 1.0, 1)], DELTA) == 1.0
    assert most_right([MechanismEvent(1e-3, 1.0, 5, "pure")], DELTA) == 1.0


def test_more_epsilon_is_more_and_parts_add_up():
    found = [
        most_right([MechanismEvent(noise_multiplier(e, DELTA, 0.1, 100), 0.1, 100)], DELTA)
        for e in (0.5, 1, 2, 4, 8)
    ]
    assert found == sorted(found)
    assert 0.5 < found[0] < found[-1] < math.e**8 / (1 + math.e**8)
    parts = [
        MechanismEvent(2.0, 0.1, 20),
        MechanismEvent(10.0, 1.0, 1, "pure"),
        MechanismEvent(20.0, 1.0, 2, "concentrated"),
    ]
    alone = [most_right([part], DELTA) - 0.5 for part in parts]
    assert max(alone) < most_right(parts, DELTA) - 0.5 <= sum(alone) + 1e-9


def test_an_attack_that_knows_all_but_the_record_is_not_right_more_often():
    """The likelihood of sums of sampled steps, of 200,000 tries: within four standard deviations."""
    draw, sigma, rate, steps, tries = np.random.default_rng(3), 0.8, 0.3, 6, 200_000
    there = draw.random(tries) < 0.5
    taken = (draw.random((tries, steps)) < rate) & there[:, None]
    seen = taken + sigma * draw.normal(size=(tries, steps))
    ratio = (1 - rate) + rate * np.exp((2 * seen - 1) / (2 * sigma**2))
    right = ((np.log(ratio).sum(axis=1) > 0) == there).mean()
    bound = most_right([MechanismEvent(sigma, rate, steps)], DELTA)
    slack = 4 * 0.5 / math.sqrt(tries)
    assert bound - 0.01 < right < bound + slack
