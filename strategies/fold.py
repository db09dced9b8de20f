"""A weighted sum of updates in integers, so that it does not depend on who answers first.

Floating-point addition is not associative: folding replies as they arrive would give another
model each time. Updates are rounded to a fixed-point grid far finer than float32 and added as
int64, which is exact in every order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Set

import numpy as np

from ..errors import MessageError
from ..privacy.secagg.roster import MOST_CLIP
from ..wire.arrays import Arrays

LARGEST = MOST_CLIP
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
        self._single = 0
        """Weight of the only update so far: half as large as a sum, it is kept as it came."""
        self.weight = 0

    def add(self, update: Arrays, weight: int) -> None:
        """Fold one client's update (float32 arrays) in; a ``MessageError`` if it is out of range."""
        if not weight > 0 or self.weight + weight > self._total_weight:
            raise MessageError(f"A client's weight of {weight} does not match the plan")
        if self._sum and self._sum.keys() != update.keys():
            raise MessageError("An update has other arrays than the rest of the cohort")
        check_range(update)
        if not self.weight:
            self._sum, self._single = dict(update), weight
        else:
            for name, array in update.items():
                self._sum[name] = self._pop(name)
                self._sum[name] += self._on_grid(array, weight)
            self._single = 0
        self.weight += weight

    def mean(self) -> dict[str, np.ndarray]:
        """Weighted mean of the updates, float64. The sum is empty from then on."""
        return dict(self.means())

    def means(self, first: Set[str] = frozenset()) -> Iterator[tuple[str, np.ndarray]]:
        """The same, array by array, some of them `first`; each is let go of before the next mean."""
        if not self.weight:
            raise MessageError("There is no update to average")
        for name in sorted(self._sum, key=lambda name: name not in first):
            mean = self._pop(name).astype(np.float64)
            np.ldexp(mean, -self._bits, out=mean)
            mean /= self.weight
            yield name, mean

    def _pop(self, name: str) -> np.ndarray:
        """An array of the sum, int64."""
        array = self._sum.pop(name)
        return self._on_grid(array, self._single) if self._single else array

    def _on_grid(self, array: np.ndarray, weight: int) -> np.ndarray:
        grid = array.astype(np.float64)
        np.ldexp(grid, self._bits, out=grid)
        grid *= weight
        return np.rint(grid, out=grid).astype(np.int64)
