"""Local steps: what they promise whatever the model, with and without example-level privacy."""

import contextlib
import hashlib
import math

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from umbel.errors import ModelError
from umbel.job.rate import learning_rate
from umbel.learning import trainer
from umbel.learning.features import with_features
from umbel.learning.steps import PrivateSteps
from umbel.learning.tasks import task_for
from umbel.learning.trainer import StepRange, train
from umbel.strategies.averaging import Proximal

from .kinds import KINDS, job


@pytest.fixture
def learn(job_of, learner_of, examples_of):
    """Train a kind of model on some reviews; sections override the job's."""

    def run(kind, *, rows=None, steps=None, stream=None, sigma=1.0, mu=0.0, rate=0.5, **sections):
        learner = learner_of(job(job_of, kind, **sections))
        examples = with_features(learner, examples_of(learner, rows=rows))
        private = None
        if stream is not None:
            key = hashlib.sha256(str(stream).encode()).digest()
            expected = rate * len(examples)
            private = PrivateSteps(rate, expected, sigma, 1.0, key)
        return train(
            learner,
            task_for(learner.job, 2),
            learner.initial,
            examples,
            steps or StepRange(0, 3, 3),
            seed=5,
            who="client",
            private=private,
            local=Proximal({"proximal-mu": mu}),
        )

    return run


def flat(update):
    return np.concatenate([array.ravel() for array in update.values()]).astype(np.float64)


def cosine(one, other):
    one, other = flat(one), flat(other)
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def as_bytes(update):
    return b"".join(array.tobytes() for array in update.values())


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_private_training_works_for_every_model_and_is_driven_by_the_secret_stream(kind, learn):
    updates = [learn(kind, stream=stream).update for stream in ("a", "a", "b")]
    assert np.isfinite(flat(updates[0])).all()
    assert all(array.any() for array in updates[0].values())
    assert as_bytes(updates[0]) == as_bytes(updates[1])
    assert as_bytes(updates[0]) != as_bytes(updates[2])


def test_noise_has_the_planned_size_and_reaches_every_trained_number(learn):
    """One step of plain SGD at rate 1 moves by (sum + noise) / expected batch size."""
    sgd = {"optimizer": "sgd", "learning_rate": 1.0}
    kind, sigma = ("bert", "mean", "full"), 400.0
    update = learn(kind, stream="n", sigma=sigma, steps=StepRange(0, 1, 1), training=sgd).update
    noise = flat(update) * 12
    assert noise.std() == pytest.approx(sigma, rel=0.02)
    assert abs(noise.mean()) < 4 * sigma / math.sqrt(len(noise))
    for name, array in update.items():
        if array.size > 200:
            assert array.std() * 12 == pytest.approx(sigma, rel=0.25), name


def test_one_example_moves_a_private_step_by_no_more_than_the_clipping_norm(learn):
    sgd = {"optimizer": "sgd", "learning_rate": 1.0}
    once = {"rate": 1.0, "sigma": 1e-9, "stream": "x", "steps": StepRange(0, 1, 1)}

    def step(rows):
        outcome = learn(("bert", "own", "lora"), rows=rows, training=sgd, **once)
        return flat(outcome.update) * len(rows)

    with_it, without = list(range(0, 40, 4)), list(range(0, 36, 4))
    moved = np.linalg.norm(step(with_it) - step(without))
    assert 0.01 < moved <= 1.001


def test_a_private_step_without_a_drawn_record_is_noise_alone(learn):
    sgd = {"optimizer": "sgd", "learning_rate": 1.0}
    rows = [np.array([0, 3, 6]), np.array([9, 12, 15])]
    updates = [
        learn(("bert", "own", "lora"), rows=r, stream="e", rate=1e-12, training=sgd).update
        for r in rows
    ]
    assert flat(updates[0]).any()
    assert as_bytes(updates[0]) == as_bytes(updates[1])


@pytest.mark.parametrize(
    "kind", [("bert", "mean", "head"), ("bert", "own", "lora"), ("llama", None, "full")], ids=str
)
def test_the_same_inputs_give_the_same_bytes_whatever_ran_before(kind, learn):
    first = learn(kind, steps=StepRange(3, 3, 9))
    learn(kind, steps=StepRange(0, 2, 9), rows=range(30, 50))
    learn(kind, stream="between")
    again = learn(kind, steps=StepRange(3, 3, 9))
    assert as_bytes(again.update) == as_bytes(first.update)
    assert again.loss == first.loss


def test_dropout_is_the_same_again_in_the_same_round_and_another_in_the_next(learn):
    dropout = {"model": {"lora": {"rank": 2, "dropout": 0.3}}, "privacy": {"unit": "none"}}
    kind = ("bert", "mean", "lora")
    whole = {"batch_size": 24, "optimizer": "sgd"}
    first = learn(kind, training=whole, **dropout)
    assert as_bytes(learn(kind, training=whole, **dropout).update) == as_bytes(first.update)
    later = learn(kind, training=whole, steps=StepRange(3, 3, 6), **dropout)
    assert later.loss != first.loss


@pytest.mark.parametrize("stream", [None, "s"], ids=["plain", "private"])
@pytest.mark.parametrize(
    "kind", [("bert", "own", "lora"), ("bert", "mean", "full"), ("llama", None, "lora")], ids=str
)
def test_microbatches_add_up_to_one_big_batch(kind, stream, learn):
    whole = {"optimizer": "sgd", "learning_rate": 0.5, "batch_size": 12}
    big = learn(kind, stream=stream, training={**whole, "microbatch": 64}).update
    small = learn(kind, stream=stream, training={**whole, "microbatch": 5}).update
    assert flat(small) == pytest.approx(flat(big), abs=2e-5)
    assert np.abs(flat(big)).max() > 1e-3


@pytest.mark.parametrize("stream", [None, "s"], ids=["plain", "private"])
@pytest.mark.parametrize(
    "kind",
    [
        ("bert", "own", "lora"),
        ("bert", "mean", "full"),
        ("bert", "layers", "full"),
        ("llama", "layers", "lora"),
        ("roberta", "own", "lora"),
        ("llama", None, "lora"),
        ("gpt2", None, "lora"),
    ],
    ids=str,
)
def test_gradient_checkpointing_gives_the_same_update(kind, stream, learn):
    plain = {"optimizer": "sgd", "learning_rate": 0.5}
    kept = learn(kind, stream=stream, training=plain).update
    recomputed = learn(
        kind, stream=stream, training={**plain, "gradient_checkpointing": True}
    ).update
    assert flat(recomputed) == pytest.approx(flat(kept), abs=2e-5)
    assert np.abs(flat(kept)).max() > 1e-3


@pytest.mark.parametrize("stream", [None, "s"], ids=["plain", "private"])
@pytest.mark.parametrize(
    "kind", [("bert", "own", "lora"), ("bert", "mean", "head"), ("llama", None, "lora")], ids=str
)
def test_bfloat16_runs_the_base_and_keeps_trained_weights_in_float32(
    kind, stream, learn, job_of, learner_of
):
    spec = {"optimizer": "sgd", "learning_rate": 0.5}
    half = {**spec, "precision": "bfloat16"}
    update = learn(kind, stream=stream, training=half, sigma=1e-3).update
    network = learner_of(job(job_of, kind, training=half)).network
    assert {p.dtype for _, p in network.trained_parameters()} == {torch.float32}
    exact = learn(kind, stream=stream, training=spec, sigma=1e-3).update
    assert as_bytes(update) != as_bytes(exact)
    assert cosine(update, exact) > 0.95


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_the_learning_rate_follows_one_schedule_over_all_rounds(schedule, warmup, learn):
    seen = []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"])
    )
    spec = {"schedule": schedule, "warmup": warmup, "learning_rate": 0.02}
    try:
        for round_ in range(4):
            learn(("bert", "mean", "head"), steps=StepRange(2 * round_, 2, 8), training=spec)
    finally:
        hook.remove()
    rising = int(8 * warmup)
    left = [step / (8 - rising) for step in range(8 - rising)]
    shape = {
        "constant": [1.0 for _ in left],
        "linear": [1 - x for x in left],
        "cosine": [(1 + math.cos(math.pi * x)) / 2 for x in left],
    }[schedule]
    expected = [(step + 1) / rising for step in range(rising)] + shape
    assert seen == pytest.approx([0.02 * factor for factor in expected])


def test_a_schedule_never_reaches_zero_and_peaks_at_the_given_rate(job_of):
    for schedule in ("constant", "linear", "cosine"):
        spec = job_of(training={"schedule": schedule, "warmup": 0.3, "learning_rate": 0.5}).training
        for total in (1, 2, 7, 100):
            rates = [learning_rate(step, total, spec) for step in range(total)]
            assert max(rates) == 0.5
            assert min(rates) > 0


def test_a_pull_towards_the_global_model_makes_steps_shorter(learn):
    for kind, stream in [
        (("bert", "mean", "head"), None),
        (("bert", "own", "lora"), None),
        (("bert", "mean", "head"), "s"),
    ]:
        spec = {"optimizer": "sgd", "learning_rate": 0.03}
        steps = StepRange(0, 6, 6)
        moved = [
            np.linalg.norm(
                flat(learn(kind, stream=stream, mu=mu, steps=steps, training=spec).update)
            )
            for mu in (0.0, 1.0, 4.0)
        ]
        assert moved[0] > moved[1] > moved[2] > 0


def test_gradient_clipping_bounds_a_plain_step(learn):
    spec = {"optimizer": "sgd", "learning_rate": 1.0, "gradient_clipping": 0.01}
    update = learn(("bert", "mean", "head"), steps=StepRange(0, 1, 1), training=spec).update
    assert np.linalg.norm(flat(update)) == pytest.approx(0.01, rel=1e-4)


def test_training_that_diverges_is_an_error_that_says_what_to_lower(learn):
    spec = {"optimizer": "sgd", "learning_rate": 1e38, "local_steps": 4}
    with pytest.raises(ModelError, match=r"training\.learning_rate"):
        learn(("bert", "mean", "lora"), steps=StepRange(0, 6, 6), training=spec)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_private_training_that_diverges_comes_to_zeros_as_its_noised_steps_say(optimizer, learn):
    spec = {"optimizer": optimizer, "learning_rate": 1e38, "local_steps": 4}
    kind, steps = ("bert", "mean", "lora"), StepRange(0, 6, 6)
    outcome = learn(kind, stream="s", steps=steps, training=spec)
    assert outcome.diverged
    assert not flat(outcome.update).any()
    assert list(outcome.update) == list(learn(kind, stream="s").update)


@pytest.mark.parametrize("stream", [None, "s"], ids=["plain", "private"])
def test_after_training_that_diverged_the_model_trains_as_before(stream, learn):
    kind = ("bert", "mean", "lora")
    before = learn(kind, stream=stream)
    with contextlib.suppress(ModelError):
        learn(
            kind,
            stream=stream,
            steps=StepRange(0, 6, 6),
            training={"optimizer": "sgd", "learning_rate": 1e38},
        )
    assert as_bytes(learn(kind, stream=stream).update) == as_bytes(before.update)


@pytest.mark.parametrize(
    "kind",
    [
        ("bert", "mean", "head"),
        ("bert", "own", "lora"),
        ("llama", "own", "lora"),
        ("llama", None, "lora"),
    ],
    ids=str,
)
def test_training_lowers_the_loss_on_the_same_examples(
    kind, learn, job_of, learner_of, examples_of
):
    spec = {"learning_rate": 0.03, "batch_size": 24}
    learner = learner_of(job(job_of, kind, training=spec))
    task = task_for(learner.job, 2)
    update = learn(kind, steps=StepRange(0, 15, 15), training=spec).update
    examples = with_features(learner, examples_of(learner))
    arrays = {name: array + update[name] for name, array in learner.initial.items()}
    before = trainer.test(learner, task, learner.initial, examples).metrics(["a", "b"])["loss"]
    after = trainer.test(learner, task, arrays, examples).metrics(["a", "b"])["loss"]
    assert after < 0.95 * before


def test_a_test_counts_every_example_and_does_not_train(job_of, learner_of, examples_of):
    learner = learner_of(job(job_of, ("bert", "own", "lora")))
    examples, task = examples_of(learner, rows=range(70)), task_for(learner.job, 2)
    first = trainer.test(learner, task, learner.initial, examples)
    assert first.metrics(["a", "b"])["examples"] == 70
    assert trainer.test(learner, task, learner.initial, examples).to_list() == first.to_list()
    assert not learner.network.training


def test_counts_of_parts_add_up_to_the_counts_of_the_whole(job_of, learner_of, examples_of):
    for kind in (("bert", "own", "lora"), ("llama", None, "lora")):
        learner = learner_of(job(job_of, kind))
        task = task_for(learner.job, 2)
        parts = [
            trainer.test(learner, task, learner.initial, examples_of(learner, rows=rows))
            for rows in (range(9), range(9, 30))
        ]
        whole = trainer.test(learner, task, learner.initial, examples_of(learner, rows=range(30)))
        assert (parts[0] + parts[1]).to_list() == pytest.approx(whole.to_list(), rel=1e-6)


def test_a_test_of_nothing_counts_nothing(job_of, learner_of, examples_of):
    learner = learner_of(job(job_of, ("bert", "own", "lora")))
    counts = trainer.test(
        learner, task_for(learner.job, 2), learner.initial, examples_of(learner, rows=[])
    )
    assert sum(counts.to_list()) == 0
