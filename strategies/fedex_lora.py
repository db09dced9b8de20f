"""FedEx-LoRA: the means of both factors, and what they miss of the mean product in the base."""

from __future__ import annotations

import numpy as np

from .products import MeanProduct, PaddedSketches
from .rebasing import Added, Rebasing


class FedExLora(Rebasing):
    """FedEx-LoRA (Singhal et al. 2024, arXiv 2410.09432, sec. 4): A and B are means, and the base gets what
    their product misses.

    R_B R_A <- R_B R_A + D - B A, with D the mean product and B, A the means as they are sent, so owners
    begin with exactly the mean of what they ended with. Factors of smaller ranks are padded with zeros.
    """

    when = "LoRA whose means are exact, as owners go on from the means of their factors."

    local = PaddedSketches
    padded = True

    def parted(
        self, mean: MeanProduct, b: np.ndarray, a: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, Added]:
        b, a = (factor.astype(np.float32).astype(np.float64) for factor in (b, a))
        return b, a, (np.hstack([mean.left, -b]), np.vstack([mean.right, a]))
