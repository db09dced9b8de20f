"""The median of each coordinate (Yin et al. 2018, "Byzantine-robust distributed learning", Def. 1)."""

from __future__ import annotations

import numpy as np

from .compared import Compared, by_columns


def coordinate_median(vectors: np.ndarray) -> np.ndarray:
    """Of an even number, the mean of the two in the middle."""
    return by_columns(vectors, lambda block: np.median(block, axis=0))


class Median(Compared):
    """Holds as long as more than half of the vectors are good; moves little where clients differ."""

    def combine(self, updates: np.ndarray, asked: int) -> np.ndarray:
        return coordinate_median(updates)
