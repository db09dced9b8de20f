"""Tensors that rest: in a step, in a round, and for good; with and without noise in the steps."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from umbel.errors import ModelError
from umbel.learning.features import with_features
from umbel.learning.loading import load_learner
from umbel.learning.lora_core import leading
from umbel.learning.steps import PrivateSteps
from umbel.learning.tasks import task_for
from umbel.learning.trainer import StepRange, train
from umbel.planning.shaping import shaping_of
from umbel.strategies.factors import factor_of, is_core
from umbel.strategies.la_lora import TurnsAndFilter


@pytest.fixture
def learn(job_of, learner_of, examples_of):
    """Takes steps of a LoRA adapter from moved factors, so that no gradient is zero from the start."""

    def run(first, count, *, sigma=None, clip=1.0, names=None, local=None, optimizer="sgd"):
        training = {"optimizer": optimizer, "weight_decay": 0.1 if optimizer == "adamw" else 0.0}
        job = job_of("bert", model={"adapter": "lora"}, training=training)
        learner = learner_of(job)
        moved = np.random.default_rng(3)
        start = {
            n: a + moved.normal(0, 0.1, a.shape).astype("f4") for n, a in learner.initial.items()
        }
        private = None
        if sigma is not None:
            private = PrivateSteps(0.5, 12.0, sigma, clip, b"k" * 32)
        examples = with_features(learner, examples_of(learner))
        steps = StepRange(first, count, first + count)
        return train(
            learner,
            task_for(job, 2),
            start,
            examples,
            steps,
            seed=5,
            who="client",
            private=private,
            local=local,
            names=names,
        )

    return run


def moved(outcome):
    return {factor_of(name) for name, array in outcome.update.items() if np.any(array)}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("sigma", [None, 1.0])
def test_a_step_moves_what_it_trains_and_nothing_else(learn, sigma, optimizer):
    """Neither noise nor weight decay reaches a factor that rests."""
    half = TurnsAndFilter({"smoothing": 1.0})
    for step, factor in ((0, "B"), (1, "A"), (2, "B")):
        found = learn(step, 1, sigma=sigma, local=half, optimizer=optimizer)
        assert moved(found) == {factor, None}
        assert len({factor_of(name) for name in found.update}) == 3, "both factors are sent"
    assert moved(learn(0, 2, sigma=sigma, local=half, optimizer=optimizer)) == {"A", "B", None}


@pytest.mark.parametrize("sigma", [None, 1.0])
def test_a_round_trains_and_sends_what_it_is_told_to(learn, sigma):
    whole = learn(0, 1, sigma=sigma)
    names = [name for name in whole.update if factor_of(name) != "A"]
    some = learn(0, 2, sigma=sigma, names=names)
    assert list(some.update) == names
    assert all(np.any(array) for array in some.update.values())
    assert learn(0, 1, sigma=sigma).update.keys() == whole.update.keys(), "all have gradients again"


def test_a_layer_that_rests_behind_one_that_is_trained_rests_under_hooks_too(learn, monkeypatch):
    half = TurnsAndFilter({"smoothing": 0.0})
    books = learn(0, 2, sigma=0.0, local=half)
    monkeypatch.setattr("umbel.privacy.dpsgd.optimizer.has_rules", lambda module: False)
    hooks = learn(0, 2, sigma=0.0, local=half)
    assert moved(books) == {"A", "B", None}
    for name, array in books.update.items():
        assert hooks.update[name] == pytest.approx(array, abs=1e-6)


def test_the_whole_clipping_norm_is_for_what_a_step_trains(learn):
    """A step without noise is a mean of gradients, clipped over what moves alone."""
    names = [name for name in learn(0, 1).update if factor_of(name) == "B"]
    norm = lambda outcome: np.sqrt(sum(float((a**2).sum()) for a in outcome.update.values()))  # noqa: E731
    alone = learn(0, 1, sigma=0.0, clip=1e-3, names=names)
    beside = learn(0, 1, sigma=0.0, clip=1e-3)
    part = np.sqrt(sum(float((beside.update[name] ** 2).sum()) for name in names))
    assert part < 0.9 * norm(alone)


@given(st.integers(1, 6), st.integers(1, 6), st.floats(0, 100), st.integers(0, 2**32 - 1))
def test_a_factors_gradient_loses_its_high_frequencies(rows, columns, strength, seed):
    """The filter's inverse is the local rule x - strength * (neighbours - 4 x), whose ends meet."""
    gradient = np.random.default_rng(seed).normal(size=(rows, columns))
    filtered = torch.tensor(gradient)
    half = TurnsAndFilter({"smoothing": strength})
    half.correct("layer.lora_A.default.weight", filtered, filtered, filtered)
    found = filtered.numpy()
    neighbours = sum(np.roll(found, by, axis) for by in (1, -1) for axis in (0, 1))
    back = found - strength * (neighbours - 4 * found)
    np.testing.assert_allclose(back, gradient, atol=1e-9 * (1 + strength))


def test_a_heads_gradient_is_not_filtered_and_one_of_more_dimensions_keeps_its_shape():
    half, gradient = TurnsAndFilter({"smoothing": 1.0}), torch.randn(4, 3, 2)
    for name, same in (("score.weight", True), ("layer.lora_B.default.weight", False)):
        filtered = gradient.clone()
        half.correct(name, filtered, filtered, filtered)
        assert filtered.shape == gradient.shape
        assert torch.equal(filtered, gradient) == same
        assert torch.isclose(filtered.mean(), gradient.mean(), atol=1e-6)


@pytest.mark.parametrize("strength", [-0.1, float("inf"), float("nan"), "much", None])
def test_a_filter_that_cannot_be_is_refused(strength):
    with pytest.raises(ValueError, match="smoothing"):
        TurnsAndFilter({"smoothing": strength})


@given(st.integers(1, 6), st.integers(0, 6), st.integers(0, 2**32 - 1))
def test_factors_of_a_weight_are_its_leading_singular_vectors(rank, more, seed):
    weight = np.random.default_rng(seed).normal(size=(rank + more, rank + 2))
    left, right = (f.double().numpy() for f in leading(torch.tensor(weight), rank))
    np.testing.assert_allclose(left.T @ left, np.eye(rank), atol=2e-3)
    np.testing.assert_allclose(right @ right.T, np.eye(rank), atol=2e-3)
    values = np.linalg.svd(weight, compute_uv=False)
    kept = np.linalg.norm(left.T @ weight @ right.T)
    assert kept == pytest.approx(np.linalg.norm(values[:rank]), rel=2e-3)
    other = leading(torch.tensor(-weight), rank)[1].double().numpy()
    np.testing.assert_allclose(other, right, atol=1e-4)


def test_only_cores_and_a_head_are_trained_between_fixed_factors(job_of, learner_of):
    job = job_of("bert", model={"adapter": "lora"}, strategy={"name": "fed-sb"})
    learner = learner_of(job)
    cores = {n: a for n, a in learner.initial.items() if factor_of(n)}
    assert cores
    assert all(is_core(name) and array.shape == (2, 2) for name, array in cores.items())
    assert not any(np.any(array) for array in cores.values())
    plain = learner_of(job_of("bert", model={"adapter": "lora"}))
    assert learner.fixed_digest != plain.fixed_digest == ""
    text = learner.tokenizer(["a few words"], return_tensors="pt")
    batch = {name: text[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        assert torch.equal(learner.network.eval()(batch), plain.network.eval()(batch))


def test_a_rank_that_a_layer_does_not_have_is_refused(job_of):
    model = {"adapter": "lora", "lora": {"rank": 10_000}}
    job = job_of("bert", model=model, strategy={"name": "fed-sb"})
    with pytest.raises(ModelError, match=r"model.lora.rank = 10000 is more than .* has"):
        load_learner(job, 2, shaping_of(job))
