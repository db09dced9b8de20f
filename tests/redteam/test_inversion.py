"""Gradient inversion: bare updates give records away, noise hides them."""

import numpy as np
import pytest

from umbel.learning.tasks import task_for
from umbel.privacy.randomness import SecretStream
from umbel.redteam.inversion import Inverter, attack_of

NOISE = (1.0, 1.0)
ALONE = [[number] for number in range(10)]
FOURS = [[number, number + 12, number + 24, number + 36] for number in range(10)]


@pytest.fixture
def inverter(job_of, learner_of, examples_of):
    """Over 48 reviews, at a model that has seen something: a head of zeros sends nothing back."""

    def build(adapter, base="bert", pooling="mean", **sections):
        model = {"adapter": adapter, "pooling": pooling}
        learner = learner_of(job_of(base, model=model, **sections))
        generator = np.random.default_rng(0)
        weights = {
            name: array + generator.normal(0, 0.1, array.shape).astype(np.float32)
            for name, array in learner.initial.items()
        }
        classes = 0 if learner.job.task == "causal-lm" else 2
        return Inverter(learner, task_for(learner.job, classes), weights, examples_of(learner, 48))

    return build


@pytest.fixture
def secrets():
    key = iter(range(10**6))
    return lambda: SecretStream.from_key(next(key).to_bytes(32, "little"))


@pytest.mark.parametrize("pooling", ["mean", "layers"])
@pytest.mark.parametrize("adapter", ["head", "lora"])
def test_a_bare_update_of_a_head_names_its_record(inverter, adapter, pooling):
    view = inverter(adapter, pooling=pooling).view(ALONE, None)
    assert view.share == 1.0
    assert all(trial.recovered == trial.truth for trial in view.trials)
    assert view.chance == pytest.approx(1 / 48)


def test_a_bare_sum_still_tells_whose_records_are_in_it(inverter):
    """Encryption hides who; without noise it does not hide what."""
    view = inverter("head").view(FOURS, None)
    assert view.share > 3 * view.chance
    assert view.clients == 4


def test_noise_hides_the_record(inverter, secrets):
    attacked = inverter("head")
    for victims in (ALONE, FOURS):
        view = attacked.view(victims * 5, NOISE, secrets=secrets)
        # 50 trials: three standard errors of a share at the chance level.
        spread = 3 * np.sqrt(view.chance / 50)
        assert view.share < view.chance + spread + 0.04


@pytest.mark.parametrize(("base", "task"), [("bert", "text-classification"), ("gpt2", "causal-lm")])
def test_full_fine_tuning_gives_its_tokens_away(inverter, base, task):
    data = {} if task == "text-classification" else {"label_column": None, "labels": None}
    attacked = inverter("full", base, task=task, data=data)
    bare = attacked.view(ALONE, None)
    assert bare.share > 0.95
    assert bare.share > bare.chance + 0.3


def test_noise_hides_the_tokens(inverter, secrets):
    noised = inverter("full").view(ALONE, NOISE, secrets=secrets)
    assert noised.share < noised.chance + 0.1


def test_where_no_attack_fits_none_is_claimed(job_of, learner_of):
    job = job_of(
        "gpt2",
        task="causal-lm",
        model={"adapter": "lora"},
        data={"label_column": None, "labels": None},
    )
    assert attack_of(learner_of(job)) is None
