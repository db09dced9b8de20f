"""FlexLoRA: the exact mean product, cut to the rank of the adapter."""

from __future__ import annotations

import numpy as np

from .products import MeanProduct, Products


class FlexLora(Products):
    """FlexLoRA (Bai et al. 2024, arXiv 2402.11505, sec. 3): SVD of the mean of B_k A_k, of which owners
    take as much as their ranks hold.

    B = U S and A = V^T of the largest singular values: the best approximation of the mean product that an
    adapter of the job's rank has. An owner of a smaller rank takes the first of them.
    """

    when = "LoRA whose means are exact up to its rank, also with different ranks per owner."

    def combined(
        self, mean: MeanProduct, b: np.ndarray, a: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return mean.leading(mean.pair.rank)
