"""Weights that make rounding matter are refused; those that training comes to are not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from umbel.errors import ModelError
from umbel.learning import trainer
from umbel.learning.counts import counting
from umbel.learning.features import with_features
from umbel.learning.probing.probe import _with_room
from umbel.learning.probing.received import MOST_WEIGHT, ReceivedWeights
from umbel.learning.probing.verdict import INDEPENDENT
from umbel.learning.steps import PrivateSteps
from umbel.learning.tasks import task_for
from umbel.learning.trainer import StepRange, train
from umbel.planning.padding import padding_refusals


def coupling(learner, weight):
    """A head that reads the sum of a LayerNorm's outputs, which is zero but for rounding."""
    arrays = {name: array.copy() for name, array in learner.initial.items()}
    (head,) = (name for name in arrays if name.endswith("mean_head.weight"))
    arrays[head][0], arrays[head][1] = weight, -weight
    return arrays


@pytest.fixture
def loaded(job_of, learner_of):
    def load(kind, base="bert", clip=1.0, **training):
        training = {"optimizer": "sgd", "learning_rate": 1.0, **training}
        model, privacy = {"adapter": kind, "max_length": 64}, {"clipping_norm": clip}
        job = job_of(base, model=model, training=training, privacy=privacy)
        learner = learner_of(job)
        return learner, task_for(job, 2)

    return load


def trained(learner, task, examples, arrays, steps=1, noise=1e-6):
    private = PrivateSteps(1.0, 1.0, noise, 1.0, bytes(32))
    found = train(
        learner,
        task,
        arrays,
        examples,
        StepRange(0, steps, steps),
        seed=0,
        who="a",
        private=private,
    )
    return found.update


def flat(update):
    return np.concatenate([array.ravel() for array in update.values()]).astype(np.float64)


def test_weights_that_couple_records_by_rounding_work_unless_refused(
    loaded, examples_of, monkeypatch
):
    """In passes as they fall; ``shapes`` has the ones in which they do not."""
    monkeypatch.setattr(trainer, "rows_to_train", lambda *_, **__: 0)
    learner, task = loaded("lora")
    arrays = coupling(learner, 1e8)
    examples = examples_of(learner, rows=np.arange(64))
    whole = flat(trained(learner, task, examples, arrays))
    moved = []
    for place in np.argsort(examples.lengths, kind="stable")[[0, 3, 30]]:
        fewer = examples.take(np.array([i for i in range(64) if i != place]))
        moved.append(np.linalg.norm(whole - flat(trained(learner, task, fewer, arrays))))
    assert max(moved) > 1.5
    with pytest.raises(ModelError, match="none may be above"):
        ReceivedWeights(learner, task).check(arrays)


@pytest.mark.parametrize(("kind", "clip"), [("head", 100.0), ("lora", 1.0)])
def test_rounding_is_seen_where_entries_are_within_bounds(loaded, kind, clip):
    learner, task = loaded(kind, clip=clip)
    check = ReceivedWeights(learner, task)
    check.check(learner.initial)
    with pytest.raises(ModelError, match="rounding moves what a text adds"):
        check.check(coupling(learner, MOST_WEIGHT))


@pytest.mark.parametrize("value", [1.01 * MOST_WEIGHT, -1e20, float("inf"), float("nan")])
def test_no_entry_may_be_large_or_not_finite(loaded, value):
    learner, task = loaded("head")
    arrays = {name: array.copy() for name, array in learner.initial.items()}
    list(arrays.values())[-1].flat[0] = value
    with pytest.raises(ModelError, match="none may be above"):
        ReceivedWeights(learner, task).check(arrays)


@pytest.mark.parametrize("base", ["bert", "gpt2"])
@pytest.mark.parametrize("kind", ["head", "lora", "full"])
def test_weights_that_private_training_comes_to_are_taken(loaded, examples_of, kind, base):
    learner, task = loaded(kind, base, learning_rate=0.02, optimizer="adamw")
    examples = with_features(learner, examples_of(learner, count=24))
    check, arrays = ReceivedWeights(learner, task), learner.initial
    for _ in range(4):
        update = trained(learner, task, examples, arrays, steps=4, noise=1.0)
        arrays = {name: array + update[name] for name, array in arrays.items()}
        check.check(arrays)
    again = trained(learner, task, examples, arrays)
    check.check(arrays)
    assert np.array_equal(flat(again), flat(trained(learner, task, examples, arrays)))


def test_weights_by_which_rounding_decides_predictions_work_unless_refused(loaded, examples_of):
    """One record less changes what is counted of many others; the gradients show nothing of it.

    In passes as they fall; ``shapes`` has the ones in which they do not.
    """
    learner, task = loaded("lora")
    arrays = coupling(learner, 1.0)
    rule, examples = counting(learner.job, task), examples_of(learner, rows=np.arange(64))

    def counts_of(examples):
        order = np.argsort(examples.lengths, kind="stable")
        learner.network.load(arrays)
        with torch.no_grad():
            batches = [learner.batch(examples, order[at : at + 8]) for at in range(0, 64, 8)]
            found = [rule.counts(learner.network(batch), batch) for batch in batches]
        return np.array(sum(found, rule.zero()).to_list())

    whole = counts_of(examples)
    changed = 0
    for place in range(0, 64, 5):
        fewer = examples.take(np.array([i for i in range(64) if i != place]))
        less = counts_of(fewer)
        changed = max(changed, int(np.abs(whole - less)[:-1].sum()))
    assert changed > 1
    with pytest.raises(ModelError, match="rounding decides what it says of"):
        ReceivedWeights(learner, task).check(arrays)


def test_where_each_text_goes_alone_nothing_is_rounded_by_its_company(loaded, examples_of):
    """The way out for a model with large weights: one text a pass, in one shape."""
    # Large steps, so that weights of 10,000 lose nothing of them.
    rate = 1e4
    learner, task = loaded("lora", microbatch=1, learning_rate=rate)
    arrays = coupling(learner, MOST_WEIGHT)
    with pytest.raises(ModelError, match=r"training\.microbatch = 1 and model\.padding"):
        ReceivedWeights(learner, task).check(arrays)
    alone = replace(learner, job=learner.job.padded())
    ReceivedWeights(alone, task).check(arrays)
    examples = examples_of(learner, rows=np.arange(24))
    whole = flat(trained(alone, task, examples, arrays))
    for place in (0, 7, 23):
        fewer = examples.take(np.array([i for i in range(24) if i != place]))
        moved = np.linalg.norm(whole - flat(trained(alone, task, fewer, arrays)))
        assert moved / rate <= 1 + 1e-5


def test_a_model_whose_own_weights_owners_would_refuse_is_refused_before_anybody_is_asked(loaded):
    learner, task = loaded("lora")
    large = replace(learner, initial=coupling(learner, MOST_WEIGHT))
    verdict = _with_room(large, task, INDEPENDENT)
    assert verdict.padding is None
    assert "rounding moves what a text adds" in verdict.reason
    assert _with_room(learner, task, INDEPENDENT) == INDEPENDENT
    (reason,) = padding_refusals(learner.job, verdict)
    assert "training.microbatch = 1" in reason


class Counted(ReceivedWeights):
    """How often weights were really tried."""

    tried = 0

    def objection(self, arrays):
        self.tried += 1
        return super().objection(arrays)


def test_weights_that_were_looked_at_are_not_tried_again_unless_something_changed(loaded):
    learner, task = loaded("head")
    check, arrays = Counted(learner, task), learner.initial
    check.check(arrays)
    check.check({name: array.copy() for name, array in arrays.items()})
    assert check.tried == 1
    moved = {name: array.copy() for name, array in arrays.items()}
    next(iter(moved.values())).flat[0] += 1e-3
    check.check(moved)
    check.check(arrays)
    assert check.tried == 3, "only the last ones are known"
    parameter = next(p for p in learner.network.parameters() if p.requires_grad)
    parameter.requires_grad_(False)
    try:
        check.check(arrays)
    finally:
        parameter.requires_grad_(True)
    assert check.tried == 4, "if another part trains, it is another question"
    for _ in range(2):
        with pytest.raises(ModelError):
            check.check(coupling(learner, 1e8))
        assert check.tried == 5, "what was refused takes as long again as what was accepted"
