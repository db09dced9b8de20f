"""A released loss: what its noise is worth, beside steps too, and what an attacker makes of it."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from umbel.errors import PlanRefused, StrategyError
from umbel.job import Job
from umbel.learning.classification_counts import ClassificationCounts
from umbel.learning.private_counts import PrivateTask
from umbel.learning.tasks.text_classification import TextClassification
from umbel.planning.losses import clip_of_loss, event_of_losses
from umbel.planning.noise import private_recipe
from umbel.privacy.accounting import second
from umbel.privacy.accounting.accountant import MechanismEvent, epsilon
from umbel.privacy.noise.counts_noise import LOSS_STEPS
from umbel.privacy.noise.loss_noise import LossNoise, losses_event
from umbel.redteam.bound import epsilon_lower_bound

DELTA = 1e-5


def job_of(strategy="q-fedavg", **privacy):
    name, options = (strategy, {}) if isinstance(strategy, str) else strategy
    return Job.build(
        {
            "data": {"labels": ["negative", "positive"]},
            "training": {"rounds": 10, "local_steps": 4, "batch_size": 16},
            "strategy": {"name": name, "options": options},
            "privacy": {"epsilon": 4.0, "delta": DELTA, **privacy},
        }
    )


@pytest.mark.parametrize("share", [0.05, 0.1, 0.6])
@pytest.mark.parametrize("target", [1.0, 8.0])
def test_steps_and_losses_keep_to_epsilon_by_another_accountant_too(share, target):
    job = job_of(("afl", {"loss_share": share}), epsilon=target)
    recipe = private_recipe(job, 400, 10)
    losses = recipe.planned["losses"]
    assert (losses.kind, losses.sampling_rate, losses.steps) == ("gaussian", 1.0, 10)
    assert recipe.epsilon <= target
    found = second.epsilon(recipe.planned.values(), DELTA)
    assert found == pytest.approx(recipe.epsilon, rel=5e-3)
    # With its spare rounds, whose losses are released again, it is still within the target.
    paid = recipe.spending(10 + job.spare_rounds, 0).values()
    assert epsilon([*paid, recipe.planned["size"]], DELTA) <= target
    bare = private_recipe(job_of("fedavg", epsilon=target), 400, 10)
    assert bare.loss_event is None
    assert bare.noise_multiplier < recipe.noise_multiplier


@pytest.mark.parametrize("releases", [1, 30])
def test_losses_alone_take_their_share_of_the_noise(releases):
    event = losses_event(2.0, DELTA, releases, 0.25)
    whole = MechanismEvent(event.noise_multiplier * math.sqrt(0.25 / releases), 1.0, 1)
    assert epsilon([whole], DELTA) == pytest.approx(2.0, rel=2e-3)
    assert epsilon([event], DELTA) < 2.0


@pytest.mark.parametrize("clip", [5e-324, 1e-310, 1e-4, -1.0, 1e7, 1.7e308])
@pytest.mark.parametrize("strategy", ["q-fedavg", "afl"])
def test_a_clip_that_no_loss_can_be_a_share_of_is_refused(strategy, clip):
    with pytest.raises(StrategyError, match="loss_clip"):
        private_recipe(job_of((strategy, {"loss_clip": clip})), 400, 10)


@pytest.mark.parametrize("cap", [5e-324, 1e-310, 1e-3, 1.0, 1e6, 1e308])
def test_a_record_adds_at_most_its_steps_whatever_the_cap_and_the_loss(cap):
    """Sixty-four over a cap of 1e-310 is infinite, and the whole part of that was -2^63 for each record."""
    task = PrivateTask(TextClassification(2), ClassificationCounts, 2, loss_clip=cap)
    extreme = torch.tensor([[0.0, 0.0], [1e4, -1e4], [-1e4, 1e4], [3e38, -3e38], [math.nan, 0.0]])
    for row in extreme:
        counts = task.counts(row[None], {"labels": torch.tensor([1])})
        assert 0 <= counts.loss <= LOSS_STEPS
    together = task.counts(extreme, {"labels": torch.ones(len(extreme), dtype=torch.int64)})
    assert 0 <= together.loss <= LOSS_STEPS * len(extreme)


def test_no_event_where_nothing_is_weighed_or_nothing_is_private():
    assert event_of_losses(job_of("fedavg"), 3) is None
    assert event_of_losses(job_of(unit="none"), 3) is None
    assert event_of_losses(job_of("q-fedavg"), 3).steps == 3


def test_the_clip_is_the_tasks_cap_or_the_jobs():
    assert clip_of_loss(job_of("q-fedavg")) == 4.0
    assert clip_of_loss(job_of(("q-fedavg", {"loss_clip": 1.5}))) == 1.5


@pytest.mark.parametrize(
    ("name", "bad"), [("loss_share", 0.0), ("loss_share", 1.0), ("loss_clip", -1.0)]
)
def test_a_share_or_a_clip_that_means_nothing_is_refused(name, bad):
    with pytest.raises(StrategyError, match=name):
        event_of_losses(job_of(("afl", {name: bad})), 3)


def test_too_much_beside_the_steps_is_refused_with_what_to_lower():
    job = job_of(("afl", {"loss_share": 0.999999}))
    with pytest.raises(PlanRefused, match="loss_share"):
        private_recipe(job, 400, 10, tests=1)


def test_the_noise_is_as_wide_as_it_is_charged(streams):
    stream, event = streams("loss")(), MechanismEvent(5.0, 1.0, 1)
    drawn = [LossNoise.draw(event, 4.0, 100, stream).drawn for _ in range(20_000)]
    assert np.std(drawn) == pytest.approx(5.0 * LOSS_STEPS, rel=0.03)  # six standard errors
    assert abs(np.mean(drawn)) < 6 * 5.0 * LOSS_STEPS / math.sqrt(20_000)


def test_what_is_released_lies_between_its_deviation_and_the_clip():
    noise = LossNoise(MechanismEvent(5.0, 1.0, 1), 4.0, 100, 0)
    assert noise.hide(50 * LOSS_STEPS) == pytest.approx(2.0)
    assert noise.hide(0) == pytest.approx(4.0 * 5.0 / 100)
    assert noise.hide(1000 * LOSS_STEPS) == 4.0
    low, high = (dataclasses.replace(noise, drawn=d) for d in (-(10**9), 10**9))
    assert (low.hide(3000), high.hide(3000)) == (noise.hide(0), 4.0)
    assert dataclasses.replace(noise, units=3).hide(0) == 4.0  # noise alone: everybody weighs alike


def right_guesses(event, stream, guesses):
    """Of an attacker that knows all records but one, which has the largest loss and is there by a coin."""
    rest, right = 50 * LOSS_STEPS, 0
    for _ in range(guesses):
        there = bool(stream.words(1)[0] & 1)
        told = LossNoise.draw(event, 4.0, 100, stream).hide(rest + there * LOSS_STEPS)
        steps = told / 4.0 * 100 * LOSS_STEPS
        right += (steps > rest + LOSS_STEPS / 2) == there
    return right


def test_a_loss_without_its_noise_tells_a_record_and_with_it_no_more_than_is_charged(streams):
    """The weak form is what a weight of the exact loss would be."""
    guesses, event = 20_000, MechanismEvent(1.0, 1.0, 1)
    charged, stream = epsilon([event], 1e-6), streams("guesses")()

    def bound(one):
        right = right_guesses(one, stream, guesses)
        return epsilon_lower_bound(guesses, guesses, right, 1e-6)

    assert bound(dataclasses.replace(event, noise_multiplier=0.0)) > charged
    assert 0.5 < bound(event) < charged
