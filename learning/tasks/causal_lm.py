"""The next token of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..language_counts import LanguageCounts
from ..network import Batch
from .task import Answer, Task


@dataclass(frozen=True)
class CausalLm(Task):
    """Cross-entropy of each next token.

    An example's loss is the mean over its own tokens. A mean over the tokens of the whole batch
    would let one example change the weight of all others, and break per-example privacy.
    """

    classes: int = 0
    """A language model has no labels."""

    def losses(self, logits: Tensor, batch: Batch) -> Tensor:
        losses, mask = _token_losses(logits, self.targets(batch))
        return losses.sum(1) / mask.sum(1).clamp(min=1)

    def targets(self, batch: Batch) -> Tensor:
        """Each token that is to be predicted, behind the first; -100 for padding: int64[B, T - 1]."""
        # The mask, not the pad id, tells padding: some models pad with their end-of-text token.
        return batch["input_ids"][:, 1:].masked_fill(batch["attention_mask"][:, 1:] == 0, -100)

    def counts(self, logits: Tensor, batch: Batch) -> LanguageCounts:
        losses, mask = _token_losses(logits, self.targets(batch))
        return LanguageCounts(float(losses.double().sum()), int(mask.sum()), len(losses))

    def zero(self) -> LanguageCounts:
        return LanguageCounts(0.0, 0, 0)

    def cells(self, logits: Tensor, batch: Batch) -> np.ndarray:
        """There is one, which counts texts."""
        return np.zeros(len(logits), np.int64)

    def answers(self, outputs: Tensor, label_names: Sequence[str]) -> list[Answer]:
        """None: a continuation is several passes, each of which reads what came of the one before."""
        return [Answer()] * len(outputs)


def _token_losses(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of each predicted token, and which of them are real: both (B, T - 1)."""
    # Flat, so that each softmax runs over neighbouring memory: half the time of (B, V, T).
    losses = cross_entropy(
        logits[:, :-1].flatten(0, 1), targets.flatten(), reduction="none", ignore_index=-100
    )
    return losses.view_as(targets), (targets >= 0).to(torch.float32)
