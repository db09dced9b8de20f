"""Krum, then the values around the median.

El Mhamdi et al. 2018, "The hidden vulnerability of distributed learning in Byzantium", sec. 4.
"""

from __future__ import annotations

import numpy as np

from .compared import Compared, by_columns
from .krum import ranked, squared_distances


def selected(vectors: np.ndarray, byzantine: int) -> list[int]:
    """theta = n - 2 f vectors, each the Krum choice of those that are left; ascending."""
    squared, left = squared_distances(vectors), list(range(len(vectors)))
    for _ in range(len(vectors) - 2 * byzantine):
        left.pop(ranked(squared[np.ix_(left, left)], byzantine)[0])
    return sorted(set(range(len(vectors))) - set(left))


def bulyan(vectors: np.ndarray, byzantine: int) -> np.ndarray:
    """Of the selected, in each coordinate the mean of the beta = theta - 2 f values nearest to the median."""
    kept = vectors[selected(vectors, byzantine)]
    beta = len(kept) - 2 * byzantine

    def around_the_median(block: np.ndarray) -> np.ndarray:
        middle = np.median(block, axis=0)
        nearest = np.argsort(np.abs(block - middle), axis=0, kind="stable")[:beta]
        return np.asarray(np.take_along_axis(block, nearest, axis=0).mean(axis=0))

    return by_columns(kept, around_the_median)


class Bulyan(Compared):
    """No Byzantine vector moves even one coordinate far, which it can under Krum; needs many vectors."""

    needs = "n >= 4 f + 3"

    @classmethod
    def tolerates(cls, vectors: int) -> int:
        return (vectors - 3) // 4

    def combine(self, updates: np.ndarray, asked: int) -> np.ndarray:
        return bulyan(updates, self.byzantine(asked))
