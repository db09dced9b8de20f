"""Privacy loss distributions of the Poisson-sampled Gaussian mechanism, composed on one grid.

The loss of an outcome x is log P(x)/Q(x), where P and Q are what a step releases with and without
one record; its distribution under P says everything about (epsilon, delta) (Sommer et al. 2019). The
loss is put on a grid pessimistically, so that each figure is an upper bound (Doroshenko et al. 2022,
"Connect the dots"), and a composition is one product of characteristic functions
(Koskela et al. 2020): different mechanisms cost one transform each, their steps cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Direction = Literal["remove", "add"]
Mechanism = tuple[float, float]
"""Noise multiplier sigma and sampling rate q."""
Array = NDArray[np.float64]

_TAIL_OF_A_STEP = 1e-20
_TAIL = 1e-15
# Double precision leaves about this much of each power of a characteristic function.
_ROUNDING = 2.3e-16
_LARGEST_EXPONENT = 700.0
_LEAST_ORDER, _DOUBLINGS = 1 / 8, 14
_LEAST_POWER = 1e-150
"""Smaller ones are cut off: processors are slow with their squares, which are subnormal."""
_CHERNOFF = tuple(sign * _LEAST_ORDER * 2.0**k for sign in (1, -1) for k in range(_DOUBLINGS))
"""Each twice the one before: the exponentials of an order are the squares of the previous ones."""


@dataclass(frozen=True, eq=False)
class Losses:
    """Mass `masses[i]` at loss ``(lowest + i) * interval``, and `infinite` where Q has none."""

    interval: float
    lowest: int
    masses: Array
    infinite: float

    def delta(self, epsilon: float) -> float:
        """The hockey-stick divergence of order e^epsilon: the least delta that holds with it."""
        first = max(0, math.floor(epsilon / self.interval) - self.lowest)
        losses = (np.arange(first, len(self.masses)) + self.lowest) * self.interval
        shares = -np.expm1(np.minimum(epsilon - losses, 0.0))
        return self.infinite + float(self.masses[first:] @ shares)

    def epsilon(self, delta: float) -> float:
        """The least epsilon, at least 0, that holds with `delta`."""
        if self.infinite > delta:
            return math.inf
        first = max(0, -self.lowest)
        start = (first + self.lowest) * self.interval
        offsets = np.arange(len(self.masses) - first) * self.interval
        masses = self.masses[first:]
        if len(offsets) * self.interval > _LARGEST_EXPONENT:
            return self._epsilon_by_halving(delta)
        # At the loss of a point, delta is infinite + above - e^loss * below, both without it.
        above = np.cumsum(masses[::-1])[::-1] - masses
        weighted = masses * np.exp(-offsets)
        below = np.cumsum(weighted[::-1])[::-1] - weighted
        enough = self.infinite + above - np.exp(offsets) * below <= delta
        place = int(np.argmax(enough))
        if place == 0 and start == 0:
            return 0.0
        # Between two points delta is the same expression, with the upper of them.
        rest = self.infinite + float(masses[place:].sum()) - delta
        shares = float(masses[place:] @ np.exp(-(offsets[place:] - offsets[place])))
        high = start + float(offsets[place])
        if not rest > 0 or not shares > 0:
            return high
        low = high - self.interval if place else 0.0
        return min(high, max(low, 0.0, high + math.log(rest / shares)))

    def _epsilon_by_halving(self, delta: float) -> float:
        """The least point of the grid that holds with `delta`, if e^loss overflows."""
        low, high = -1, self.lowest + len(self.masses)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (
                (low, middle) if self.delta(middle * self.interval) <= delta else (middle, high)
            )
        return high * self.interval


def compose(steps: Sequence[tuple[Mechanism, int]], interval: float, way: Direction) -> Losses:
    """The losses of all steps together: of each mechanism (sigma > 0, q > 0) so many (>= 1).

    A window that holds all but 1e-15 of the mass at either end is found by Chernoff's bound. What
    lies above it counts as an infinite loss; what wraps around into it only adds to the mass there.
    """
    upper, lower, visible, loss_free = math.inf, -math.inf, 0.0, 0.0
    for place, t in enumerate(_CHERNOFF):
        cumulants = sum(n * _log_moments(m, interval, way)[place] for m, n in steps)
        bound = (cumulants - math.log(_TAIL)) / t
        upper, lower = (min(upper, bound), lower) if t > 0 else (upper, max(lower, bound))
    first = math.floor(lower / interval) - 1
    size = 1 << max(4, (math.ceil(upper / interval) + 1 - first).bit_length())
    spectrum = np.zeros(size // 2 + 1, dtype=np.complex128)
    offset = 0
    for mechanism, n in steps:
        spectrum += n * _log_spectrum(mechanism, interval, way, size)
        one = losses(mechanism, interval, way)
        offset += n * one.lowest
        loss_free += n * math.log1p(-one.infinite)
        visible += n
    masses = np.fft.irfft(np.exp(spectrum), size)
    masses = np.roll(np.maximum(masses, 0.0), (offset - first) % size)
    infinite = -math.expm1(loss_free) + _TAIL + visible * _ROUNDING
    return Losses(interval, first, masses, infinite)


@lru_cache(maxsize=256)
def losses(mechanism: Mechanism, interval: float, way: Direction) -> Losses:
    """The losses of one step, if a record is taken away (P has it) or added (Q has it).

    Within a cell of the grid the masses of P and of Q are both kept, by sharing the mass of P
    between the ends of the cell: the dots of "Connect the dots", Section 4.
    """
    sigma, rate = mechanism
    ends = _ends(mechanism)
    first, last = math.floor(ends[0] / interval), math.ceil(ends[1] / interval)
    grid = np.arange(first, last + 1) * interval
    edges = _outcome(grid, sigma, rate)
    without, shifted = _between(edges / sigma), _between((edges - 1) / sigma)
    with_record = (1 - rate) * without + rate * shifted
    over = float(ndtr(-edges[-1] / sigma))
    over_with = (1 - rate) * over + rate * float(ndtr((1 - edges[-1]) / sigma))
    under = float(ndtr(edges[0] / sigma))
    under_with = (1 - rate) * under + rate * float(ndtr((edges[0] - 1) / sigma))
    if way == "remove":
        p, q, lowest, infinite, bottom = with_record, without, first, over_with, under_with
    else:
        # The loss of an added record is minus the loss of a removed one.
        p, q, lowest, infinite, bottom = without[::-1], with_record[::-1], -last, under, over
        grid = -grid[::-1]
    # a at the lower and b at the upper end: a + b = p, a e^-low + b e^-(low + interval) = q.
    # If e^low overflows, q is 0: all of p goes to the upper end.
    kept = np.exp(np.minimum(grid[:-1], _LARGEST_EXPONENT)) * q
    high_end = np.clip((p - kept) / -math.expm1(-interval), 0.0, p)
    masses = np.zeros(len(grid))
    masses[1:] += high_end
    masses[:-1] += p - high_end
    masses[0] += bottom
    return Losses(interval, lowest, masses, infinite)


def width(mechanism: Mechanism) -> float:
    """Between the least and the largest loss of a step, as far as they are told apart."""
    least, largest = _ends(mechanism)
    return float(largest - least)


def _ends(mechanism: Mechanism) -> Array:
    sigma, rate = mechanism
    reach = -float(ndtri(_TAIL_OF_A_STEP)) * sigma
    return _loss(np.array([-reach, 1 + reach]), sigma, rate)


def _loss(x: Array, sigma: float, rate: float) -> Array:
    """log of (1-q) + q e^((2x-1)/(2 sigma^2)): the loss if the record is taken away."""
    exponent = (2 * x - 1) / (2 * sigma**2)
    if rate == 1:
        return exponent
    return np.logaddexp(math.log1p(-rate), math.log(rate) + exponent)


def _outcome(loss: Array, sigma: float, rate: float) -> Array:
    """The inverse of ``_loss``; minus infinity below its infimum log(1-q)."""
    if rate == 1:
        return sigma**2 * loss + 0.5
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        rest = np.where(
            loss > 0, loss + np.log1p((rate - 1) * np.exp(-loss)), np.log(np.expm1(loss) + rate)
        )
    rest = np.where(loss > math.log1p(-rate), rest, -np.inf)
    return np.asarray(sigma**2 * (rest - math.log(rate)) + 0.5)


def _between(edges: Array) -> Array:
    """Standard normal mass between neighbouring edges, from the tail that is smaller."""
    left = np.diff(ndtr(edges))
    right = -np.diff(ndtr(-edges))
    return np.asarray(np.where(edges[:-1] > 0, right, left))


@lru_cache(maxsize=256)
def _log_moments(mechanism: Mechanism, interval: float, way: Direction) -> tuple[float, ...]:
    """log E[e^(t * loss)] of the finite losses of one step, for each t of Chernoff's bound."""
    one = losses(mechanism, interval, way)
    grid = (np.arange(len(one.masses)) + one.lowest) * interval
    found = []
    for sign in (1, -1):
        # The largest first, so that those too small to count are cut off at the end.
        some = np.flatnonzero(one.masses)[::-sign]
        masses, values = one.masses[some], sign * grid[some]
        powers = np.exp(_LEAST_ORDER * (values - values[0]))
        for k in range(_DOUBLINGS):
            kept = len(powers) - int(np.searchsorted(powers[::-1], _LEAST_POWER))
            powers, masses = powers[:kept], masses[:kept]
            order = _LEAST_ORDER * 2.0**k
            moment = float(masses @ powers) + _LEAST_POWER  # those cut off are less than that
            found.append(order * values[0] + math.log(moment))
            powers = powers * powers
    return tuple(found)


@lru_cache(maxsize=256)
def _log_spectrum(mechanism: Mechanism, interval: float, way: Direction, size: int) -> Any:
    """log of the characteristic function of one step, whose window of `size` wraps around.

    Any branch of the logarithm will do: it is multiplied by a whole number and exponentiated.
    """
    one = losses(mechanism, interval, way)
    wrapped = np.bincount(np.arange(len(one.masses)) % size, weights=one.masses, minlength=size)
    with np.errstate(divide="ignore"):
        return np.log(np.maximum(np.abs(f := np.fft.rfft(wrapped)), 1e-300)) + 1j * np.angle(f)
