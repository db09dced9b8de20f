"""How fast this machine is with a model, measured on invented texts of the greatest length.

Nothing here depends on a record, so what is computed from it may be told: when an answer leaves.
"""

from __future__ import annotations

import math
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
from .tempo import Beats, Tempo
from .trainer import StepRange, test, train

_REPEATS = 3
_STEPS = 3
_MICROBATCHES = 4
"""In a measured step, at least."""
_LONG = 1.5
"""Seconds that a measured step should take, unless a round is shorter."""
_BETWEEN = 0.05
"""Seconds between two beats while it is measured."""


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
    """Of each record before the first round: its features, where a head is trained on them."""
    filling: int = 0
    """As many records more is what rows that only fill a pass may take of a test, or of features."""
    beat: float = 0.0
    """Of a beat (``Tempo``) meanwhile: `record` and `tested` are as long as that says."""


def measured(
    learner: Learner,
    task: Task,
    tempo: Tempo | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Pace:
    """The pace of a model's training and testing here and now, in seconds of `clock`, and of `tempo`."""
    dense = (tempo or Tempo(learner.network.device, clock)).denser(_BETWEEN)
    beats: list[Beats] = []

    def longest(act: Callable[[], object]) -> float:
        """Of a few times; the first, in which memory is found, does not count."""
        act()
        found = []
        for _ in range(_REPEATS):
            begun = clock()
            act()
            found.append(clock() - begun)
        return max(found)

    def usual(act: Callable[[], object]) -> float:
        """Of a few long times that act and beats share: what it takes when a beat takes as long as the
        first time that this was asked."""
        act()
        dense.taken()
        begun = clock()
        for _ in range(_REPEATS):
            act()
        taken, felt = clock() - begun, dense.taken()
        beats.append(felt)
        taken -= felt.seconds
        first = beats[0]
        if first.seconds and felt.seconds:
            taken *= first.seconds / first.count / (felt.seconds / felt.count)
        return taken / _REPEATS

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

        def act(count: int, steps: int = 1) -> None:
            _train(learner, task, some(count), steps, dense)

        def trained(count: int, steps: int = 1) -> float:
            return longest(lambda: act(count, steps))

        on_features = examples.features is not None
        rows = rows_to_train(learner, on_features=on_features)
        full = rows or min(len(examples), microbatch(learner.job.training, learner.network.device))
        full = _enough(full * _MICROBATCHES, learner, act, clock)
        start = trained(0)
        step = max(0.0, (trained(0, _STEPS) - start) / (_STEPS - 1))
        record = max(0.0, usual(lambda: act(full)) - start) / full
        alone = max(0.0, trained(1) - start - record)
        if rows and not on_features:
            # Rows that only fill the passes of each length; those around a single record among them.
            start += rows_that_fill(learner) * record
            step += rows_that_fill(learner) * record
            alone = max(0.0, alone - (rows - 1) * record)
        counts, held = counting(learner.job, task), some(max(full, len(examples)))
        tested = usual(lambda: test(learner, counts, learner.initial, held, tempo=dense))
        tested /= len(held)
        beat = beats[0].seconds / max(1, beats[0].count)
    return Pace(start, step, record, alone, tested, prepared, rows_that_fill(learner), beat)


def _enough(
    least: int, learner: Learner, act: Callable[[int], object], clock: Callable[[], float]
) -> int:
    """Records of a measured step: as many as take long enough, or as a round draws."""
    act(least)
    begun = clock()
    act(least)
    taken = clock() - begun
    drawn = learner.job.training.local_steps * learner.job.training.batch_size
    enough = math.ceil(least * _LONG / taken) if taken > 0 else drawn
    return max(least, min(drawn, enough))


def _train(learner: Learner, task: Task, examples: Examples, steps: int, tempo: Tempo) -> None:
    size = max(1, len(examples))
    private = PrivateSteps(1.0, float(size), 1.0, 1.0, os.urandom(32))
    span = StepRange(0, steps, steps)
    train(
        learner,
        task,
        learner.initial,
        examples,
        span,
        seed=0,
        who="pace",
        private=private,
        tempo=tempo,
    )


def _invented(learner: Learner, folder: Path) -> Examples:
    """As many texts of the greatest length as go through the base model at once."""
    count = forward_batch(learner.job.training, learner.network.device)
    texts = invented_texts(learner.tokenizer, [learner.job.model.max_length] * count)
    np.save(folder / "ids.npy", np.concatenate(texts).astype(np.int32))
    lengths = [len(text) for text in texts]
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    np.save(folder / "labels.npy", np.zeros(count, np.int64))
    return Examples(TokenStore(folder), np.arange(count))
