"""The vector with the nearest company.

Blanchard et al. 2017, "Machine learning with adversaries: Byzantine tolerant gradient descent".
"""

from __future__ import annotations

import numpy as np

from .compared import Compared, columns


def squared_distances(vectors: np.ndarray) -> np.ndarray:
    """|x_i - x_j|^2 of every two; float64[n, n].

    From the differences, not from products: one huge vector would take all digits of the others.
    """
    found = np.zeros((len(vectors), len(vectors)))
    for _, block in columns(vectors):
        for i in range(len(block) - 1):
            apart = block[i + 1 :] - block[i]
            found[i, i + 1 :] += np.einsum("kd,kd->k", apart, apart)
    return found + found.T


def scores(squared: np.ndarray, byzantine: int) -> np.ndarray:
    """Of each vector the sum of squared distances to its n - f - 2 nearest others."""
    others = len(squared) - 1
    nearest = min(others, max(1, len(squared) - byzantine - 2))
    # Its own distance of 0 comes first.
    return np.sort(squared, axis=1)[:, 1 : 1 + nearest].sum(axis=1)


def ranked(squared: np.ndarray, byzantine: int) -> list[int]:
    """All vectors, that of the least score first.

    Two that are each other's nearest have one score if one neighbour counts; all distances decide then, so
    that it does not depend on who is first.
    """
    return [
        int(i)
        for i in np.lexsort((np.sort(squared, axis=1).sum(axis=1), scores(squared, byzantine)))
    ]


def krum(vectors: np.ndarray, byzantine: int) -> np.ndarray:
    """The one vector with the least score."""
    return vectors[ranked(squared_distances(vectors), byzantine)[0]].astype(np.float64)


def multi_krum(vectors: np.ndarray, byzantine: int) -> np.ndarray:
    """The mean of the m = n - f vectors with the least scores."""
    kept = sorted(ranked(squared_distances(vectors), byzantine)[: len(vectors) - byzantine])
    return vectors[kept].astype(np.float64).mean(axis=0)


class Krum(Compared):
    """Takes the one vector that is nearest to its neighbours, and discards all others."""

    needs = "n >= 2 f + 3"

    @classmethod
    def tolerates(cls, vectors: int) -> int:
        return (vectors - 3) // 2

    def combine(self, updates: np.ndarray, asked: int) -> np.ndarray:
        return krum(updates, self.byzantine(asked))


class MultiKrum(Krum):
    """The mean of all but the f vectors that are farthest from company."""

    def combine(self, updates: np.ndarray, asked: int) -> np.ndarray:
        return multi_krum(updates, self.byzantine(asked))
