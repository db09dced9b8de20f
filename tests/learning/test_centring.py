"""Steps around the centre of features: what they promise, and what they leave as it is."""

import math

import numpy as np
import pytest
import torch

from umbel.job.centre import MOST_STRETCH
from umbel.learning.centring import Around, centre_of, view_of
from umbel.learning.features import with_features
from umbel.learning.probing.received import ReceivedWeights
from umbel.learning.steps import PrivateSteps
from umbel.learning.tasks import task_for
from umbel.learning.trainer import StepRange, train
from umbel.planning.centring import centring_refusals
from umbel.planning.limits import expected_update

from .kinds import job

KIND = ("bert", "mean", "head")
CLIP, LENGTH = 0.5, 4.0
CENTRED = {"optimizer": "sgd", "learning_rate": 1.0, "rounds": 6, "centre_rounds": 1}
WEIGHT, BIAS = "mean_head.weight", "mean_head.bias"


@pytest.fixture
def learner(job_of, learner_of):
    privacy = {"clipping_norm": CLIP}
    return learner_of(job(job_of, KIND, training=CENTRED, privacy=privacy))


@pytest.fixture
def examples(learner, examples_of):
    """Of two classes: their features, as long as each other, are moved so that they nearly agree."""
    found = with_features(learner, examples_of(learner))
    features = np.array(found.features, np.float64)
    common = np.zeros(features.shape[1])
    common[3] = 1.5 * LENGTH
    features += common
    features *= LENGTH / np.linalg.norm(features, axis=1, keepdims=True)
    object.__setattr__(found, "features", features.astype(np.float32))
    return found


def step_of(learner, examples, arrays, *, first, noise=0.0, batch=None, key=bytes(32)):
    """The update of one step of this number on all of the examples."""
    private = PrivateSteps(1.0, batch or len(examples), noise, CLIP, key)
    task = task_for(learner.job, 2)
    steps = StepRange(first, 1, 48)
    return train(learner, task, arrays, examples, steps, seed=1, who="one", private=private).update


def added(arrays, update):
    return {name: arrays[name] + update[name] for name in arrays}


def later(learner):
    return learner.job.training.local_steps


def test_the_first_rounds_add_up_the_mean_of_all_owners_features(learner, examples):
    """Whatever an owner's size: all divide by the same batch."""
    arrays = learner.initial
    sides = [examples.take(np.arange(5)), examples.take(np.arange(5, len(examples)))]
    updates = [step_of(learner, side, arrays, first=0, batch=20) for side in sides]
    mean = {name: sum(update[name] for update in updates) / 2 for name in arrays}
    centre, stretch = centre_of(mean[WEIGHT], mean[BIAS], LENGTH)
    expected = np.asarray(examples.features, np.float64).mean(0)
    np.testing.assert_allclose(centre, expected, atol=1e-4)
    rest = np.linalg.norm(examples.features - expected, axis=1)
    assert stretch * math.sqrt((rest**2).mean()) == pytest.approx(LENGTH, rel=1e-3)
    assert stretch > 2


@pytest.mark.parametrize("rate", [1e-6, 0.005, 1.0])
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_no_first_round_goes_beyond_what_is_planned(
    rate, noise, job_of, learner_of, examples_of, examples
):
    """Beyond it an update is scaled down, and an owner's features would count less than others'."""
    training = {**CENTRED, "learning_rate": rate, "local_steps": 4}
    learner = learner_of(job(job_of, KIND, training=training, privacy={"clipping_norm": CLIP}))
    private = PrivateSteps(1.0, len(examples), noise, CLIP, bytes(32))
    update = train(
        learner,
        task_for(learner.job, 2),
        learner.initial,
        examples,
        StepRange(0, 4, 24),
        seed=1,
        who="one",
        private=private,
    ).update
    parameters = sum(array.size for array in update.values())
    assert update[BIAS].mean() > 0.5
    assert max(np.abs(array).max() for array in update.values()) <= expected_update(
        learner.job, parameters
    )


def test_no_prediction_changes_by_what_the_first_rounds_add(learner, examples):
    update = step_of(learner, examples, learner.initial, first=0)
    logits = examples.features @ update[WEIGHT].T + update[BIAS]
    assert np.abs(logits).min() > 0.1
    np.testing.assert_allclose(logits[:, 0], logits[:, 1], atol=1e-4)


def test_owners_take_noised_steps_from_what_the_first_rounds_came_to(learner, examples):
    """Rounding does not decide what such weights say, which would be refused."""
    received = ReceivedWeights(learner, task_for(learner.job, 2))
    for number in range(8):
        update = step_of(
            learner, examples, learner.initial, first=0, noise=1.0, key=bytes([number]) * 32
        )
        assert received.objection(added(learner.initial, update)) == ""


@pytest.mark.parametrize("around", [False, True], ids=["first round", "later round"])
def test_one_record_moves_a_step_by_no_more_than_the_clipping_norm(around, learner, examples):
    """In the coordinates in which the step is clipped and noised."""
    arrays, first = learner.initial, 0
    if around:
        arrays = added(arrays, step_of(learner, examples, arrays, first=0))
        arrays[WEIGHT] = arrays[WEIGHT] + np.linspace(-3, 3, arrays[WEIGHT].size).reshape(
            arrays[WEIGHT].shape
        ).astype(np.float32)
        first = later(learner)
    batch = len(examples)
    whole = step_of(learner, examples, arrays, first=first, batch=batch)
    moved = []
    for left_out in range(len(examples)):
        others = examples.take(np.delete(np.arange(len(examples)), left_out))
        less = step_of(learner, others, arrays, first=first, batch=batch)
        weight, bias = (
            batch * (whole[name].astype(np.float64) - less[name]) for name in (WEIGHT, BIAS)
        )
        if around:
            centre, stretch = centre_of(arrays[WEIGHT], arrays[BIAS], LENGTH)
            weight, bias = weight / stretch, bias + weight @ centre
        else:
            view = view_of(learner.job, learner.network, arrays, first)
            weight, bias = (one * view.rates * view.part for one in (weight, bias))
        moved.append(math.sqrt((weight**2).sum() + (bias**2).sum()))
    assert max(moved) <= CLIP * (1 + 1e-3)
    assert max(moved) > 0.5 * CLIP


def test_later_rounds_leave_the_centre_where_it_is(learner, examples):
    arrays = added(learner.initial, step_of(learner, examples, learner.initial, first=0))
    update = step_of(learner, examples, arrays, first=later(learner), noise=5.0)
    assert np.abs(update[WEIGHT]).max() > 0.1
    for name in (WEIGHT, BIAS):
        np.testing.assert_allclose(update[name].mean(0), 0, atol=1e-5)


def test_weights_around_a_centre_say_what_they_say_as_they_travel(learner, examples):
    """Before steps, and after them."""
    generator = np.random.default_rng(4)
    shapes = {name: array.shape for name, array in learner.initial.items()}
    arrays = {n: generator.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    centre = np.asarray(examples.features, np.float64).mean(0)
    stretch, view = 3.0, Around(WEIGHT, BIAS, centre, 3.0)
    seen = torch.from_numpy((examples.features - centre) * stretch).float()

    def probabilities(arrays):
        features = torch.from_numpy(np.asarray(examples.features))
        logits = features @ torch.from_numpy(arrays[WEIGHT]).T + torch.from_numpy(arrays[BIAS])
        return logits.softmax(-1).numpy()

    view.load(learner.network, arrays)
    head = learner.network.head
    with torch.no_grad():
        np.testing.assert_allclose(head(seen).softmax(-1), probabilities(arrays), atol=1e-4)
        moved = {n: generator.normal(size=s).astype(np.float32) / 9 for n, s in shapes.items()}
        head.weight += torch.from_numpy(moved[WEIGHT])
        head.bias += torch.from_numpy(moved[BIAS])
        after = head(seen).softmax(-1).numpy()
    np.testing.assert_allclose(after, probabilities(added(arrays, view.update(moved))), atol=1e-4)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1.0, 1e30, math.inf, math.nan])
def test_no_weights_that_a_server_sends_move_the_centre_beyond_features(size):
    with np.errstate(all="ignore"):
        for sign in (1, -1):
            weight = np.full((3, 4), size, np.float32)
            bias = np.full(3, sign * min(size, 1e-3), np.float32)
            centre, stretch = centre_of(weight, bias, LENGTH)
            assert np.linalg.norm(centre) < LENGTH
            assert 1 <= stretch <= MOST_STRETCH * (1 + 1e-9)


def test_without_rounds_for_a_centre_steps_are_what_they_were(job_of, learner_of):
    learner = learner_of(job(job_of, KIND))
    view = view_of(learner.job, learner.network, learner.initial, 0)
    moved = dict(learner.initial)
    assert view.update(moved) is moved
    assert '"centre_rounds"' not in learner.job.to_json()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model.adapter": "lora"}, "linear head on pooled features"),
        ({"model.pooling": "own"}, "linear head on pooled features"),
        ({"training.optimizer": "adamw"}, 'training.optimizer = "sgd"'),
        ({"strategy.name": "fedadam"}, 'strategy.name = "fedavg"'),
        ({"privacy.unit": "client"}, 'privacy.unit = "client"'),
        ({"training.rounds": 1}, "leaves none of training.rounds = 1"),
    ],
)
def test_a_plan_refuses_a_centre_where_none_would_hold(change, said, job_of):
    wanted = job(job_of, KIND, training=CENTRED)
    assert list(centring_refusals(wanted)) == []
    assert '"centre_rounds":1' in wanted.to_json()
    [reason] = centring_refusals(wanted.changed(change))
    assert said in reason
