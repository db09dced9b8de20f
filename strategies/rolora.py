"""RoLoRA: rounds take turns with the two factors."""

from __future__ import annotations

from collections.abc import Collection

from .averaging import FedAvg
from .contract import Shapes
from .factors import without


class RoLora(FedAvg):
    """RoLoRA (Chen et al. 2025, arXiv 2502.01755, Alg. 1): odd rounds train and average B, even ones A.

    One factor is the same for all in each round, so the mean of the products is the product of the
    means, exactly. A head is trained in every round.
    """

    fits = ("lora",)
    when = "LoRA with many clients: as FFA-LoRA, but A learns, too."

    def trains(self, round_: int, shapes: Shapes) -> Collection[str]:
        return without("A" if round_ % 2 else "B", shapes)
