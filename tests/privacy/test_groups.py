"""Whole groups are drawn, each weighs as much as one record, and what that costs is accounted."""

import hashlib
import math
from collections import Counter

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.privacy.accounting.accountant import MechanismEvent, epsilon, noise_multiplier
from umbel.privacy.dpsgd.groups import Groups, first_of_each, numbered, shared
from umbel.privacy.randomness import SecretStream

DELTA = 1e-5
SIZES = st.lists(st.integers(1, 12), max_size=20)


def stream(name="s"):
    return SecretStream.from_key(hashlib.sha256(str(name).encode()).digest())


def of_sizes(sizes, seed=0):
    """Group numbers of records in no order, so many of each."""
    numbers = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(seed).permutation(numbers).astype(np.int64)


@given(SIZES, st.integers(1, 6), st.floats(0, 1), st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_a_drawn_group_weighs_one_whatever_its_size_and_brings_at_most_k_different_records(
    sizes, most, rate, seed
):
    groups = of_sizes(sizes, seed)
    drawn = Groups(groups).sample(rate, most, stream(seed))
    assert len(set(drawn.records.tolist())) == len(drawn.records)
    assert (np.diff(drawn.records) > 0).all()
    taken = Counter(groups[drawn.records].tolist())
    for group, count in taken.items():
        assert count == min(most, sizes[group])
        weight = drawn.weights[groups[drawn.records] == group]
        assert weight == pytest.approx(1 / count)
        assert weight.sum() <= 1 + 1e-12
    if rate == 1:
        assert len(taken) == len(sizes)


def test_groups_are_drawn_at_the_rate_each_for_itself_and_records_of_large_ones_alike():
    groups, rate, most, steps = Groups(of_sizes([1, 3, 9, 9])), 0.3, 3, 4000
    secret, drawn, records = stream(), np.zeros((steps, 4)), np.zeros(22)
    for step in range(steps):
        found = groups.sample(rate, most, secret)
        drawn[step, np.unique(groups._first[0][found.records])] = 1
        records[found.records] += 1
    sizes = groups.sizes
    error = 5 * math.sqrt(rate * (1 - rate) / steps)
    assert drawn.mean(axis=0) == pytest.approx(rate, abs=error)
    assert np.corrcoef(drawn.T) == pytest.approx(np.eye(4), abs=5 / math.sqrt(steps))
    chance = rate * np.minimum(most, sizes) / sizes
    assert records / steps == pytest.approx(chance[groups._first[0]], abs=error)


def test_without_groups_each_record_is_drawn_as_under_record_level_privacy():
    """So a data set without groups costs and learns the same under both units."""
    from umbel.privacy.randomness import poisson_sample

    drawn = Groups(np.arange(500)).sample(0.2, 8, stream("x"))
    assert drawn.records.tolist() == poisson_sample(500, 0.2, stream("x")).tolist()
    assert (drawn.weights == 1).all()


@given(st.lists(st.sampled_from(["", "a", "b", "0", "-1", "-2"]), max_size=12))
def test_a_row_without_a_group_is_one_of_its_own_that_no_named_group_can_be(names):
    numbers = numbered(names)
    for one in range(len(names)):
        for other in range(one):
            alike = bool(names[one]) and names[one] == names[other]
            assert (numbers[one] == numbers[other]) == alike


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=20), st.integers(1, 4), st.randoms())
def test_which_records_are_tested_depends_on_their_own_group_alone(numbers, most, random):
    groups = np.array(numbers)
    ranks = [hashlib.sha256(bytes([n, random.randrange(256)])).digest() for n in range(len(groups))]
    kept = first_of_each(groups, ranks, most)
    for group in set(numbers):
        mine = np.flatnonzero(groups == group)
        alone = mine[first_of_each(groups[mine], [ranks[n] for n in mine], most)]
        assert alone.tolist() == [n for n in kept if groups[n] == group]
        assert len(alone) == min(most, len(mine))


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30))
def test_what_a_group_counts_is_the_same_for_every_group_and_even_among_its_records(numbers):
    groups = np.array(numbers)
    weights = shared(groups, 64)
    assert (weights >= 0).all()
    for group in set(numbers):
        mine = weights[groups == group]
        assert mine.sum() == 64
        assert mine.max() - mine.min() <= 1


def mixture(sigma, shifts, steps, interval=2e-3):
    """Epsilon of steps in which a neighbour shifts by a random amount, by dp-accounting, both ways.

    shifts: probability by amount, in clipping norms (Ganesh 2024, "Tight Group-Level DP Guarantees
    for DP-SGD with Sampling via Mixture of Gaussians Mechanisms").
    """
    step = pld.from_mixture_gaussian_mechanism(
        sigma, list(shifts), list(shifts.values()), value_discretization_interval=interval
    )
    return step.self_compose(steps).get_epsilon_for_delta(DELTA)


def binomial(k, q):
    return {float(j): math.comb(k, j) * q**j * (1 - q) ** (k - j) for j in range(k + 1)}


@pytest.mark.parametrize(("rate", "sigma", "steps"), [(0.05, 0.9395, 100), (0.3, 2.0, 40)])
def test_a_group_costs_what_another_accountant_says_of_its_mixture(rate, sigma, steps):
    """Our steps shift by C with probability q and by nothing otherwise, however large the group."""
    ours = epsilon([MechanismEvent(sigma, rate, steps)], DELTA)
    assert ours == pytest.approx(mixture(sigma, {0.0: 1 - rate, 1.0: rate}, steps), rel=5e-3)


def test_records_drawn_one_by_one_are_never_charged_like_groups():
    """Why groups are drawn whole: q = .05, 100 steps, groups of 8, and a charge of 4.0."""
    k, rate, steps = 8, 0.05, 100
    sigma = noise_multiplier(4.0, DELTA, rate, steps)
    assert epsilon([MechanismEvent(sigma, rate, steps)], DELTA) == pytest.approx(4.0, abs=0.01)
    # As soon as one of them is drawn, a group of weight 1 shifts the sum by C.
    some = 1 - (1 - rate) ** k
    assert epsilon([MechanismEvent(sigma, some, steps)], DELTA) == pytest.approx(28.4, abs=0.1)
    assert mixture(sigma, {0.0: 1 - some, 1.0: some}, steps, 1e-2) == pytest.approx(28.4, abs=0.1)
    # Each that is drawn shifts it by C of its own.
    assert mixture(sigma, binomial(k, rate), steps, 2e-2) == pytest.approx(47.8, abs=0.3)
