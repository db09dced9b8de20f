"""A weighted sum of updates in integers, so that it does not depend on who answers first.

Floating-point addition is not associative: folding replies as they arrive would give another
model each time. Updates are rounded to a fixed-point grid far finer than float32 and added as
int64, which is exact in every order.
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import MessageError
from ..messages import Arrays

LARGEST = 1024.0
"""No entry of an update may be larger than this; a sane one is thousands of times smaller."""


def check_range(update: Arrays) -> None:
    """A ``MessageError`` for an update that no sum can take."""
    for name, array in update.items():
        if array.size and not float(np.abs(array).max()) <= LARGEST:
            raise MessageError(f"An update's {name!r} is not finite or beyond {LARGEST:g}")


class FixedPointSum:
    """Running sum of weight x update; holds one int64 vector, however many clients there are.

    The grid has 2^-bits steps with bits = 62 - log2(LARGEST x total_weight), so the sum of a whole
    round stays below 2^62. With equal weights and 4 clients a step is 2^-50.
    """

    def __init__(self, total_weight: int) -> None:
        self._bits = 62 - math.ceil(math.log2(LARGEST * max(1, total_weight)))
        self._total_weight = total_weight
        self._sum: dict[str, np.ndarray] = {}
        self.weight = 0

    def add(self, update: Arrays, weight: int) -> None:
        """Fold one client's update (float32 arrays) in; a ``MessageError`` if it is out of range."""
        if not weight > 0 or self.weight + weight > self._total_weight:
            raise MessageError(f"A client's weight of {weight} does not fit the plan")
        if self._sum and self._sum.keys() != update.keys():
            raise MessageError("An update has other arrays than the rest of the cohort")
        check_range(update)
        for name, array in update.items():
            grid = np.rint(np.ldexp(array.astype(np.float64), self._bits) * weight).astype(np.int64)
            if name in self._sum:
                self._sum[name] += grid
            else:
                self._sum[name] = grid
        self.weight += weight

    def mean(self) -> dict[str, np.ndarray]:
        """Weighted mean of the updates so far, float64."""
        if not self.weight:
            raise MessageError("There is no update to average")
        return {
            n: np.ldexp(s.astype(np.float64), -self._bits) / self.weight
            for n, s in self._sum.items()
        }
