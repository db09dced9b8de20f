"""Fed-SB: factors of the frozen weights, and a small core between them that is trained and averaged."""

from __future__ import annotations

from collections.abc import Collection

from .averaging import FedAvg
from .contract import Shapes
from .factors import factor_of, is_core


class FedSb(FedAvg):
    """Fed-SB (Singhal et al. 2025, arXiv 2502.15436, sec. 3): delta W = B R A; R alone is averaged.

    B and A are the leading singular vectors of the frozen W, so nothing private is in them; R (r x r)
    begins at zero, and the scaling is 1. The mean of the products is the product with the mean of R,
    exactly, and linear in it. (The paper takes B and A of a first gradient of private data: under
    privacy that would have to be charged, and its noise, m x n numbers, would drown it.)
    """

    fits = ("lora",)
    when = "LoRA with the fewest bytes, and the fewest numbers that noise is added to."
    core = True

    def trains(self, round_: int, shapes: Shapes) -> Collection[str]:
        return [name for name in shapes if factor_of(name) is None or is_core(name)]
