"""Our accountant beside dp-accounting, which shares no code with it."""

import functools
import math
import random

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.rdp import RdpAccountant

from umbel.privacy.accounting import losses, renyi
from umbel.privacy.accounting.accountant import (
    MOST_MECHANISMS,
    MechanismEvent,
    epsilon,
    epsilon_rdp,
)

DELTA = 1e-5
SIGMAS, RATES = (0.8, 1.2, 2.5), (0.02, 0.1, 1.0)


@functools.cache
def one_step(sigma, rate, interval):
    return pld.from_gaussian_mechanism(
        sigma, sampling_prob=rate, value_discretization_interval=interval
    )


def composed(events, interval=1e-4):
    """By dp-accounting, on its default grid; a concentrated release as if its noise were normal."""
    found = None
    for event in events:
        one = one_step(event.noise_multiplier, event.sampling_rate, interval)
        some = one.self_compose(event.steps)
        found = some if found is None else found.compose(some)
    return found.get_epsilon_for_delta(DELTA)


def renyi_bound(events, delta=DELTA):
    """By dp-accounting's Renyi accountant, which takes zCDP as it is."""
    orders = [*range(2, 65), 80, 96, 128, 192, 256, 512, 1024]
    accountant = RdpAccountant(orders)
    for event in events:
        gaussian = dp_accounting.GaussianDpEvent(event.noise_multiplier)
        if event.kind == "concentrated":
            one = dp_accounting.ZCDpEvent(1 / (2 * event.noise_multiplier**2))
        else:
            one = dp_accounting.PoissonSampledDpEvent(event.sampling_rate, gaussian)
        accountant.compose(one, event.steps)
    return accountant.get_epsilon(delta)


def schedule(draw, kinds=("gaussian",), most=5):
    found = []
    for _ in range(draw.randint(1, most)):
        kind = draw.choice(kinds)
        rate = 1.0 if kind == "concentrated" else draw.choice(RATES)
        steps = draw.choice([1, 3, 10, 40, 150]) if rate < 1 else draw.randint(1, 3)
        sigma = draw.choice(SIGMAS) * (1 if rate < 1 else 4)
        found.append(MechanismEvent(sigma, rate, steps, kind))
    return found


def seeds(most, slow):
    """So many schedules in the default suite, and others up to `most` in the slow one."""
    more = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(slow, most)]
    return pytest.mark.parametrize("seed", [*range(slow), *more])


@seeds(40, slow=12)
def test_gaussian_schedules_cost_what_dp_accounting_says_and_never_less(seed):
    events = schedule(random.Random(seed))
    expected = composed(events)
    assert expected <= epsilon(events, DELTA) <= 1.01 * expected


@seeds(30, slow=12)
def test_mixtures_lie_between_normal_noise_and_renyi_accounting(seed):
    """A concentrated release costs at least what normal noise of its size does."""
    draw = random.Random(seed)
    events = [
        *schedule(draw, ("gaussian", "concentrated"), most=4),
        MechanismEvent(draw.choice([3.0, 9.0, 30.0]), 1.0, draw.randint(1, 8), "concentrated"),
    ]
    found = epsilon(events, DELTA)
    assert composed(events, 1e-3) * (1 - 1e-3) <= found <= 1.01 * renyi_bound(events)


def test_a_few_noised_counts_cost_a_long_training_little():
    training = MechanismEvent(1.0, 0.1, 200)
    counts = MechanismEvent(100.0, 1.0, 20, "concentrated")
    alone = epsilon([training], DELTA)
    assert alone < epsilon([training, counts], DELTA) < 1.03 * alone
    assert epsilon([training, counts], DELTA) < 0.95 * renyi_bound([training, counts])


@pytest.mark.parametrize("delta", [1e-9, 1e-5, 1e-2, 0.3])
@pytest.mark.parametrize("way", ["remove", "add"])
@pytest.mark.parametrize(("sigma", "rate", "steps"), [(0.6, 0.02, 40), (3.0, 1.0, 1), (20, 0.1, 3)])
def test_epsilon_is_the_least_that_holds_with_delta(sigma, rate, steps, way, delta):
    found = losses.compose([((sigma, rate), steps)], 1e-3, way)
    eps = found.epsilon(delta)
    assert found.delta(eps) <= delta * (1 + 1e-9)
    assert eps == 0 or found.delta(eps * (1 - 1e-6)) > delta


def test_an_epsilon_of_hundreds_is_bounded_too():
    events = [MechanismEvent(0.05, 1.0, 1)]
    mu = 1 / 0.05
    least = mu**2 / 2 + 4.2 * mu
    assert least < epsilon(events, DELTA) < 1.05 * least


def test_a_grid_is_fine_enough_for_very_many_tiny_losses():
    events = [MechanismEvent(30.0, 0.1, 100_000)]
    assert composed(events) <= epsilon(events, DELTA) <= 1.001 * composed(events)


@pytest.mark.parametrize("rho", [0.001, 0.1, 2.0, 30.0])
def test_zcdp_by_itself_is_as_tight_as_its_definition_allows(rho):
    """Proposition 1.3 of Bun and Steinke 2016 is looser; normal noise, which is rho-zCDP, cheaper."""
    sigma = math.sqrt(1 / (2 * rho))
    found = epsilon([MechanismEvent(sigma, 1.0, 1, "concentrated")], DELTA)
    assert found < rho + 2 * math.sqrt(rho * math.log(1 / DELTA))
    assert epsilon([MechanismEvent(sigma, 1.0, 1)], DELTA) < found


def test_concentrated_releases_add_up_whatever_their_noise():
    several = [MechanismEvent(4.0, 1.0, n, "concentrated") for n in (1, 2, 1)]
    one = [MechanismEvent(2.0, 1.0, 1, "concentrated")]
    assert epsilon(several, DELTA) == pytest.approx(epsilon(one, DELTA), rel=1e-12)


@pytest.mark.parametrize("rate", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("sigma", [0.5, 1.0, 8.0])
def test_renyi_divergences_are_those_of_dp_accounting(sigma, rate):
    events = [MechanismEvent(sigma, rate, 7)]
    assert epsilon_rdp(events, DELTA) == pytest.approx(renyi_bound(events), rel=2e-3)
    assert (np.diff(renyi.sampled_gaussian(sigma, rate)) >= -1e-12).all()


@pytest.mark.parametrize("way", ["remove", "add"])
@pytest.mark.parametrize(("sigma", "rate"), [(0.5, 0.001), (1.0, 0.1), (3.0, 0.99), (0.7, 1.0)])
def test_one_step_encloses_the_hockey_stick_divergence(sigma, rate, way):
    """The divergence by numerical integration of its definition."""
    from scipy.integrate import quad
    from scipy.stats import norm

    def without(x):
        return norm.pdf(x, 0, sigma)

    def with_record(x):
        return (1 - rate) * norm.pdf(x, 0, sigma) + rate * norm.pdf(x, 1, sigma)

    p, q = (with_record, without) if way == "remove" else (without, with_record)
    one = losses.losses((sigma, rate), 1e-3, way)
    for eps in (0.0, 0.0304, 0.3, 1.0007):
        exact, error = quad(
            lambda x, e=eps: max(0.0, p(x) - math.exp(e) * q(x)), -12 * sigma, 1 + 12 * sigma,
            limit=2000, points=[0, 0.5, 1],
        )  # fmt: skip
        assert exact - error - 1e-12 <= one.delta(eps) <= exact + error + 1e-6
    assert one.masses.sum() + one.infinite == pytest.approx(1, abs=1e-12)


def test_many_mechanisms_cost_a_little_more_and_never_less():
    draw = random.Random(3)
    events = [
        MechanismEvent(draw.uniform(1, 4), draw.uniform(0.01, 0.2), draw.randint(1, 5))
        for _ in range(MOST_MECHANISMS + 20)
    ]
    # The exact composition, on the same grid, without merging.
    steps = [((e.noise_multiplier, e.sampling_rate), e.steps) for e in events]
    exact = max(losses.compose(steps, 1e-3, way).epsilon(DELTA) for way in ("remove", "add"))
    assert exact <= epsilon(events, DELTA) <= 1.2 * exact


def test_less_noise_and_more_sampling_never_cost_less():
    """What merging relies on."""
    grid = [
        [epsilon([MechanismEvent(s, q, 20)], DELTA) for q in (0.01, 0.0101, 0.1, 0.5, 1.0)]
        for s in (0.8, 0.81, 1.5, 3.0)
    ]
    found = np.array(grid)
    assert (np.diff(found, axis=1) >= 0).all()
    assert (np.diff(found, axis=0) <= 0).all()
