"""What the tests of a job cost, against the mechanism's own privacy loss."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.errors import PlanRefused
from umbel.privacy.accounting.accountant import MechanismEvent, epsilon
from umbel.privacy.noise.counts_noise import (
    LOSS_STEPS,
    RECORD,
    budget_of_tests,
    counts_event,
    counts_noise,
    noise_beside,
)
from umbel.privacy.randomness import SecretStream

DELTA = 1e-5


def exact_epsilon(noise, tests):
    """By dp-accounting's distributions of the two integer queries of a test, composed."""
    from dp_accounting.pld import privacy_loss_distribution as pld

    z = noise * math.sqrt(2)
    cell = pld.from_discrete_gaussian_mechanism(z, 1, value_discretization_interval=1e-3)
    loss = pld.from_discrete_gaussian_mechanism(
        z * LOSS_STEPS, LOSS_STEPS, value_discretization_interval=1e-3
    )
    return cell.compose(loss).self_compose(tests).get_epsilon_for_delta(DELTA)


@pytest.mark.parametrize(("target", "tests"), [(0.5, 3), (0.5, 12), (2.0, 5)])
def test_tests_keep_to_their_epsilon_with_no_more_noise_than_needed(target, tests):
    event = counts_event(target, DELTA, tests)
    assert (event.steps, event.kind) == (tests, "concentrated")
    assert exact_epsilon(event.noise_multiplier, tests) <= epsilon([event], DELTA) <= target
    less = MechanismEvent(event.noise_multiplier / 1.01, 1.0, tests, "concentrated")
    assert epsilon([less], DELTA) > target


def test_a_target_that_no_noise_meets_is_refused():
    with pytest.raises(PlanRefused, match="No sensible noise keeps .* within epsilon"):
        counts_event(1e-4, DELTA, 100)


@given(
    target=st.floats(0.1, 20), delta=st.sampled_from([1e-7, 1e-5, 1e-3]), tests=st.integers(1, 400)
)
def test_however_many_tests_there_are_they_cost_no_more_than_the_one_release(target, delta, tests):
    """So noise of training, made beside that release, holds for any number that a server names."""
    one, event = budget_of_tests(target, delta), counts_event(target, delta, tests)
    together = replace(event, steps=tests)
    assert epsilon([together], delta) <= epsilon([one], delta) <= target
    steps = MechanismEvent(1.1, 0.1, 80)
    assert epsilon([together, steps], delta) <= epsilon([one, steps], delta)


@pytest.mark.parametrize("target", [1.0, 8.0])
def test_training_and_tests_together_keep_to_the_epsilon_of_the_job(target):
    tests = counts_event(0.5, DELTA, 11)
    sigma = noise_beside(target, DELTA, 0.1, 90, (tests,))
    assert epsilon([MechanismEvent(sigma, 0.1, 90), tests], DELTA) <= target
    assert epsilon([MechanismEvent(sigma / 1.005, 0.1, 90), tests], DELTA) > target
    assert noise_beside(target, DELTA, 0.1, 90) < sigma


def test_no_room_for_training_is_refused():
    with pytest.raises(
        PlanRefused, match="No noise keeps 90 steps and 11 other releases within epsilon 0.4"
    ):
        noise_beside(0.4, DELTA, 0.1, 90, (counts_event(0.5, DELTA, 11),))


@pytest.mark.parametrize("shares", [1, 2, 3])
def test_shares_add_up_to_the_noise_that_was_charged(shares):
    event = MechanismEvent(10.0, 1.0, 1, "concentrated")
    stream = SecretStream.from_key(bytes(32))
    drawn = np.array([counts_noise(3, event, shares, stream) for _ in range(1500)], dtype=float)
    z = 10.0 * math.sqrt(2) / math.sqrt(shares)
    assert drawn[:, :3].std() == pytest.approx(z, rel=0.05)
    assert drawn[:, 3].std() == pytest.approx(z * LOSS_STEPS, rel=0.08)


@pytest.mark.parametrize("sums", [1, 2, 5])
def test_a_record_that_changes_every_sum_by_the_most_costs_no_more_than_one_with_a_single_sum(sums):
    """In shares of the noise's deviation a record moves them, together in L2, by 1 / z at most."""
    event, change = MechanismEvent(10.0, 1.0, 1, "concentrated"), replace(RECORD, sums=sums)
    stream = SecretStream.from_key(bytes(32))
    drawn = np.array([counts_noise(2, event, 1, stream, change) for _ in range(1500)], dtype=float)
    assert drawn.shape == (1500, 2 + sums)
    moved = np.full(sums, change.sum) / drawn[:, 2:].std(axis=0)
    assert np.linalg.norm(moved) == pytest.approx(1 / (10.0 * math.sqrt(2)), rel=0.08)
    assert drawn[:, :2].std() == pytest.approx(10.0 * math.sqrt(2), rel=0.05)
