"""Noise for whole numbers, drawn exactly: nothing of it hangs on how floating point rounds.

Canonne, Kamath and Steinke 2020, "The Discrete Gaussian for Differential Privacy", algorithms 1 to
3: rejection sampling with coins of probability exp(-gamma). A coin compares a uniform number with
that probability, bit by bit until they differ. Floating point does so for whole arrays, and if
its error could matter (one coin in 10^13) more bits and digits decide. So draws are exact, the same
on every machine, and take about a fifth of a microsecond each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from ..randomness import SecretStream

Integers = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.floating]
_Bools = npt.NDArray[np.bool_]

_BLOCK = 1 << 15
_WORD = 64
_MOST_BITS = 46
"""Of the scale: 44 times it must be exact in a float64."""
_WINDOW = 2.0**-44
"""Coins that fall so near are decided exactly; floating point errs by less than 2^-49 here."""


def discrete_gaussian(n: int, variance: Fraction, stream: SecretStream) -> Integers:
    """(n,) int64: independent, with P(x) proportional to exp(-x^2 / (2 variance)).

    Guarantee: added to a whole-number query that a neighbour changes by at most s (in L2, for a
    vector), the result is (s^2 / (2 variance))-zCDP (theorems 4 and 14 there). A sum of k such draws is as
    good as one draw with k times the variance up to a distance below k 10^-16 if the variance is
    at least 4, and below 10^-1000 if it is at least 400 (Kairouz, Liu, Steinke 2021, "The
    Distributed Discrete Gaussian Mechanism", theorem 1).

    Assumptions: those of ``SecretStream``. The running time depends on the draws.
    """
    if variance <= 0:
        raise ValueError(f"variance must be above 0: {variance}")
    coins = _Coins(variance, stream)
    found = np.empty(n, np.int64)
    done = 0
    while done < n:
        drawn = coins.gaussian(min(_BLOCK, 2 * (n - done) + 16))[: n - done]
        found[done : done + len(drawn)] = drawn
        done += len(drawn)
    return found


def two_sided_geometric(scale: int, stream: SecretStream) -> int:
    """One draw with P(x) proportional to exp(-|x| / scale): the discrete Laplace distribution.

    Guarantee: added to a whole number that a neighbour changes by at most one, it is
    (1 / scale, 0)-differentially private. Exact in whole numbers throughout (Canonne, Kamath,
    Steinke 2020, algorithms 1 and 2).
    """
    while True:
        part = _below(scale, stream)
        if not _falls(part, scale, stream):
            continue
        whole = 0
        while _falls(1, 1, stream):
            whole += 1
        magnitude = part + scale * whole
        negative = _below(2, stream) == 1
        if magnitude or not negative:  # there is one zero only
            return -magnitude if negative else magnitude


def _falls(numerator: int, denominator: int, stream: SecretStream) -> bool:
    """True with probability exp(-numerator / denominator), which must be at most 1 in the exponent.

    Algorithm 1 there: the length of a run of coins of probability gamma / k, k = 1, 2, ..., is odd.
    """
    k = 1
    while _below(denominator * k, stream) < numerator:
        k += 1
    return k % 2 == 1


def _below(bound: int, stream: SecretStream) -> int:
    """A uniform whole number below `bound`, without the bias of a remainder."""
    most = (1 << _WORD) // bound * bound
    while True:
        word = int(stream.words(2).view("<u8")[0])
        if word < most:
            return word % bound


class _Coins:
    """Exact draws from a stream of words."""

    def __init__(self, variance: Fraction, stream: SecretStream) -> None:
        self._variance = variance
        self._stream = stream
        # Any scale is right; one near the standard deviation is quick, and a power of two needs no
        # rejection for uniform numbers below it.
        self._bits = max(0, round(math.log2(variance) / 2))
        if self._bits > _MOST_BITS:
            raise ValueError(f"variance must be below 2^{2 * _MOST_BITS}: {variance}")

    def gaussian(self, tries: int) -> Integers:
        """As many draws as come of so many tries, about half."""
        magnitude, negative = self._laplace(tries)
        scale, variance = 1 << self._bits, self._variance
        middle = variance / scale
        gamma = (magnitude - float(middle)) ** 2 / (2 * float(variance))
        kept = self._heads(
            gamma, lambda place: (int(magnitude[place]) - middle) ** 2 / (2 * variance)
        )
        return np.where(negative, -magnitude, magnitude)[kept]

    def _laplace(self, tries: int) -> tuple[Integers, _Bools]:
        """Magnitudes and signs with probability proportional to exp(-|x| / scale)."""
        scale = 1 << self._bits
        words = self._words(tries)
        part = (words & np.uint64(scale - 1)).astype(np.int64)
        negative = words >> np.uint64(_WORD - 1) == 1
        kept = self._heads(part / scale, lambda place: Fraction(int(part[place]), scale))
        part, negative = part[kept], negative[kept]
        whole = np.zeros(len(part), np.int64)
        going = np.arange(len(part))
        while len(going):
            going = going[self._heads(np.ones(len(going)), lambda _: Fraction(1))]
            whole[going] += 1
        magnitude = part + scale * whole
        kept = ~negative | (magnitude > 0)  # there is one zero only
        return magnitude[kept], negative[kept]

    def _heads(self, gamma: _Floats, exact: Callable[[int], Fraction]) -> _Bools:
        """True with probability exp(-gamma), for each of an array; `exact` gives one gamma."""
        words = self._words(len(gamma))
        uniform = (words >> np.uint64(11)) * 2.0**-53
        chance = np.exp(-gamma)
        heads = uniform < chance
        for place in np.flatnonzero(np.abs(uniform - chance) <= _WINDOW):
            heads[place] = self._is_below(int(words[place]), exact(int(place)))
        return heads

    def _is_below(self, uniform: int, gamma: Fraction) -> bool:
        """Whether the number whose first 64 binary places are `uniform` is below exp(-gamma)."""
        bits = _WORD
        while True:
            digits = bits // 3 + 20
            with localcontext(prec=digits + 10):
                chance = (-Decimal(gamma.numerator) / gamma.denominator).exp()
                error = Decimal(10) ** -digits
                low = Decimal(uniform) / 2**bits
                if low + Decimal(2) ** -bits <= chance - error:
                    return True
                if low >= chance + error:
                    return False
            uniform = uniform << _WORD | int(self._words(1)[0])
            bits += _WORD

    def _words(self, n: int) -> npt.NDArray[np.uint64]:
        return self._stream.words(2 * n).view("<u8")
