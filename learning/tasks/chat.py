"""The next token of an answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..answer_counts import AnswerCounts
from ..network import Batch
from .causal_lm import CausalLm


@dataclass(frozen=True)
class Chat(CausalLm):
    """Cross-entropy of each token of a dialogue's answers; what else is said is only read.

    An example is a dialogue, and its loss the mean over the tokens of its answers.
    """

    def targets(self, batch: Batch) -> Tensor:
        return batch["targets"][:, 1:]

    def counts(self, logits: Tensor, batch: Batch) -> AnswerCounts:
        found = super().counts(logits, batch)
        exact = int(self.cells(logits, batch).sum())
        return AnswerCounts(found.loss_sum, found.tokens, found.examples, exact)

    def zero(self) -> AnswerCounts:
        return AnswerCounts.zero()

    def cells(self, logits: Tensor, batch: Batch) -> np.ndarray:
        """1 if every answer is what the model would say, else 0."""
        targets = self.targets(batch)
        right = (logits[:, :-1].argmax(-1) == targets) | (targets < 0)
        said = (targets >= 0).any(1)
        return torch.logical_and(right.all(1), said).long().cpu().numpy()
