"""How much noise hides a held-out record in the counts of a test, and what tests cost.

A test releases, of each record, one cell (which a record changes by 1) and a loss (by at most
``LOSS_STEPS``), each plus discrete Gaussian noise of z times that. Each of the two is
(1 / (2 z^2))-zCDP, so a test is (1 / z^2)-zCDP for one record added or removed: one ``concentrated``
event with noise multiplier z / sqrt(2).
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

from ..errors import PlanRefused
from .accounting import MOST_NOISE, MechanismEvent, epsilon, noise_multiplier
from .discrete import discrete_gaussian
from .randomness import SecretStream

LOSS_STEPS = 64
"""A held-out record's loss is rounded to so many steps: what one record can change of their sum."""
LEAST_NOISE = 3.0
"""Below, the shares of several clients would no longer add up to one discrete Gaussian."""
MOST_COUNTS_NOISE = 1000.0
_PRECISION = 1.001


def counts_event(target: float, delta: float, tests: int) -> MechanismEvent:
    """`tests` tests at the least noise (to 0.1 %) that keeps them within epsilon `target`.

    Raises ``PlanRefused`` where no noise up to ``MOST_COUNTS_NOISE`` is enough.
    """
    return MechanismEvent(_counts_noise(target, delta, tests), 1.0, tests, "concentrated")


@lru_cache(maxsize=256)
def _counts_noise(target: float, delta: float, tests: int) -> float:
    def cost(noise: float) -> float:
        return epsilon([MechanismEvent(noise, 1.0, tests, "concentrated")], delta)

    found = _least(cost, target, LEAST_NOISE, 2.0, MOST_COUNTS_NOISE)
    if found is None:
        raise PlanRefused(
            f"No sensible noise keeps {tests} tests within evaluation.epsilon = {target:g}: raise "
            "it, or test less often (evaluation.every)."
        )
    return found


@lru_cache(maxsize=1024)
def noise_beside(
    target: float, delta: float, sampling_rate: float, steps: int, beside: MechanismEvent | None
) -> float:
    """``accounting.noise_multiplier`` where `beside` is spent on the same records as well.

    Raises ``PlanRefused`` where no noise is enough.
    """
    sigma = noise_multiplier(target, delta, sampling_rate, steps)
    if beside is None:
        return sigma

    def cost(sigma: float) -> float:
        return epsilon([MechanismEvent(sigma, sampling_rate, steps), beside], delta)

    found = _least(cost, target, sigma, 1.02, MOST_NOISE)
    if found is None:
        raise PlanRefused(
            f"No noise keeps {steps} steps and {beside.steps} tests within privacy.epsilon = "
            f"{target:g}: lower evaluation.epsilon, or raise privacy.epsilon."
        )
    return found


def counts_noise(cells: int, event: MechanismEvent, shares: int, stream: SecretStream) -> list[int]:
    """One client's share of a test's noise: a number for each cell, then one for the loss.

    Of `shares` such clients together the noise is that of the event. Each must draw from a stream
    of its own.
    """
    variance = 2 * Fraction(event.noise_multiplier) ** 2 / shares
    return [
        *discrete_gaussian(cells, variance, stream),
        *discrete_gaussian(1, variance * LOSS_STEPS**2, stream),
    ]


def _least(
    cost: Callable[[float], float], target: float, low: float, factor: float, most: float
) -> float | None:
    """The least noise from `low` to `most`, to 0.1 % and five digits, that keeps to the target."""
    high = low
    while cost(high) > target:
        if high >= most:
            return None
        low, high = high, min(_tidy(high * factor), most)
        factor *= factor
    while high / low > _PRECISION:
        middle = _tidy((low * high) ** 0.5)
        if not low < middle < high:
            break
        low, high = (low, middle) if cost(middle) <= target else (middle, high)
    return high


def _tidy(noise: float) -> float:
    return float(f"{noise:.5g}")
