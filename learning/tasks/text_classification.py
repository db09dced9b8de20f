"""One label for each text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..classification_counts import ClassificationCounts
from ..network import Batch
from .task import Answer, Task


@dataclass(frozen=True)
class TextClassification(Task):
    """Cross-entropy over `classes` labels."""

    classes: int

    def losses(self, logits: Tensor, batch: Batch) -> Tensor:
        return cross_entropy(logits, batch["labels"], reduction="none")

    def counts(self, logits: Tensor, batch: Batch) -> ClassificationCounts:
        return ClassificationCounts.from_logits(logits.cpu().numpy(), batch["labels"].cpu().numpy())

    def zero(self) -> ClassificationCounts:
        return ClassificationCounts.zero(self.classes)

    def cells(self, logits: Tensor, batch: Batch) -> np.ndarray:
        """By true and predicted class; an output that is not a number is never the largest."""
        guesses = np.nan_to_num(logits.double().cpu().numpy(), nan=-np.inf).argmax(axis=1)
        found: np.ndarray = batch["labels"].cpu().numpy() * self.classes + guesses
        return found

    def answers(self, outputs: Tensor, label_names: Sequence[str]) -> list[Answer]:
        return [
            Answer(dict(sorted(zip(label_names, row, strict=True), key=lambda pair: -pair[1])))
            for row in outputs.softmax(-1).tolist()
        ]
