"""Spans of a text, such as names: a tag for each word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ...errors import ModelError
from ..marked_texts import decoded, missed_of, tags_of
from ..network import Batch
from ..span_counts import Compared, SpanCounts, cells_of
from .task import Answer, Task


@dataclass(frozen=True)
class TokenClassification(Task):
    """Cross-entropy of each word's tag, over 2 `classes` + 1 tags (``marked_texts``).

    An example's loss is the mean over its own words. A mean over the words of the whole batch would let one
    example change the weight of all others, and break per-example privacy.
    """

    classes: int
    """Labels of spans."""

    def losses(self, logits: Tensor, batch: Batch) -> Tensor:
        losses, known = _word_losses(logits, batch)
        return losses.sum(1) / known.sum(1).clamp(min=1)

    def counts(self, logits: Tensor, batch: Batch) -> SpanCounts:
        """Raises ``ModelError`` if an output is not finite."""
        if not bool(torch.isfinite(logits).all()):
            raise ModelError(
                "The model's outputs are not finite, so it has diverged. Lower "
                "training.learning_rate, or set training.gradient_clipping."
            )
        losses, known = _word_losses(logits, batch)
        words = known.sum(1).long().tolist()
        found = self.zero()
        rows = zip(
            self._compared(logits, batch), losses.double().sum(1).tolist(), words, strict=True
        )
        for compared, loss, count in rows:
            found += SpanCounts.of_record(self.classes, compared, loss, count)
        return found

    def zero(self) -> SpanCounts:
        return SpanCounts.zero(self.classes)

    def cells(self, logits: Tensor, batch: Batch) -> np.ndarray:
        """What each record adds to the counts of records and of spans, int64[B, 2 + 3 classes]."""
        return np.stack([cells_of(self.classes, one) for one in self._compared(logits, batch)])

    def answers(self, outputs: Tensor, label_names: Sequence[str]) -> list[Answer]:
        return [Answer(places=row) for row in outputs.softmax(-1).float().cpu()]

    def _compared(self, logits: Tensor, batch: Batch) -> Iterator[Compared]:
        """True and found spans of each record; an output that is not a number is never the largest."""
        guesses = np.nan_to_num(logits.double().cpu().numpy(), nan=-np.inf).argmax(axis=2)
        tags = tags_of(batch["targets"]).cpu().numpy()
        missed = missed_of(batch["targets"]).cpu().numpy()
        for guess, tag, beyond in zip(guesses, tags, missed, strict=True):
            units = tag >= -1
            yield Compared(
                decoded(tag[units].tolist()),
                decoded(guess[units].tolist()),
                beyond[beyond >= 0].tolist(),
            )


def _word_losses(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Loss of each word's tag, and which of them are known: both float[B, T]."""
    tags = tags_of(batch["targets"])
    targets = tags.masked_fill(tags < 0, -100)
    losses = cross_entropy(
        logits.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=-100
    )
    return losses.view_as(targets), (tags >= 0).to(losses.dtype)
