"""Noise for whole numbers, drawn exactly: no floating point, so its lowest bits tell nothing.

Canonne, Kamath and Steinke 2020, "The Discrete Gaussian for Differential Privacy", algorithms 1 to
3: rejection sampling with rational numbers and fair coins alone. Slow (about 50 microseconds a
number), which is fine for counts.
"""

from __future__ import annotations

import math
from fractions import Fraction

from .randomness import SecretStream

_WORD_BITS = 32


def discrete_gaussian(n: int, variance: Fraction, stream: SecretStream) -> list[int]:
    """`n` independent integers x with P(x) proportional to exp(-x^2 / (2 variance)).

    Guarantee: added to a whole-number query that one record changes by at most s, the result is
    (s^2 / (2 variance))-zCDP (theorem 4 there). A sum of k such draws is, for s_i^2 = variance >= 4,
    within k 2^-50 in total variation of one draw with k times the variance (Kairouz, Liu, Steinke
    2021, "The Distributed Discrete Gaussian Mechanism", lemma 5).

    Assumptions: those of ``SecretStream``. The running time depends on the draws.
    """
    if variance <= 0:
        raise ValueError(f"variance must be above 0: {variance}")
    coins = _Coins(stream)
    return [coins.gaussian(variance) for _ in range(n)]


class _Coins:
    """Exact draws from a stream of words."""

    def __init__(self, stream: SecretStream) -> None:
        self._stream = stream

    def below(self, n: int) -> int:
        """Uniform on 0 .. n-1."""
        words = max(1, math.ceil((n - 1).bit_length() / _WORD_BITS))
        mask = (1 << max(1, (n - 1).bit_length())) - 1
        while True:
            drawn = int.from_bytes(self._stream.words(words).tobytes(), "little") & mask
            if drawn < n:
                return drawn

    def bernoulli(self, chance: Fraction) -> bool:
        return self.below(chance.denominator) < chance.numerator

    def exponential(self, gamma: Fraction) -> bool:
        """True with probability exp(-gamma)."""
        while gamma > 1:
            if not self._within_one(Fraction(1)):
                return False
            gamma -= 1
        return self._within_one(gamma)

    def _within_one(self, gamma: Fraction) -> bool:
        k = 1
        while self.bernoulli(gamma / k):
            k += 1
        return k % 2 == 1

    def laplace(self, scale: int) -> int:
        """x with probability proportional to exp(-|x| / scale)."""
        while True:
            part = self.below(scale)
            if not self.exponential(Fraction(part, scale)):
                continue
            whole = 0
            while self._within_one(Fraction(1)):
                whole += 1
            magnitude = part + scale * whole
            negative = self.below(2) == 1
            if not (negative and magnitude == 0):
                return -magnitude if negative else magnitude

    def gaussian(self, variance: Fraction) -> int:
        scale = math.isqrt(math.floor(variance)) + 1
        while True:
            drawn = self.laplace(scale)
            if self.exponential((abs(drawn) - variance / scale) ** 2 / (2 * variance)):
                return drawn
