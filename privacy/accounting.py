"""How much epsilon a sequence of noisy steps costs, and how much noise an epsilon needs.

The mechanism is always the same: Poisson-sampled Gaussian noise. Each record takes part in a step
independently with probability q, each record's contribution has L2 norm at most C, and normal
noise of standard deviation sigma * C is added to the sum. Neighbouring data sets differ by one
record added or removed. Steps are composed with privacy loss distributions (Koskela et al. 2020;
Doroshenko et al. 2022, "Connect the dots"), whose rounding is pessimistic: every figure is an upper
bound.

An epsilon of a run is the composition of all its events, never a sum or a maximum of the epsilons
of its parts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..errors import PlanRefused

MOST_NOISE = 1e4
_PRECISION = 1.001
# An epsilon that protects nobody, and where exp(grid) overflows in dp-accounting.
_MEANINGLESS = 1e5
# Integer orders only: dp-accounting's series for fractional ones does not always converge.
_RDP_ORDERS = (*range(2, 33), 36, 40, 48, 56, 64, 80, 96, 128, 192, 256, 384, 512, 768, 1024)


@dataclass(frozen=True, order=True)
class MechanismEvent:
    """`steps` steps of the Poisson-sampled Gaussian mechanism (add-or-remove-one neighbours).

    `noise_multiplier` is the noise's standard deviation over the clipping norm, `sampling_rate` the
    probability of each record to take part in a step.
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int

    def __post_init__(self) -> None:
        if not (self.noise_multiplier >= 0 and math.isfinite(self.noise_multiplier)):
            raise ValueError(f"noise_multiplier must be finite and >= 0: {self.noise_multiplier}")
        if not 0 <= self.sampling_rate <= 1:
            raise ValueError(f"sampling_rate must lie in [0, 1]: {self.sampling_rate}")
        if self.steps < 0:
            raise ValueError(f"steps must be >= 0: {self.steps}")


Events = tuple[MechanismEvent, ...]


def canonical(events: Iterable[MechanismEvent]) -> Events:
    """The same composition, shortest: equal (sigma, q) merged by adding steps, then sorted.

    Composition does not depend on the order, and the accountant's time grows with the number of
    different events, not with their steps.
    """
    steps: dict[tuple[float, float], int] = {}
    for event in events:
        if event.steps and event.sampling_rate:
            mechanism = (float(event.noise_multiplier), float(event.sampling_rate))
            steps[mechanism] = steps.get(mechanism, 0) + event.steps
    return tuple(sorted(MechanismEvent(*mechanism, n) for mechanism, n in steps.items()))


def epsilon(events: Iterable[MechanismEvent], delta: float) -> float:
    """Upper bound on epsilon of the composition of `events` at `delta`; 0.0 for no events.

    Infinite where no epsilon holds (a step without noise, or a delta near the 1e-15 a step that
    the accountant cuts off), and above 100,000. Accurate to about 0.1 %, for epsilons above 0.01.
    """
    return _epsilon(canonical(events), _checked_delta(delta))


def epsilon_rdp(events: Iterable[MechanismEvent], delta: float) -> float:
    """The same by Renyi differential privacy (Mironov 2017; Mironov et al. 2019): a cross-check.

    Another proof and other code, 9 to 26 % looser in the usual range, so never below ``epsilon``.
    """
    return _epsilon_rdp(canonical(events), _checked_delta(delta))


def noise_multiplier(epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """The smallest sigma (to 0.1 %, rounded up) whose `steps` steps cost at most `epsilon`.

    ``epsilon([MechanismEvent(sigma, sampling_rate, steps)], delta)`` of the result never passes the
    target. Raises ``PlanRefused``, with the epsilon that could be met, where no sigma up to 10,000
    is enough. Cached; about ten evaluations of the accountant.
    """
    MechanismEvent(0.0, sampling_rate, steps)
    if not math.isfinite(epsilon):
        raise ValueError(f"epsilon must be finite: {epsilon}")
    return _noise_multiplier(epsilon, _checked_delta(delta), sampling_rate, steps)


def size_class(n: int) -> int:
    """`n` rounded down to two significant digits (3742 -> 3700, 87 -> 87); below one: 0.

    The only figure about the size of its data that an owner gives away.
    """
    if n < 1:
        return 0
    unit = int(10 ** max(0, len(str(n)) - 2))
    return n // unit * unit


def _checked_delta(delta: float) -> float:
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie between 0 and 1: {delta}")
    return float(delta)


@lru_cache(maxsize=4096)
def _epsilon(events: Events, delta: float) -> float:
    if not events:
        return 0.0
    if any(event.noise_multiplier == 0 for event in events):
        return math.inf
    magnitude = _epsilon_rdp(events, delta)
    if magnitude > _MEANINGLESS:
        return math.inf
    interval = _interval(magnitude)
    composed = _distribution(events[0], interval)
    for event in events[1:]:
        composed = composed.compose(_distribution(event, interval))
    return float(composed.get_epsilon_for_delta(delta))


def _interval(magnitude: float) -> float:
    """Grid of the privacy loss: finer for smaller epsilons; ten times finer is ten times slower."""
    if magnitude < 1:
        return 1e-4
    if magnitude < 100:
        return 1e-3
    return 10.0 ** (math.floor(math.log10(magnitude)) - 4)


@lru_cache(maxsize=64)
def _distribution(event: MechanismEvent, interval: float) -> Any:
    """The composed privacy loss distribution of one event, kept because ledgers grow by one."""
    from dp_accounting.pld import privacy_loss_distribution as pld

    if event.sampling_rate == 1:
        # n Gaussian steps are one with sigma / sqrt(n), exactly.
        return pld.from_gaussian_mechanism(
            event.noise_multiplier / math.sqrt(event.steps),
            value_discretization_interval=interval,
        )
    return pld.from_gaussian_mechanism(
        event.noise_multiplier,
        value_discretization_interval=interval,
        sampling_prob=event.sampling_rate,
    ).self_compose(event.steps)


@lru_cache(maxsize=4096)
def _epsilon_rdp(events: Events, delta: float) -> float:
    if not events:
        return 0.0
    if any(event.noise_multiplier == 0 for event in events):
        return math.inf
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(_RDP_ORDERS)
    for event in events:
        gaussian = dp_accounting.GaussianDpEvent(event.noise_multiplier)
        accountant.compose(
            dp_accounting.PoissonSampledDpEvent(event.sampling_rate, gaussian), event.steps
        )
    return float(accountant.get_epsilon(delta))


@lru_cache(maxsize=1024)
def _noise_multiplier(target: float, delta: float, sampling_rate: float, steps: int) -> float:
    def cost(sigma: float) -> float:
        return epsilon([MechanismEvent(sigma, sampling_rate, steps)], delta)

    def cheap_cost(sigma: float) -> float:
        return epsilon_rdp([MechanismEvent(sigma, sampling_rate, steps)], delta)

    if not steps or not sampling_rate:
        return 0.0
    if not (target > 0 and cost(MOST_NOISE) <= target):
        raise PlanRefused(
            f"No noise keeps {steps} steps at sampling rate {sampling_rate:g} within epsilon "
            f"{target:g} at delta {delta:g}; the least that can be met is epsilon "
            f"{_rounded_up(cost(MOST_NOISE)):g}. Raise privacy.epsilon, or ask for fewer steps."
        )
    # Renyi accounting never claims too little, so its sigma is enough and not far too large.
    high = 1.0
    while cheap_cost(high) > target and high < MOST_NOISE:
        high = min(2 * high, MOST_NOISE)
    while cheap_cost(high / 1.2) <= target:
        high /= 1.2
    low = high / 1.3
    high, low = _tidy(high), _tidy(low)
    while cost(high) > target:
        low, high = high, min(_tidy(1.3 * high), MOST_NOISE)
    while cost(low) <= target:
        low, high = _tidy(low / 1.3), low
    while high / low > _PRECISION:
        guess = _between(low, high, cost(low), cost(high), target)
        # The guess is good to a fraction of the precision; its neighbour closes the bracket.
        if cost(guess) <= target:
            high, neighbour = guess, _tidy(guess / (1 + 0.9 * (_PRECISION - 1)))
        else:
            low, neighbour = guess, _tidy(guess * (1 + 0.9 * (_PRECISION - 1)))
        if low < neighbour < high:
            if cost(neighbour) <= target:
                high = neighbour
            else:
                low = neighbour
    return high


def _between(low: float, high: float, cost_low: float, cost_high: float, target: float) -> float:
    """Interpolate log epsilon over log sigma; the middle where that leaves the bracket."""
    share = 0.5
    if math.isfinite(cost_low) and cost_high > 0:
        share = math.log(cost_low / target) / math.log(cost_low / cost_high)
    guess = _tidy(low * (high / low) ** share)
    return guess if low < guess < high else _tidy(math.sqrt(low * high))


def _tidy(sigma: float) -> float:
    """Five significant digits: what is printed, charged and used is then the same number."""
    return float(f"{sigma:.5g}")


def _rounded_up(value: float) -> float:
    """Two significant digits, rounded up, for a message that must not promise too much."""
    if not math.isfinite(value) or value <= 0:
        return value
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit) * unit
