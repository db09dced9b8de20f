"""How fast this machine is with a model, measured on invented texts of the greatest length.

Nothing here depends on a record, so what is computed from it may be told: when an answer leaves.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .batches import forward_batch, microbatch
from .counts import counting
from .examples import Examples, TokenStore
from .features import computed
from .invented import invented_texts
from .model import Learner
from .shapes import rows_that_fill, rows_to_train
from .steps import PrivateSteps
from .tasks.task import Task
from .trainer import StepRange, test, train

_REPEATS = 3
_STEPS = 3
_MICROBATCHES = 4
"""In a measured step: the longest of a few long steps is nearer to what all take than that of short ones."""


@dataclass(frozen=True)
class Pace:
    """Seconds, each the longest of a few: an answer that leaves too early would tell something."""

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
    """Of each record before the first round: its features, where a head is trained on them."""
    filling: int = 0
    """As many records more is what rows that only fill a pass may take of a test, or of features."""


def measured(learner: Learner, task: Task, clock: Callable[[], float] = time.perf_counter) -> Pace:
    """The pace of a model's training and testing here and now, in seconds of `clock`."""

    def longest(act: Callable[[], object]) -> float:
        """Of a few times; the first, in which memory is found, does not count."""
        act()
        found = []
        for _ in range(_REPEATS):
            begun = clock()
            act()
            found.append(clock() - begun)
        return max(found)

    with tempfile.TemporaryDirectory() as folder:
        examples = _invented(learner, Path(folder))
        prepared = 0.0
        if learner.network.head_alone:

            def features() -> np.ndarray:
                found = computed(learner, examples, np.empty)
                assert found is not None
                return found

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
    return Pace(start, step, record, alone, tested, prepared, rows_that_fill(learner))


def _train(learner: Learner, task: Task, examples: Examples, steps: int) -> None:
    size = max(1, len(examples))
    private = PrivateSteps(1.0, float(size), 1.0, 1.0, os.urandom(32))
    span = StepRange(0, steps, steps)
    train(learner, task, learner.initial, examples, span, seed=0, who="pace", private=private)


def _invented(learner: Learner, folder: Path) -> Examples:
    """As many texts of the greatest length as go through the base model at once."""
    count = forward_batch(learner.job.training, learner.network.device)
    texts = invented_texts(learner.tokenizer, [learner.job.model.max_length] * count)
    np.save(folder / "ids.npy", np.concatenate(texts).astype(np.int32))
    lengths = [len(text) for text in texts]
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    np.save(folder / "labels.npy", np.zeros(count, np.int64))
    return Examples(TokenStore(folder), np.arange(count))
