"""The mean of each coordinate without its f largest and f smallest values (Yin et al. 2018, Def. 2)."""

from __future__ import annotations

import numpy as np

from .compared import Compared, by_columns


def trimmed_mean(vectors: np.ndarray, byzantine: int) -> np.ndarray:
    last = len(vectors) - byzantine
    return by_columns(vectors, lambda block: np.sort(block, axis=0)[byzantine:last].mean(axis=0))


class TrimmedMean(Compared):
    """Nearer to the mean than the median is, for a share of attackers that is known."""

    def combine(self, updates: np.ndarray, asked: int) -> np.ndarray:
        return trimmed_mean(updates, self.byzantine(asked))
