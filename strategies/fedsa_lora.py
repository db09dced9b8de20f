"""FedSA-LoRA: the first factors are shared, the second ones and the head stay with their owner."""

from __future__ import annotations

from collections.abc import Collection

from .contract import Shapes
from .factors import but_shared
from .personal import PersonalParts


class FedSaLora(PersonalParts):
    """FedSA-LoRA (Guo et al. 2024, arXiv 2410.01463, sec. 3): A <- A + mean of A's; B and head are personal.

    A learns what all have in common, B what is an owner's own (the paper's finding). All are trained in
    each step together. The personal ones never travel.
    """

    fits = ("lora",)
    when = (
        "LoRA for owners whose data differ: each gets a model of its own, for half of the bytes up."
    )

    @classmethod
    def personal(cls, shapes: Shapes) -> Collection[str]:
        return but_shared("A", shapes)
