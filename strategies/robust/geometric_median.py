"""The point with the least sum of distances.

RFA; Pillutla et al. 2022, "Robust aggregation for federated learning".
"""

from __future__ import annotations

import numpy as np

from .compared import Compared, distances, weighted_sum
from .median import coordinate_median

_STILL = 1e-6
"""A step so small beside the vectors' own distances is the last one."""


def geometric_median(vectors: np.ndarray, iterations: int, smoothing: float = 1e-6) -> np.ndarray:
    """Smoothed Weiszfeld (Alg. 2): z <- sum b_k x_k / sum b_k with b_k = 1 / max(nu, |z - x_k|).

    nu is `smoothing` times the median distance, so that the result follows the vectors' scale. It starts
    at the median of each coordinate, which no minority moves far, and needs fewer steps from there than from
    the mean.
    """
    z = coordinate_median(vectors)
    for _ in range(iterations):
        apart = distances(vectors, z)
        scale = float(np.median(apart))
        if not apart.max() > 0:
            return z
        weights = 1 / np.maximum(apart, smoothing * (scale or apart.max()))
        before, z = z, weighted_sum(vectors, weights / weights.sum())
        if np.linalg.norm(z - before) <= _STILL * scale:
            break
    return z


class GeometricMedian(Compared):
    """RFA: holds as long as more than half of the vectors are good; independent of the coordinate system."""

    def __init__(
        self, attackers: float = 0.1, iterations: int = 64, learning_rate: float = 1.0
    ) -> None:
        super().__init__(attackers, learning_rate)
        if not iterations >= 1:
            raise ValueError(f"iterations = {iterations} must be 1 or more")
        self._iterations = iterations

    def combine(self, updates: np.ndarray, asked: int) -> np.ndarray:
        return geometric_median(updates, self._iterations)
