"""The seam between the trainer and what is learned."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ..metrics import Counts
from ..network import Batch


class Task(Protocol):
    """One loss per example, whatever the batch: examples never couple."""

    def losses(self, logits: Tensor, batch: Batch) -> Tensor:
        """Loss of each example, float32[B]; it depends on that example alone."""
        ...

    def counts(self, logits: Tensor, batch: Batch) -> Counts:
        """Additive counts of the batch, from which all figures are computed."""
        ...

    def zero(self) -> Counts:
        """Counts of nothing."""
        ...
