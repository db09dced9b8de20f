"""One label for each text."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import cross_entropy

from ..metrics import ClassificationCounts
from ..network import Batch


@dataclass(frozen=True)
class TextClassification:
    """Cross-entropy over `classes` labels."""

    classes: int

    def losses(self, logits: Tensor, batch: Batch) -> Tensor:
        return cross_entropy(logits, batch["labels"], reduction="none")

    def counts(self, logits: Tensor, batch: Batch) -> ClassificationCounts:
        return ClassificationCounts.from_logits(logits.cpu().numpy(), batch["labels"].cpu().numpy())

    def zero(self) -> ClassificationCounts:
        return ClassificationCounts.zero(self.classes)
