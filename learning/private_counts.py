"""Counts that noise can hide, of a private job: few, whole, and each record adds a bounded amount.

A record adds one to one cell, and to each sum at most ``LOSS_STEPS``. What these are, a task declares
(``metrics.TaskCounts``); the first sum is the loss. So unit noise on each cell and ``LOSS_STEPS`` times as
much on the loss hide any one record, whatever the model; each of m sums has sqrt(m) times as much. A task
whose records add to several cells says how much at most, all together (``TaskSpec.adds``): noise of each cell
is so many times as much.

If groups of records are protected, each group adds ``GROUP_COUNTS`` times that to the cells, dealt out evenly
to its records, and the means of what they add to the sums. Noise of ``GROUP_COUNTS`` times as much on each
cell hides any one group. Were its records counted as they are, up to k of them, the noise would have to be k
times as much for groups that mostly have fewer: the same noise against less to be seen in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MessageError
from ..job import Job
from ..privacy.noise.counts_noise import CLIENT_COUNTS, GROUP_COUNTS, LOSS_STEPS
from .metrics import TaskCounts

if TYPE_CHECKING:
    from torch import Tensor

    from .network import Batch
    from .tasks import Task

_LARGEST = 2**53


@dataclass(frozen=True)
class PrivateCounts:
    """`cells` is int64 of the shape that the task declares, `sums` int64[m] in steps, the loss first.

    After noise any of them may be negative. A job whose counts are "exact" sends them without.
    """

    kind: type[TaskCounts]
    classes: int
    """0 for a task without labels."""
    cells: np.ndarray
    sums: np.ndarray

    @classmethod
    def zero(cls, kind: type[TaskCounts], classes: int) -> PrivateCounts:
        """Counts of no examples."""
        cells = np.zeros(kind.cells(classes), np.int64)
        return cls(kind, classes, cells, np.zeros(len(kind.caps(classes)), np.int64))

    def __add__(self, other: PrivateCounts) -> PrivateCounts:
        if (self.kind, self.classes) != (other.kind, other.classes):
            raise ValueError("counts of different tasks or classes cannot be added")
        return self._with(self.cells + other.cells, self.sums + other.sums)

    def _with(self, cells: np.ndarray, sums: np.ndarray) -> PrivateCounts:
        return PrivateCounts(self.kind, self.classes, cells, sums)

    def plus(self, noise: Sequence[int]) -> PrivateCounts:
        """With one number for each cell added, and the last ones to the sums."""
        size = self.cells.size
        drawn = np.asarray(noise, dtype=np.int64)
        return self._with(
            self.cells + drawn[:size].reshape(self.cells.shape), self.sums + drawn[size:]
        )

    def scaled(self, to: int) -> PrivateCounts:
        """As if the cells were so many: they sum to exactly `to`, and the sums are less in proportion."""
        counted = int(self.cells.sum())
        if not counted:
            return self
        exact = self.cells.ravel() * to
        cells, rest = np.divmod(exact, counted)
        cells[np.argsort(-rest, kind="stable")[: to - int(cells.sum())]] += 1
        sums = np.array([round(int(one) * to / counted) for one in self.sums], np.int64)
        return self._with(cells.reshape(self.cells.shape), sums)

    def bounded(self, job: Job) -> PrivateCounts:
        """The same as noise is to hide it: what a neighbour changes is within ``planning.noise.change_of``.

        Guarantee under unit "group", for counts of a ``PrivateTask``: one group more or less changes
        the cells by a vector of L2 norm at most GROUP_COUNTS (times ``TaskSpec.adds``), for its entries
        are of one sign and sum to that at most; and each sum by at most LOSS_STEPS, for it changes before
        the division by at most GROUP_COUNTS * LOSS_STEPS, and rounding keeps differences that are whole
        numbers. One record more or less in a group that stays changes them by no more.
        """
        if job.per_client:
            return self.scaled(CLIENT_COUNTS)
        if job.per_group:
            return self._with(self.cells, (self.sums + GROUP_COUNTS // 2) // GROUP_COUNTS)
        return self

    @property
    def examples(self) -> int:
        return int(self.cells.sum())

    @property
    def loss(self) -> int:
        """In steps."""
        return int(self.sums[0])

    def to_list(self) -> list[float]:
        """Flat numbers for the wire: the cells, then the sums; all whole."""
        return [*self.cells.ravel().tolist(), *self.sums.tolist()]

    @classmethod
    def from_list(
        cls, kind: type[TaskCounts], classes: int, numbers: Sequence[float]
    ) -> PrivateCounts:
        """Inverse of `to_list`; raises ``MessageError`` for what it cannot have written."""
        shape, sums = kind.cells(classes), len(kind.caps(classes))
        size, values = math.prod(shape), np.asarray(numbers)
        if size + sums != len(numbers):
            raise MessageError(f"{len(numbers)} numbers cannot be the private counts of this job.")
        sound = values.dtype.kind in "iuf" and bool(np.isfinite(values).all())
        if not sound or (values != np.floor(values)).any() or (np.abs(values) >= _LARGEST).any():
            raise MessageError("Private counts must be whole numbers within 2^53.")
        whole = values.astype(np.int64)
        return cls(kind, classes, whole[:size].reshape(shape), whole[size:])

    def metrics(self, label_names: Sequence[str], each: int = 1) -> dict[str, Any]:
        """Figures as they can be told from noised counts; `each` is what one example adds to the cells."""
        caps = self.kind.caps(self.classes)
        sums = [int(one) * cap / LOSS_STEPS for one, cap in zip(self.sums, caps, strict=True)]
        return self.kind.of_noised(self.cells, sums, each, label_names)


@dataclass(frozen=True)
class PrivateTask:
    """A task whose counts are private ones."""

    task: Task
    kind: type[TaskCounts]
    classes: int
    """0 for a task without labels."""
    loss_clip: float | None = None
    """The most that a record's loss counts, in place of the task's own cap."""
    adds: int = 1
    """The most that a record adds to the cells (``TaskSpec.adds``)."""

    def losses(self, logits: Tensor, batch: Batch) -> Tensor:
        return self.task.losses(logits, batch)

    def counts(self, logits: Tensor, batch: Batch) -> PrivateCounts:
        """Of outputs that are not finite: what the task says, with the cap of each sum.

        Each example counts as often as the batch's "weights" say, if it has some: if groups are
        protected, and 0 for rows that only fill a pass (``shapes``).
        """
        caps, zero = np.array(self.kind.caps(self.classes)), self.zero()
        if self.loss_clip is not None:
            caps[0] = self.loss_clip
        sums = self.task.sums(logits, batch).double().cpu().numpy()
        sums = np.clip(np.where(np.isnan(sums), caps, sums), 0.0, caps)
        weights = np.ones(len(sums), np.int64)
        if "weights" in batch:
            weights = batch["weights"].cpu().numpy()
        # In shares first: a product with an inverse cap could be infinite, and its whole part anything.
        shares = np.clip(sums / caps, 0.0, 1.0)
        steps = weights @ np.rint(shares * LOSS_STEPS).astype(np.int64)
        cells = self._cells(self.task.cells(logits, batch), weights, zero.cells.size)
        return PrivateCounts(self.kind, self.classes, cells.reshape(zero.cells.shape), steps)

    def _cells(self, added: np.ndarray, weights: np.ndarray, size: int) -> np.ndarray:
        """All that records add, int64[size]; of one that would add more than `adds` the first cells count."""
        if added.ndim == 1:
            cells = np.zeros(size, np.int64)
            np.add.at(cells, added, weights)
            return cells
        reached = np.minimum(np.maximum(added, 0).cumsum(axis=1), self.adds)
        found: np.ndarray = weights @ np.diff(reached, axis=1, prepend=0)
        return found

    def zero(self) -> PrivateCounts:
        return PrivateCounts.zero(self.kind, self.classes)
