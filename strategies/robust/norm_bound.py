"""The mean of vectors that are scaled to a norm.

Sun et al. 2019, "Can you really backdoor federated learning?", sec. 4.
"""

from __future__ import annotations

import math

import numpy as np

from .compared import Compared, distances, weighted_sum


def norm_bound(vectors: np.ndarray, norm: float) -> np.ndarray:
    """(1 / n) sum_k x_k min(1, M / |x_k|).

    norm: M; 0 takes the median of the norms, which most clients' own updates set.
    """
    norms = distances(vectors, np.zeros(vectors.shape[1]))
    bound = norm or float(np.median(norms))
    shares = np.minimum(1, bound / np.maximum(norms, np.finfo(float).tiny))
    return weighted_sum(vectors, shares / len(vectors))


class NormBound(Compared):
    """A boosted update weighs no more than another. It does not stop a lie of normal length."""

    def __init__(
        self, attackers: float = 0.1, norm: float = 0.0, learning_rate: float = 1.0
    ) -> None:
        super().__init__(attackers, learning_rate)
        if not 0 <= norm < math.inf:
            raise ValueError(f"norm = {norm} must be 0 (the median norm) or more")
        self._norm = norm

    def combine(self, updates: np.ndarray, asked: int) -> np.ndarray:
        return norm_bound(updates, self._norm)
