"""Dropout under example-level privacy: there is none, and what would bring it is refused."""

import os

import numpy as np
import pytest
import torch

from umbel.errors import ModelError, PlanRefused
from umbel.learning.examples import Examples
from umbel.learning.steps import PrivateSteps
from umbel.learning.tasks import task_for
from umbel.learning.trainer import StepRange, train
from umbel.simulations.engine import plan_job

COUNT, CLIP = 20, 0.05


def moved(learner, job, examples):
    """What one private step without noise adds up, in clipping norms, float64[trained]."""
    private = PrivateSteps(1.0, 1.0, 0.0, CLIP, os.urandom(32))
    outcome = train(
        learner,
        task_for(job, 2),
        learner.initial,
        examples,
        StepRange(0, 1, 1),
        seed=0,
        who="st-mary",
        private=private,
    )
    return np.concatenate([a.ravel() for a in outcome.update.values()]).astype(float) / CLIP


def without(examples, index):
    return Examples(examples.store, np.delete(examples.rows, index))


@pytest.fixture
def job(job_of):
    def build(adapter, **sections):
        training = {"optimizer": "sgd", "learning_rate": 1.0, "batch_size": COUNT}
        model = {"adapter": adapter, **sections.pop("model", {})}
        return job_of("bert-with-dropout", training=training, model=model, **sections)

    return build


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_one_example_less_moves_a_step_by_one_clipped_gradient(
    adapter, job, learner_of, examples_of
):
    """Through the whole trainer: its microbatches, its order, its padding."""
    asked = job(adapter)
    learner = learner_of(asked)
    examples = examples_of(learner, COUNT)
    whole = moved(learner, asked, examples)
    for index in (0, COUNT // 2, COUNT - 1):
        difference = whole - moved(learner, asked, without(examples, index))
        assert 0.5 < np.linalg.norm(difference) <= 1 + 1e-4


def test_without_privacy_dropout_stays(job, learner_of, examples_of):
    asked = job("full", privacy={"unit": "none"})
    probabilities = {
        m.p for m in learner_of(asked).network.modules() if isinstance(m, torch.nn.Dropout)
    }
    assert max(probabilities) == 0.1
    private = learner_of(job("full")).network
    assert {m.p for m in private.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}
    assert private.backbone.config.hidden_dropout_prob == 0.0


def test_dropout_that_comes_back_is_refused(job, learner_of, examples_of):
    asked = job("full")
    learner = learner_of(asked)
    layer = next(m for m in learner.network.modules() if isinstance(m, torch.nn.Dropout))
    layer.p = 0.1
    try:
        with pytest.raises(ModelError, match="drops out values by their place in the batch"):
            moved(learner, asked, examples_of(learner, COUNT))
    finally:
        layer.p = 0.0


def test_dropout_of_an_adapter_is_refused_in_the_plan(job):
    with pytest.raises(
        PlanRefused, match=r"model\.lora\.dropout = 0\.1: dropout depends on the place"
    ):
        plan_job(job("lora", model={"lora": {"dropout": 0.1}}))
