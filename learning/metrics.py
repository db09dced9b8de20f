"""Additive counts of an evaluation, and the figures computed from them.

Only counts leave a client. Counts of two parts of a data set add up to the counts of the whole, so
they may ride in a secure sum; every figure is computed from the sum alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from ..errors import MessageError
from ..tasks.spec import TaskSpec, spec_of


class Counts(Protocol):
    """What every task's counts can do."""

    def __add__(self, other: Self) -> Self: ...

    def to_list(self) -> list[float]: ...

    def metrics(self, label_names: Sequence[str]) -> dict[str, Any]: ...


class TaskCounts(Counts, Protocol):
    """The counts of one task: exact ones as an object, and what those of a private job are.

    Those of a private job are cells and sums (``private_counts``). Each record adds one to one of the cells
    (or to several, in all at most ``TaskSpec.adds``), and to each sum between 0 and its cap. Noise, its cost
    and the room in a secure sum follow from these declarations, whatever the cells and sums mean.
    """

    reals: ClassVar[int]
    """Numbers at the end of ``to_list`` that are any finite ones; those before are whole and at least 0."""

    @classmethod
    def zero(cls, classes: int) -> Self:
        """Counts of no records; `classes` is 0 for a task without labels."""
        ...

    @classmethod
    def from_list(cls, numbers: Sequence[float]) -> Self:
        """Inverse of `to_list`; raises ``MessageError`` for what it cannot have written."""
        ...

    @classmethod
    def most(cls, max_length: int) -> int:
        """What one record of at most this many numbers adds to one whole count, at most."""
        ...

    @classmethod
    def cells(cls, classes: int) -> tuple[int, ...]:
        """The shape of the cells of a private job."""
        ...

    @classmethod
    def caps(cls, classes: int) -> tuple[float, ...]:
        """For each sum of a private job the most that one record adds; the first is that of the loss."""
        ...

    @classmethod
    def of_noised(
        cls, cells: np.ndarray, sums: Sequence[float], each: int, label_names: Sequence[str]
    ) -> dict[str, Any]:
        """Figures from the counts of a private job, which noise can have taken below zero.

        cells: int64 of the shape above. sums: float, in their own units. each: what one record adds to the
        cells.
        """
        ...

    @classmethod
    def blur(cls, cell: float, total: float, classes: int) -> float:
        """Standard deviation that noise gives the figure that decides (``TaskSpec.deciding``).

        cell: that of one cell, over all records. total: that of one sum, likewise, in shares of its cap.
        """
        ...


def exact_counts_from_list(task: str, numbers: Sequence[float]) -> Counts:
    """Exact counts as numbers again; ``MessageError`` for what no client can have counted."""
    return counts_of(spec_of(task)).from_list(numbers)


def counts_of(task: TaskSpec) -> type[TaskCounts]:
    """What is counted of a task's held-out records."""
    module, _, name = task.counts.partition(":")
    found: type[TaskCounts] = getattr(import_module(module), name)
    return found


def total(counts: Mapping[str, Counts]) -> Counts:
    """The counts of all clients together."""
    first, *rest = counts.values()
    for other in rest:
        first = first + other
    return first


def whole(numbers: Sequence[float]) -> np.ndarray:
    """Numbers off the wire as int64; ``MessageError`` for any that is not whole, from 0 to 2^53."""
    values = np.asarray(numbers)
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise MessageError("Counts must be finite numbers.")
    if (values < 0).any() or (values != np.floor(values)).any() or (values >= 2**53).any():
        raise MessageError("Counts must be whole numbers from 0 to 2^53.")
    return values.astype(np.int64)


def part_of(right: int, examples: int) -> None:
    """Raise ``MessageError`` if more records are right than there are."""
    if right > examples:
        raise MessageError(f"{right} records cannot be right of {examples}.")


def finite(number: float) -> float:
    """A number off the wire; ``MessageError`` if it is not finite."""
    if not math.isfinite(number):
        raise MessageError("A loss must be a finite number.")
    return float(number)
