import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.errors import PlanRefused
from umbel.privacy.accounting.accountant import (
    MechanismEvent,
    canonical,
    epsilon,
    epsilon_rdp,
    noise_multiplier,
)

DELTA = 1e-5
events = st.lists(
    st.builds(
        MechanismEvent,
        st.sampled_from([0.7, 1.0, 2.5]),
        st.sampled_from([0.02, 0.1, 1.0]),
        st.integers(1, 40),
    ),
    max_size=5,
)


@pytest.mark.parametrize(
    ("sigma", "rate", "steps", "expected"),
    [
        (1.0, 0.1, 200, 9.97),
        # Privacy buckets enclose it in [5.860, 5.880].
        (0.6, 0.015, 200, 5.87),
        (1.0, 0.05, 500, 7.52),
        (0.5, 0.001, 5000, 4.39),
    ],
)
def test_reference_figures_hold_and_renyi_accounting_is_looser(sigma, rate, steps, expected):
    schedule = [MechanismEvent(sigma, rate, steps)]
    exact = epsilon(schedule, DELTA)
    assert exact == pytest.approx(expected, abs=0.006)
    assert 1.05 * exact < epsilon_rdp(schedule, DELTA) < 1.3 * exact


def test_gaussian_steps_without_sampling_cost_what_balle_and_wang_prove():
    def normal(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2))

    cost = epsilon([MechanismEvent(10.0, 1.0, 88)], DELTA)
    mu = math.sqrt(88) / 10
    # Balle and Wang 2018, Theorem 8.
    delta = normal(mu / 2 - cost / mu) - math.exp(cost) * normal(-mu / 2 - cost / mu)
    assert delta == pytest.approx(DELTA, rel=1e-3)


@given(events)
@settings(max_examples=12, deadline=None)
def test_renyi_accounting_never_claims_less(schedule):
    assert epsilon(schedule, DELTA) <= epsilon_rdp(schedule, DELTA) * (1 + 1e-9)


@given(events, st.randoms())
@settings(max_examples=12, deadline=None)
def test_epsilon_depends_neither_on_the_order_nor_on_how_steps_are_cut(schedule, random):
    cut = [MechanismEvent(e.noise_multiplier, e.sampling_rate, 1) for e in schedule] + [
        MechanismEvent(e.noise_multiplier, e.sampling_rate, e.steps - 1) for e in schedule
    ]
    random.shuffle(cut)
    assert canonical(cut) == canonical(schedule)
    assert epsilon(cut, DELTA) == epsilon(schedule, DELTA)


@given(events, events)
@settings(max_examples=15, deadline=None)
def test_more_events_never_cost_less(first, second):
    # The grid of the accountant depends on the size of epsilon, hence the margin.
    assert epsilon(first + second, DELTA) >= epsilon(first, DELTA) * (1 - 1e-3)


def test_nothing_costs_nothing_and_no_noise_costs_everything():
    assert epsilon([], DELTA) == 0.0
    assert epsilon([MechanismEvent(0.0, 0.0, 5), MechanismEvent(1.0, 0.1, 0)], DELTA) == 0.0
    assert epsilon([MechanismEvent(0.0, 0.1, 1)], DELTA) == math.inf
    assert epsilon_rdp([MechanismEvent(0.0, 0.1, 1)], DELTA) == math.inf
    assert epsilon([MechanismEvent(1e-5, 1.0, 1)], DELTA) == math.inf


@pytest.mark.parametrize(
    "fields",
    [
        (-1, 0.1, 1),
        (math.nan, 0.1, 1),
        (1, 1.1, 1),
        (1, 0.1, -1),
        (1, 0.1, 1, "laplace"),
        (1, 0.1, 1, "concentrated"),
    ],
)
def test_an_event_that_cannot_be_is_refused(fields):
    with pytest.raises(ValueError, match=r"must"):
        MechanismEvent(*fields)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_a_delta_that_is_no_probability_is_refused(delta):
    with pytest.raises(ValueError, match="delta"):
        epsilon([MechanismEvent(1.0, 0.1, 1)], delta)


@pytest.mark.parametrize(
    ("target", "rate", "steps"),
    [(8, 0.06, 88), (2, 0.17, 88), (8, 1.0, 88), (0.05, 0.06, 88), (100, 0.1, 1), (1e6, 0.1, 3)],
)
def test_the_noise_for_a_target_is_enough_and_hardly_more(target, rate, steps):
    sigma = noise_multiplier(target, DELTA, rate, steps)
    assert epsilon([MechanismEvent(sigma, rate, steps)], DELTA) <= target
    assert epsilon([MechanismEvent(sigma / 1.0011, rate, steps)], DELTA) > target


def test_a_target_that_no_noise_meets_is_refused_with_one_that_can_be_met():
    with pytest.raises(PlanRefused, match="least that can be met is epsilon") as refusal:
        noise_multiplier(1e-5, DELTA, 1.0, 88)
    possible = float(
        str(refusal.value).split("can be met is epsilon ")[1].split(". ")[0].rstrip(".")
    )
    assert noise_multiplier(possible, DELTA, 1.0, 88) <= 1e4
    with pytest.raises(PlanRefused):
        noise_multiplier(0.0, DELTA, 0.1, 10)


def test_no_steps_need_no_noise():
    assert noise_multiplier(1.0, DELTA, 0.1, 0) == 0.0


@given(
    events,
    st.lists(st.tuples(st.floats(0.01, 2.0), st.integers(1, 9)), max_size=3),
)
@settings(deadline=None, max_examples=30)
def test_pure_releases_add_what_they_cost_to_the_rest(others, releases):
    """Basic composition (Dwork et al. 2006): nothing less, and not a bit more."""
    pure = [MechanismEvent(1 / cost, 1.0, times, "pure") for cost, times in releases]
    alone = sum(cost * times for cost, times in releases)
    assert epsilon(pure, DELTA) == pytest.approx(alone)
    assert epsilon([*others, *pure], DELTA) == pytest.approx(epsilon(others, DELTA) + alone)
    assert epsilon_rdp([*others, *pure], DELTA) >= epsilon([*others, *pure], DELTA)


def test_a_pure_release_without_noise_has_no_epsilon():
    nothing = MechanismEvent(0.0, 1.0, 1, "pure")
    assert epsilon([nothing], DELTA) == epsilon_rdp([nothing], DELTA) == math.inf
    with pytest.raises(ValueError, match="pure release must have sampling_rate 1"):
        MechanismEvent(1.0, 0.5, 1, "pure")
