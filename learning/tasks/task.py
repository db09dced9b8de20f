"""The seam between the trainer and what is learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from ..metrics import Counts
from ..network import Batch


class FoundSpan(NamedTuple):
    """A part of a text, its characters from `start` to `end`, what it is, and how probable that is."""

    text: str
    start: int
    end: int
    label: str
    probability: float


class Answer(NamedTuple):
    """What a model says of one record: for each class a probability, numbers by name, or spans."""

    probabilities: Mapping[str, float] = MappingProxyType({})
    """Most likely first."""
    values: Mapping[str, float] = MappingProxyType({})
    places: Tensor | None = None
    """What the head says of each place of the record's row, float32[places, outputs]; ``Inputs.told`` says
    what that means in the record."""
    spans: tuple[FoundSpan, ...] | None = None
    """In order; empty if there are none, None of a task that does not look for any."""
    text: str | None = None
    """In which the spans stand."""


class Objective(Protocol):
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


class Task(Objective, Protocol):
    """What a job learns: an objective, and what is said of records one by one.

    A class of your own that derives from this has ``sums``.
    """

    def cells(self, logits: Tensor, batch: Batch) -> np.ndarray:
        """The cell of each example in the counts of a private job (``metrics.TaskCounts``), int64[B], flat.

        Or, if one record adds to several, what each adds to all of them, int64[B, cells]: none below 0, and
        all together at most ``TaskSpec.adds``.

        Outputs that are not finite belong to some cell, too.
        """
        ...

    def sums(self, logits: Tensor, batch: Batch) -> Tensor:
        """What each example adds to the sums of a private job, float[B, m], the loss first.

        Whatever is below 0 or above a sum's cap counts as that.
        """
        return self.losses(logits, batch).unsqueeze(1)

    def answers(self, outputs: Tensor, label_names: Sequence[str]) -> list[Answer]:
        """What the model says of each record, from its outputs (logits); for a prediction.

        A task whose predictions continue a text (``TaskSpec.continues``) is not asked.
        """
        ...
