"""FFA-LoRA: the first factors are frozen, and only the second ones are averaged."""

from __future__ import annotations

from collections.abc import Collection

from .averaging import FedAvg
from .contract import Shapes
from .factors import without


class FfaLora(FedAvg):
    """FFA-LoRA (Sun et al. 2024, arXiv 2403.12313, sec. 4): A stays as it was drawn, B <- B + mean of B's.

    The mean of B_k A is then (mean of B_k) A, exactly, and noise in B enters the product once: it is
    linear in what is trained. A is never sent: all draw it by the job's seed.
    """

    fits = ("lora",)
    when = "LoRA under noise: the simplest that adds it once, for half of the bytes."

    def trains(self, round_: int, shapes: Shapes) -> Collection[str]:
        return without("A", shapes)
