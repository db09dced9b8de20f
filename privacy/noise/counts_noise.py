"""How much noise hides a held-out record, or a client, in the counts of a test; what tests cost.

A test releases cells and m sums, the loss first, each plus discrete Gaussian noise of z times the most that a
neighbour changes them (``Change``): the cells together, and the sums together, in L2. Each of the two is
(1 / (2 z^2))-zCDP, so a test is (1 / z^2)-zCDP: one ``concentrated`` event with noise multiplier z / sqrt(2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from ...errors import PlanRefused
from ..accounting.accountant import (
    MOST_NOISE,
    NOISE_PRECISION,
    Kind,
    MechanismEvent,
    epsilon,
    noise_multiplier,
    tidy,
)
from ..randomness import SecretStream
from .discrete import discrete_gaussian

LOSS_STEPS = 64
"""What a held-out record adds to a sum (its loss) is rounded to this many steps: it can change no more."""
LEAST_NOISE = 3.0
"""Least deviation of one test: below it, the noise is not a discrete Gaussian with the variance asked for."""
_LEAST_BUDGET = 0.1
MOST_COUNTS_NOISE = 1000.0


CLIENT_COUNTS = 100
"""What the counts of each client are scaled to if all its data are protected together."""
GROUP_COUNTS = 64
"""What the counts of each group of records sum to, for any number of records."""
_LEAST_VARIANCE = 4
"""Least deviation of a share: below it, shares no longer add up to one discrete Gaussian."""


@dataclass(frozen=True)
class Change:
    """The most by which neighbours differ: squared L2 norm over all cells, and each of the sums."""

    cells_squared: int
    sum: int
    sums: int = 1
    """How many sums there are."""

    @property
    def sums_squared(self) -> int:
        """Squared L2 norm over all sums."""
        return self.sums * self.sum**2


RECORD = Change(1, LOSS_STEPS)
"""One record added or removed is one in one cell."""
GROUP = Change(GROUP_COUNTS**2, LOSS_STEPS)
"""One group more adds whole numbers of at least 0 that sum to ``GROUP_COUNTS`` (to less if some of its
records cannot be read) to the cells, which is longest if all are in one cell, and a mean of losses of at
most ``LOSS_STEPS``."""
CLIENT = Change(2 * CLIENT_COUNTS**2, CLIENT_COUNTS * LOSS_STEPS)
"""All data exchanged: counts that sum to ``CLIENT_COUNTS`` may be in one cell, and then in another."""


@lru_cache(maxsize=256)
def budget_of_tests(target: float, delta: float) -> MechanismEvent:
    """All tests of a job as one release that costs epsilon `target`, at the least noise (to 0.1 %).

    However many tests share it (``counts_event``), they never cost more: rho of concentrated
    releases adds up. So the noise of training does not hang on how often a model is tested.
    Raises ``PlanRefused`` if no noise up to ``MOST_COUNTS_NOISE`` is enough.
    """

    def cost(noise: float) -> float:
        return epsilon([MechanismEvent(noise, 1.0, 1, "concentrated")], delta)

    found = _least(cost, target, _LEAST_BUDGET, 2.0, MOST_COUNTS_NOISE)
    if found is None:
        raise PlanRefused(
            f"No sensible noise keeps one test within epsilon {target:g} at delta {delta:g}."
        )
    return MechanismEvent(found, 1.0, 1, "concentrated")


def counts_event(target: float, delta: float, tests: int) -> MechanismEvent:
    """`tests` tests, each with an equal part of ``budget_of_tests``: rho / tests, so sqrt(tests) its noise.

    Raises ``PlanRefused`` if that needs more noise than ``MOST_COUNTS_NOISE``.
    """
    noise = budget_of_tests(target, delta).noise_multiplier * math.sqrt(tests)
    if noise > MOST_COUNTS_NOISE:
        raise PlanRefused(
            f"No sensible noise keeps {tests} tests within epsilon {target:g} at delta {delta:g}."
        )
    return MechanismEvent(max(LEAST_NOISE, _rounded_up(noise)), 1.0, tests, "concentrated")


def _rounded_up(noise: float) -> float:
    """Five significant digits, more than `noise` by what floating point may lose, at least."""
    noise *= 1 + 1e-9
    found = tidy(noise)
    return found if found >= noise else tidy(noise * (1 + 1e-4))


@lru_cache(maxsize=1024)
def noise_beside(
    target: float,
    delta: float,
    sampling_rate: float,
    steps: int,
    beside: tuple[MechanismEvent, ...] = (),
    kind: Kind = "gaussian",
) -> float:
    """``accountant.noise_multiplier`` if what is `beside` is spent as well, and for noise of any `kind`.

    Raises ``PlanRefused`` if no noise is enough.
    """
    sigma = noise_multiplier(target, delta, sampling_rate, steps)
    if kind == "gaussian" and not beside:
        return sigma

    def cost(sigma: float) -> float:
        return epsilon([MechanismEvent(sigma, sampling_rate, steps, kind), *beside], delta)

    found = _least(cost, target, sigma, 1.02, MOST_NOISE)
    if found is None:
        others = f" and {sum(event.steps for event in beside)} other releases" if beside else ""
        raise PlanRefused(
            f"No noise keeps {steps} steps{others} within epsilon {target:g} at delta {delta:g}."
        )
    return found


def counts_noise(
    cells: int, event: MechanismEvent, shares: int, stream: SecretStream, change: Change = RECORD
) -> list[int]:
    """One client's share of a test's noise: a number for each cell, then one for each sum.

    Of `shares` such clients together the noise is at least that of the event. Each must draw from a
    stream of its own.
    """
    variance = 2 * Fraction(event.noise_multiplier) ** 2
    return [
        *_share(cells, variance * change.cells_squared, shares, stream),
        *_share(change.sums, variance * change.sums_squared, shares, stream),
    ]


def _share(n: int, variance: Fraction, shares: int, stream: SecretStream) -> list[int]:
    shares = max(1, min(shares, math.floor(variance / _LEAST_VARIANCE)))
    return discrete_gaussian(n, variance / shares, stream).tolist()


def _least(
    cost: Callable[[float], float], target: float, low: float, factor: float, most: float
) -> float | None:
    """The least noise from `low` to `most`, to 0.1 % and five digits, that keeps to the target."""
    high = low
    while cost(high) > target:
        if high >= most:
            return None
        low, high = high, min(tidy(high * factor), most)
        factor *= factor
    while high / low > NOISE_PRECISION:
        middle = tidy((low * high) ** 0.5)
        if not low < middle < high:
            break
        low, high = (low, middle) if cost(middle) <= target else (middle, high)
    return high
