"""The grid of a sum: how fine it can be, so that no sum of so many members overflows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_MOST_MEMBERS = 1 << 16


@dataclass(frozen=True)
class Scale:
    """Fixed point for sums of `members` vectors with entries of magnitude up to `clip`.

    An entry x becomes x 2^bits, rounded at random to one of its two neighbours so that it is right
    on average. With Q the largest magnitude that this can give, n Q < 2^31: the sum of n members
    fits a signed word. The scale is a power of two, so scaling itself rounds nothing.
    """

    members: int
    clip: float

    @property
    def bits(self) -> int:
        _, exponent = math.frexp(self.clip * self.members)
        bits = 31 - exponent  # so clip n 2^bits < 2^31
        return bits if self._largest(bits) * self.members < 2**31 else bits - 1

    @property
    def largest(self) -> int:
        """Q."""
        return self._largest(self.bits)

    def farthest(self, weight: int, weight_cap: int, members: int) -> int:
        """The largest magnitude, on the grid, of an entry in the sum of `members` with so much weight.

        Each entry is within clip x weight / weight_cap (its product a float32, which errs by 2^-23 at
        most), then rounded up or down by less than one; and none is beyond Q.
        """
        share = weight / weight_cap
        rounded = math.ceil(math.ldexp(self.clip, self.bits) * share * (1 + 2.0**-22)) + members
        return min(rounded, members * self.largest)

    @property
    def limit(self) -> np.float32:
        """The largest float32 that is not beyond the clip."""
        nearest = np.float32(self.clip)
        return nearest if float(nearest) <= self.clip else np.nextafter(nearest, np.float32(0))

    def _largest(self, bits: int) -> int:
        return math.ceil(math.ldexp(self.clip, bits))

    @property
    def most(self) -> int:
        """Largest whole count of one member."""
        return (2**32 - 1) // self.members

    def __post_init__(self) -> None:
        if not 1 <= self.members < _MOST_MEMBERS:
            raise ValueError(f"a sum of {self.members} members has no fixed point here")
        if not 2.0**-64 <= self.clip <= 2.0**64:
            raise ValueError(f"a clip of {self.clip} does not fit words of 32 bits")
