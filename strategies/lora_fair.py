"""LoRA-FAIR: the means of both factors, with B corrected so that the product comes near the mean product."""

from __future__ import annotations

import math

import numpy as np

from .products import MeanProduct, PaddedSketches, Products


class LoraFair(Products):
    """LoRA-FAIR (Bian et al. 2024, arXiv 2411.14961, sec. 4): A <- mean of A_k, B <- mean of B_k + dB, where
    dB brings B A to the mean product D.

    dB minimizes ||D - (B + dB) A||^2 + pull ||dB||^2, which a linear system solves: dB (A A^T + pull I) =
    (D - B A) A^T. (The paper measures nearness by a similarity, and takes steps towards it.) Factors of
    smaller ranks are padded with zeros.
    """

    when = (
        "LoRA whose factors should stay near the means of the owners', as owners begin with both."
    )

    local = PaddedSketches
    padded = True

    def __init__(self, pull: float = 0.01) -> None:
        super().__init__()
        if not 0 < pull < math.inf:
            raise ValueError(f"pull = {pull} must be above 0")
        self._pull = pull

    def combined(
        self, mean: MeanProduct, b: np.ndarray, a: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        missing = mean.left @ (mean.right @ a.T) - b @ (a @ a.T)
        return b + np.linalg.solve(a @ a.T + self._pull * np.eye(len(a)), missing.T).T, a
