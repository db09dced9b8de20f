"""What a strategy may do to an owner's own steps (``strategies.contract.LocalRule``)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from torch import Tensor


class LocalHalf(Protocol):
    """The local half of a strategy, as far as training knows it."""

    def trains(self, step: int, names: Collection[str]) -> Collection[str]:
        """Of tensors with these names, those that a step of the job trains."""
        ...

    def correct(self, name: str, gradient: Tensor, weight: Tensor, start: Tensor) -> None:
        """Change a step's gradient of one tensor in place, after its noise was added."""
        ...
