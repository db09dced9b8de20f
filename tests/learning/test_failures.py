"""A record that the model fails on contributes nothing, and nobody else's part changes with it."""

import contextlib

import numpy as np
import pytest
import torch

from umbel.errors import ModelError
from umbel.learning import trainer
from umbel.learning.counts import counting
from umbel.learning.failures import NOBODY
from umbel.learning.features import with_features
from umbel.learning.steps import PrivateSteps
from umbel.learning.tasks import task_for
from umbel.learning.trainer import StepRange, train
from umbel.privacy.dpsgd.bookkeeping import BookKeeping
from umbel.privacy.dpsgd.hooked import HookedGradients

CLIP = 0.05
ROUNDING = 1e-4
"""Of the clipping norm: how far the sum moves when texts stand in other microbatches."""
KINDS = [("bert", "lora"), ("bert", "full"), ("roberta", "full"), ("gpt2", "lora")]
ERRORS = [RuntimeError, MemoryError, ModelError, IndexError, torch.OutOfMemoryError]


@pytest.fixture
def sum_of(job_of, learner_of, examples_of):
    """The sum of one private step over rows of the reviews, without noise, in clipping norms."""

    def run(kind, rows, around=lambda learner, examples: contextlib.nullcontext(), **named):
        base, adapter = kind
        model = {"adapter": adapter, "lora": {"rank": 2}, "max_length": 24}
        language = {"task": "causal-lm"} if base == "gpt2" else {}
        sgd = {"optimizer": "sgd", "learning_rate": 1.0, "device": "cpu"}
        job = job_of(
            base, training=sgd, model={**job_of(base).model.model_dump(), **model}, **language
        )
        learner = learner_of(job)
        examples = with_features(learner, examples_of(learner, rows=rows))
        with around(learner, examples):
            outcome = train(
                learner,
                task_for(job, 2),
                learner.initial,
                examples,
                StepRange(0, 1, 1),
                seed=0,
                who="mary",
                private=PrivateSteps(1.0, 1.0, 0.0, CLIP, bytes(32)),
                **named,
            )
        return np.concatenate([a.ravel() for a in outcome.update.values()]).astype(float) / CLIP

    return run


def failing_on(row, error, backward=False):
    """A model that fails on one text, in its forward or its backward pass."""

    @contextlib.contextmanager
    def around(learner, examples):
        wrong = examples.store.tokens(row)

        def fail(*_):
            raise error("something about this text")

        def check(layer, inputs, output):
            ids = inputs[0]
            if not any(np.array_equal(np.asarray(i)[: len(wrong)], wrong) for i in ids):
                return
            if not backward:
                fail()
            output.requires_grad_()
            output.register_hook(fail)

        [layer, *_] = [m for m in learner.network.modules() if isinstance(m, torch.nn.Embedding)]
        handle = layer.register_forward_hook(check)
        try:
            yield
        finally:
            handle.remove()

    return around


ROWS = [*range(0, 60, 3)]
BAD = ROWS[7]
OTHERS = [row for row in ROWS if row != BAD]


@pytest.mark.parametrize("error", ERRORS)
def test_a_record_that_the_model_fails_on_counts_as_if_it_were_not_there(error, sum_of):
    kind = KINDS[0]
    without = sum_of(kind, OTHERS)
    assert np.linalg.norm(without) > 1
    found = sum_of(kind, ROWS, failing_on(BAD, error))
    assert np.linalg.norm(found - without) < ROUNDING


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_failing_record_moves_the_sum_by_at_most_one_clipped_gradient(kind, backward, sum_of):
    whole = sum_of(kind, ROWS)
    found = sum_of(kind, ROWS, failing_on(BAD, RuntimeError, backward))
    assert ROUNDING < np.linalg.norm(found - whole) < 1 + ROUNDING


@pytest.mark.parametrize("rule", [BookKeeping, HookedGradients])
@pytest.mark.parametrize("often", [1, 1000], ids=["once", "always"])
def test_a_failure_while_adding_up_begins_the_step_anew(rule, often, sum_of, monkeypatch):
    """The first tensors' parts of a microbatch are in the sum already: they must not stay there twice."""
    monkeypatch.setattr(
        "umbel.privacy.dpsgd.optimizer.has_rules", lambda module: rule is BookKeeping
    )
    whole = sum_of(KINDS[0], ROWS)
    add, left = rule.add_weighted, [often]

    def torn(self, weights, chosen, totals):
        if int((weights > 0).sum()) > 1 and left[0]:
            left[0] -= 1
            totals = [*totals[:2], None, *totals[3:]]
        add(self, weights, chosen, totals)

    monkeypatch.setattr(rule, "add_weighted", torn)
    assert np.linalg.norm(sum_of(KINDS[0], ROWS) - whole) < ROUNDING
    assert left[0] < often


def test_a_record_that_is_alone_with_its_failure_leaves_a_step_of_noise(sum_of):
    assert not sum_of(KINDS[0], [BAD], failing_on(BAD, RuntimeError)).any()


def test_records_taken_one_by_one_add_up_to_the_same_and_are_told_beforehand(sum_of):
    told = []
    whole = sum_of(KINDS[0], ROWS)
    assert np.linalg.norm(sum_of(KINDS[0], ROWS, touch=told.append) - whole) < ROUNDING
    assert sorted(told[:-1]) == ROWS
    assert told[-1] == NOBODY


def test_gradients_that_do_not_add_up_are_the_owners_affair(sum_of, monkeypatch, caplog):
    """A comparison that depends on records must not decide whether there is an answer."""
    monkeypatch.setattr("umbel.privacy.dpsgd.optimizer.has_rules", lambda module: False)
    whole = sum_of(KINDS[0], ROWS)
    monkeypatch.setattr("umbel.privacy.dpsgd.hooked._ROUNDING", -1.0)
    assert np.array_equal(sum_of(KINDS[0], ROWS), whole)
    assert "do not add up" in caplog.text


@pytest.mark.parametrize("counts", ["private", "exact"])
def test_a_record_that_cannot_be_tested_is_not_counted(counts, job_of, learner_of, examples_of):
    job = job_of(
        model={**job_of().model.model_dump(), "adapter": "lora"}, evaluation={"counts": counts}
    )
    learner = learner_of(job)
    task = counting(job, task_for(job, 2))

    def count(rows, around=None, **named):
        examples = examples_of(learner, rows=rows)
        with around(learner, examples) if around else contextlib.nullcontext():
            return trainer.test(learner, task, learner.initial, examples, **named)

    without = count(OTHERS)
    found = count(ROWS, failing_on(BAD, RuntimeError), forgiving=True)
    assert np.array_equal(found.cells, without.cells)
    assert found.to_list()[-1] == pytest.approx(without.to_list()[-1], rel=1e-4)
    with pytest.raises(RuntimeError):
        count(ROWS, failing_on(BAD, RuntimeError))


def test_a_record_without_features_has_no_gradient_and_is_not_counted(
    job_of, learner_of, examples_of
):
    """What the base model fails on counts as zero in every round, and is tried again in the next run."""
    job = job_of(model={**job_of().model.model_dump(), "adapter": "head"})
    learner = learner_of(job)
    learner_sums = []
    for rows, around in ((OTHERS, None), (ROWS, failing_on(BAD, RuntimeError))):
        examples = examples_of(learner, rows=rows)
        with around(learner, examples) if around else contextlib.nullcontext():
            examples = with_features(learner, examples)
        private = PrivateSteps(1.0, 1.0, 0.0, CLIP, bytes(32))
        outcome = train(
            learner,
            task_for(job, 2),
            learner.initial,
            examples,
            StepRange(0, 1, 1),
            seed=0,
            who="mary",
            private=private,
        )
        counted = trainer.test(
            learner, counting(job, task_for(job, 2)), learner.initial, examples, forgiving=True
        )
        learner_sums.append((outcome.update, counted.to_list()))
    (without, counts), (found, again) = learner_sums
    assert all(np.allclose(found[name], without[name], atol=1e-5 * CLIP) for name in without)
    assert any(array.any() for array in found.values())
    assert counts[:-1] == again[:-1]
    whole = with_features(learner, examples_of(learner, rows=ROWS))
    assert np.isfinite(whole.features).all()


def test_a_record_does_not_decide_whether_a_head_trains_on_features(
    job_of, learner_of, examples_of
):
    """Were it tried on records, one that fails would make the whole answer noise."""
    job = job_of(model={**job_of().model.model_dump(), "adapter": "head", "pooling": "own"})
    learner = learner_of(job)
    examples = examples_of(learner, rows=[BAD, *OTHERS[:3]])
    with failing_on(BAD, RuntimeError)(learner, examples):
        features = with_features(learner, examples).features
    assert np.array_equal(np.isfinite(features).all(axis=1), examples.rows != BAD)
