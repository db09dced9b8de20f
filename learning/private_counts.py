"""Counts that noise can hide, of a private job: few, whole, and each record adds a bounded amount.

A record adds one to one cell (true by predicted class; for a language model there is one cell) and
at most ``LOSS_STEPS`` to the loss. So unit noise on each cell and ``LOSS_STEPS`` times as much on the
loss hide any one record, whatever the model.

If groups of records are protected, each group adds ``GROUP_COUNTS`` to the cells, dealt out evenly to
its records, and the mean of their losses. Noise of ``GROUP_COUNTS`` times as much on each cell hides
any one group. Were its records counted as they are, up to k of them, the noise would have to be k
times as much for groups that mostly have fewer: the same noise against less to be seen in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MessageError
from ..job import Job
from ..privacy.noise.counts_noise import CLIENT_COUNTS, GROUP_COUNTS, LOSS_STEPS, loss_cap
from .metrics import BINS, ClassificationCounts

if TYPE_CHECKING:
    from torch import Tensor

    from .network import Batch
    from .tasks import Task

_LARGEST = 2**53


@dataclass(frozen=True)
class PrivateCounts:
    """`cells` is int64[K, K], by true and predicted class (K = 1 for language); `loss` in steps.

    After noise any of them may be negative. A job whose counts are "exact" sends them without.
    """

    cells: np.ndarray
    loss: int

    @classmethod
    def zero(cls, classes: int) -> PrivateCounts:
        """Counts of no examples; `classes` is 0 for a language model."""
        size = max(1, classes)
        return cls(np.zeros((size, size), np.int64), 0)

    def __add__(self, other: PrivateCounts) -> PrivateCounts:
        if self.cells.shape != other.cells.shape:
            raise ValueError("counts of different classes cannot be added")
        return PrivateCounts(self.cells + other.cells, self.loss + other.loss)

    def plus(self, noise: Sequence[int]) -> PrivateCounts:
        """With one number for each cell added, and the last one to the loss."""
        cells = np.asarray(noise[:-1], dtype=np.int64).reshape(self.cells.shape)
        return PrivateCounts(self.cells + cells, self.loss + int(noise[-1]))

    def scaled(self, to: int) -> PrivateCounts:
        """As if the examples were so many: cells that sum to exactly `to`, and the loss likewise."""
        if not self.examples:
            return self
        exact = self.cells.ravel() * to
        cells, rest = np.divmod(exact, self.examples)
        cells[np.argsort(-rest, kind="stable")[: to - int(cells.sum())]] += 1
        loss = round(self.loss * to / self.examples)
        return PrivateCounts(cells.reshape(self.cells.shape), loss)

    def bounded(self, job: Job) -> PrivateCounts:
        """The same as noise is to hide it: what a neighbour changes is within ``planning.noise.change_of``.

        Guarantee under unit "group", for counts of a ``PrivateTask``: one group more or less changes
        the cells by a vector of L2 norm at most GROUP_COUNTS, for its entries are of one sign and sum
        to that at most; and the loss by at most LOSS_STEPS, for the sum before the division changes by at
        most GROUP_COUNTS * LOSS_STEPS, and rounding keeps differences that are whole numbers. One
        record more or less in a group that stays changes them by no more.
        """
        if job.per_client:
            return self.scaled(CLIENT_COUNTS)
        if job.per_group:
            return PrivateCounts(self.cells, (self.loss + GROUP_COUNTS // 2) // GROUP_COUNTS)
        return self

    @property
    def examples(self) -> int:
        return int(self.cells.sum())

    def to_list(self) -> list[float]:
        """Flat numbers for the wire: K*K cells, then the loss; all whole."""
        return [*self.cells.ravel().tolist(), self.loss]

    @classmethod
    def from_list(cls, numbers: Sequence[float]) -> PrivateCounts:
        """Inverse of `to_list`; raises ``MessageError`` for what it cannot have written."""
        classes = isqrt(max(0, len(numbers) - 1))
        values = np.asarray(numbers)
        if classes < 1 or classes * classes + 1 != len(numbers):
            raise MessageError(f"{len(numbers)} numbers cannot be private counts.")
        sound = values.dtype.kind in "iuf" and bool(np.isfinite(values).all())
        if not sound or (values != np.floor(values)).any() or (np.abs(values) >= _LARGEST).any():
            raise MessageError("Private counts must be whole numbers within 2^53.")
        whole = values.astype(np.int64)
        return cls(whole[:-1].reshape(classes, classes), int(whole[-1]))

    def metrics(self, label_names: Sequence[str], each: int = 1) -> dict[str, Any]:
        """Figures as they can be told from noised counts; `each` is what one example adds to the cells.

        Accuracy and loss are ratios of sums as they came, so noise does not bias them; in figures by
        class what is below zero counts as zero. A loss that noise took to zero or below is not defined.
        Of a classifier those of ``ClassificationCounts``, but for the area under the ROC curve. Of a
        language model the loss is the mean over records of each one's mean over its tokens.
        """
        classes = len(self.cells)
        cells = np.maximum(np.rint(self.cells / each).astype(np.int64), 0)
        examples = max(0, self.examples) / each
        loss = self.loss * loss_cap(classes) / LOSS_STEPS if self.loss > 0 else None
        mean = loss / examples if loss is not None and examples else None
        if classes == 1:
            # Noise can leave few of many examples, and so a mean beyond any.
            usable = mean is not None and mean < math.log(np.finfo(np.float64).max)
            return {
                "loss": mean,
                "perplexity": math.exp(mean) if mean is not None and usable else None,
                "tokens": None,
                "examples": round(examples),
            }
        scores = np.zeros((classes, 2, BINS), np.int64)
        found = ClassificationCounts(cells, scores, loss or 0.0).metrics(label_names)
        right = min(max(0, int(np.trace(self.cells))) / each, examples)
        return found | {
            "examples": round(examples),
            "accuracy": right / examples if examples else None,
            "loss": mean,
        }


@dataclass(frozen=True)
class PrivateTask:
    """A task whose counts are private ones."""

    task: Task
    classes: int
    """0 for a language model."""

    def losses(self, logits: Tensor, batch: Batch) -> Tensor:
        return self.task.losses(logits, batch)

    def counts(self, logits: Tensor, batch: Batch) -> PrivateCounts:
        """Of outputs that are not finite: a wrong answer, or a loss of the largest amount.

        Each example counts as often as the batch's "weights" say, if it has some: where groups are
        protected, and 0 for rows that only fill a pass (``shapes``).
        """
        cap = loss_cap(max(1, self.classes))
        losses = self.task.losses(logits, batch).double().cpu().numpy()
        losses = np.clip(np.nan_to_num(losses, nan=cap, posinf=cap, neginf=0.0), 0.0, cap)
        weights = np.ones(len(losses), np.int64)
        if "weights" in batch:
            weights = batch["weights"].cpu().numpy()
        steps = int(weights @ np.rint(losses * (LOSS_STEPS / cap)).astype(np.int64))
        if not self.classes:
            return PrivateCounts(weights.sum(keepdims=True).reshape(1, 1), steps)
        labels = batch["labels"].cpu().numpy()
        guesses = np.nan_to_num(logits.double().cpu().numpy(), nan=-np.inf).argmax(axis=1)
        cells = np.zeros(self.classes**2, np.int64)
        np.add.at(cells, labels * self.classes + guesses, weights)
        return PrivateCounts(cells.reshape(self.classes, self.classes), steps)

    def zero(self) -> PrivateCounts:
        return PrivateCounts.zero(self.classes)
