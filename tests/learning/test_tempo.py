"""Beats: how fast the machine is while it works, felt without a record."""

import hashlib

import pytest
import torch

from umbel.learning import trainer
from umbel.learning.features import with_features
from umbel.learning.steps import PrivateSteps
from umbel.learning.tasks import task_for
from umbel.learning.tempo import STILL, Beats, Tempo
from umbel.learning.trainer import StepRange, train

CPU = torch.device("cpu")


class Clock:
    """A clock that goes on by `step` whenever it is read."""

    def __init__(self, step=0.0):
        self.time, self.step = 100.0, step

    def __call__(self):
        self.time += self.step
        return self.time


@pytest.fixture
def tempo():
    return lambda clock, every=1.0: Tempo(CPU, clock, every, products=1)


def test_a_beat_is_felt_as_often_as_it_should_be_and_counted_once(tempo):
    clock = Clock()
    felt = tempo(clock)
    for _ in range(10):
        felt.beat()
    assert felt.taken() == Beats(1, 0.0)
    assert felt.taken() == Beats(0, 0.0)
    felt.beat()  # due at once
    felt.beat()
    clock.time += 1.0
    clock.step = 0.25
    felt.beat()
    clock.step = 0.0
    felt.beat()
    assert felt.taken() == Beats(2, 0.25)


def test_denser_beats_are_the_same_ones_and_counted_apart(tempo):
    clock = Clock()
    felt = tempo(clock)
    dense = felt.denser(0.1)
    for _ in range(5):
        clock.time += 0.5
        felt.beat()
        dense.beat()
    assert dense.products == felt.products
    assert (felt.taken().count, dense.taken().count) == (3, 5)


@pytest.mark.parametrize("adapter", ["lora", "head"])
def test_what_is_computed_between_beats_stays_the_same_to_the_last_bit(
    adapter, job_of, learner_of, examples_of, tempo
):
    """Dropout, batches and noise are drawn as if there were no beats."""
    job = job_of(model={**job_of().model.model_dump(exclude={"lora"}), "adapter": adapter})
    learner = learner_of(job)
    examples = with_features(learner, examples_of(learner))
    task = task_for(job, 2)
    key = hashlib.sha256(b"steps").digest()
    private = PrivateSteps(0.5, len(examples) / 2, 1.0, 1.0, key)

    def found(felt, private):
        outcome = train(
            learner,
            task,
            learner.initial,
            examples,
            StepRange(0, 3, 3),
            seed=5,
            who="mary",
            private=private,
            tempo=felt,
        )
        counts = trainer.test(learner, task, learner.initial, examples, tempo=felt)
        return [a.tobytes() for a in outcome.update.values()], outcome.loss, counts.to_list()

    felt = tempo(Clock(0.01), every=0.0)
    for steps in (private, None):
        assert found(felt, steps) == found(STILL, steps)
        assert felt.taken().count > 3
