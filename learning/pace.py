"""How fast this machine is with a model, measured on invented texts.

Nothing here depends on a record, so what is computed from it may be told: when an answer leaves.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from .batches import forward_batch, microbatch
from .counts import counting
from .examples import Examples
from .features import computed, head_reads_features
from .filling import (
    NO_LENGTH,
    NOTHING,
    ONE,
    Costs,
    Filling,
    Invented,
    Nothing,
    Spend,
    invented_examples,
)
from .model import Learner
from .shapes import (
    Shape,
    failing_costs,
    rows_that_fill,
    rows_to_train,
    shape_of_steps,
    shape_of_tests,
)
from .steps import PrivateSteps
from .tasks.task import Task
from .trainer import StepRange, test, train

_REPEATS = 3
_HASHES = 6
"""So often the whole of a record is looked at before it is a row: marks, splits, keys of caches."""
_UNTRIED = 2.5
"""A record may take so many times as long as the slowest of those that are tried."""
_STEPS = 3
_TURNS = 5
_MICROBATCHES = 4
"""At least this many in a measured step."""


@dataclass(frozen=True)
class Pace:
    """Seconds: an answer that leaves too early would tell something.

    `record` and `tested`, of which there are many, are what they usually take; each other is the longest of
    a few.
    """

    start: float
    """Of a request to train that uses no record: weights in, one step of noise, update out."""
    step: float
    """Of each further step without records. In both, rows that only fill passes are counted as full."""
    record: float
    """Of each record in full microbatches."""
    alone: float
    """What a single record takes beyond that."""
    tested: float
    """Of each held-out record."""
    prepared: float
    """Of each record before the first round: its features, if a head is trained on them."""
    filling: int = 0
    """As many records more is what rows that only fill a pass may take of a test, or of features."""
    again: int = 0
    """As many records more is what one takes at which a pass through the base model fails."""
    training: Costs = ONE
    """Cost of passes with gradients."""
    testing: Costs = ONE
    """Cost of passes of a test."""
    read: float = 0.0
    """The most that a record takes to be made a row, beyond what one of text takes."""


def measured(
    learner: Learner,
    task: Task,
    clock: Callable[[], float] = time.perf_counter,
    *,
    largest: int = 0,
) -> Pace:
    """The pace of a model's training and testing here and now, in seconds of `clock`.

    largest: how large a record may be, if that is declared (``Inputs.costliest``).
    """

    def longest(act: Callable[[], object]) -> float:
        """Of a few times; the first, in which memory is found, does not count."""
        act()
        found = []
        for _ in range(_REPEATS):
            begun = clock()
            act()
            found.append(clock() - begun)
        return max(found)

    examples = _invented(learner)
    prepared = 0.0
    if learner.network.head_alone and head_reads_features(learner):

        def features() -> np.ndarray:
            return computed(learner, examples, np.empty)

        prepared = longest(features) / len(examples)
        examples = replace(examples, features=features())

    def some(count: int) -> Examples:
        return examples.take(np.arange(count) % len(examples))

    def trained(count: int, steps: int = 1) -> float:
        return longest(lambda: _train(learner, task, some(count), steps))

    on_features = examples.features is not None
    rows = rows_to_train(learner, on_features=on_features)
    full = rows or min(len(examples), microbatch(learner.job.training, learner.network.device))
    full *= _MICROBATCHES
    start = trained(0)
    step = max(0.0, (trained(0, _STEPS) - start) / (_STEPS - 1))
    record = max(0.0, trained(full) - start) / full
    alone = max(0.0, trained(1) - start - record)
    if rows and not on_features:
        # Rows that only fill the passes of each length; those around a single record among them.
        start += rows_that_fill(learner) * record
        step += rows_that_fill(learner) * record
        alone = max(0.0, alone - (rows - 1) * record)
    counts, held = counting(learner.job, task), some(max(full, len(examples)))
    tested = longest(lambda: test(learner, counts, learner.initial, held)) / len(held)
    shape = shape_of_steps(learner, on_features=on_features)
    training = _Looked(learner, shape, clock, on_features=on_features)
    _train(learner, task, examples.none(), 0, training)
    shape = shape_of_tests(learner, counts, on_features=on_features)
    testing = _Looked(learner, shape, clock, on_features=on_features)
    test(learner, counts, learner.initial, examples.none(), filling=testing)
    filling = rows_that_fill(learner)
    return Pace(
        start,
        step,
        record,
        alone,
        tested,
        prepared,
        filling,
        failing_costs(learner),
        training.costs,
        testing.costs,
        _read(learner, largest, clock),
    )


def _read(learner: Learner, largest: int, clock: Callable[[], float]) -> float:
    """Of invented records that take long for their size, the longest, and as much again as ``_UNTRIED``."""
    longest, scale = 0.0, 1.0
    if largest:
        records, scale = learner.inputs.costliest(largest)
        for record in records:
            learner.inputs.encode([record], learner.longest)  # libraries and memory are found
            begun = clock()
            for _ in range(_HASHES):
                hashlib.sha256(record.encode()).digest()
            learner.inputs.encode([record], learner.longest)
            longest = max(longest, clock() - begun)
    return _UNTRIED * scale * longest


class _Looked(Nothing):
    """Looks what passes cost, if an answer would be filled."""

    costs: Costs

    def __init__(
        self, learner: Learner, shape: Shape, clock: Callable[[], float], *, on_features: bool
    ) -> None:
        self._learner, self._shape, self._clock = learner, shape, clock
        self._on_features = on_features

    def fill(self, spend: Spend) -> None:
        """The quickest of a few times each, in turns: what else the machine does meets all alike."""
        rows, fixed = self._shape
        lengths = [NO_LENGTH] if self._on_features else self._shape.lengths(self._learner)
        invented = Invented(self._learner, rows, lengths, on_features=self._on_features)
        makes = [partial(invented.batch, length) for length in lengths]
        makes.append(partial(invented.batch, lengths[-1], alone=not fixed))
        seconds = np.full((_TURNS + 1, len(makes)), np.inf)
        for turn in range(_TURNS + 1):
            for place, make in enumerate(makes):
                begun = self._clock()
                spend(make)
                seconds[turn, place] = self._clock() - begun
        *found, single = seconds[1:].min(axis=0)  # in the first, memory is found
        # A clock that stands still tells nothing; longer texts never cost less.
        found = np.maximum.accumulate(np.maximum(found, 1e-9))
        costs = tuple(float(cost) for cost in found / found[-1])
        single = 1.0 if fixed else float(np.clip(single / found[-1], 0.0, 1.0))
        self.costs = Costs(rows, tuple(lengths), costs, single, fixed)


def _train(
    learner: Learner, task: Task, examples: Examples, steps: int, filling: Filling = NOTHING
) -> None:
    size = max(1, len(examples))
    private = PrivateSteps(1.0, float(size), 1.0, 1.0, os.urandom(32))
    span = StepRange(0, steps, max(1, steps))
    # A look takes the passes of this job; how long steps take is told by private ones, which take longer.
    plain = filling is not NOTHING and not learner.job.noised_locally
    train(
        learner,
        task,
        learner.initial,
        examples,
        span,
        seed=0,
        who="pace",
        private=None if plain else private,
        filling=filling,
    )


def _invented(learner: Learner) -> Examples:
    """As many texts of the greatest length as go through the base model at once."""
    count = forward_batch(learner.job.training, learner.network.device)
    return invented_examples(learner, [learner.longest] * count)
