"""Canaries go through the real base model, and catch training that is broken on purpose there too."""

import hashlib
import itertools
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from umbel.learning.tasks import task_for
from umbel.learning.trainer import train
from umbel.privacy.accounting.accountant import MechanismEvent, epsilon
from umbel.privacy.randomness import SecretStream
from umbel.redteam.base_canaries import replay_through_base
from umbel.redteam.canaries import Mechanism, Records, audit_mechanism

DELTA = 1e-6


def secrets(name):
    """Streams that are the same in every run of the tests."""
    numbers = itertools.count()
    return lambda: SecretStream.from_key(
        hashlib.sha256(f"{name} {next(numbers)}".encode()).digest()
    )


@pytest.fixture
def through(job_of, learner_of, examples_of):
    """A replay through a tiny base model, beside real records."""

    def build(base="bert", adapter="lora", task="text-classification", **named):
        data = {"labels": None, "label_column": None} if task == "causal-lm" else {}
        model = {**job_of(base).model.model_dump(exclude={"adapter"}), "adapter": adapter}
        learner = learner_of(job_of(base, task=task, data=data, model=model))
        real = examples_of(learner, 10)
        generator = np.random.default_rng(4)
        start = {
            name: array + generator.normal(0, 0.1, array.shape).astype(np.float32)
            for name, array in learner.initial.items()
        }
        return partial(replay_through_base, learner, task_for(learner.job, 2), start, real, **named)

    return build


KINDS = [
    ("bert", "lora", "text-classification"),
    ("gpt2", "full", "text-classification"),
    ("llama", "lora", "causal-lm"),
]


@pytest.mark.parametrize(("base", "adapter", "task"), KINDS)
def test_a_canary_is_released_as_often_as_it_was_drawn(base, adapter, task, through):
    mechanism = Mechanism(0.0, 0.3, 0.7, rounds=2, local_steps=2)
    seen = through(base, adapter, task)(mechanism, 41, secrets=secrets(base))
    assert np.abs(seen.releases[:, ~seen.coins]).max() < 1e-3
    drawn = seen.releases[:, seen.coins]
    times = drawn.round()
    assert times.max() == 2
    assert np.abs(drawn[times == 0]).max() < 1e-3
    # Less than once for each draw: the rest of the clipped gradient is the base model's.
    share = drawn[times > 0] / times[times > 0]
    assert share.min() > 0.7
    assert share.max() < 0.99


def with_half_the_noise(*arguments, private, **named):
    weak = replace(private, noise_multiplier=private.noise_multiplier / 2)
    return train(*arguments, private=weak, **named)


@pytest.mark.parametrize(("trained", "caught"), [(train, False), (with_half_the_noise, True)])
def test_noise_that_is_short_shows_in_what_was_measured(trained, caught, through, job_of):
    mechanism = Mechanism(2.0, 1.0, 1.0, rounds=1, local_steps=1)
    claim = epsilon([MechanismEvent(2.0, 1.0, 1)], DELTA)
    replay = through(secrets=secrets("noise"), train=trained)
    found, measured = audit_mechanism(
        job_of("bert"),
        mechanism,
        Records.none(),
        claim=claim,
        delta=DELTA,
        canaries=300,
        through=lambda count: replay(mechanism, count),
    )
    assert found.lower_bound <= claim
    assert (measured.noise_high < mechanism.noise_multiplier) == caught


def test_the_network_is_left_as_it_was(through, learner_of, job_of):
    replay = through()
    learner = replay.args[0]
    replay(Mechanism(1.0, 0.5, 1.0, rounds=1, local_steps=1), 10, secrets=secrets("left"))
    assert all(
        np.array_equal(array, learner.initial[name])
        for name, array in learner.network.arrays().items()
    )
    assert not learner.network.training
