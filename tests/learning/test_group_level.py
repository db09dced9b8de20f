"""One whole group more or less, through the trainer's own training and testing."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from umbel.learning import trainer
from umbel.learning.counts import counting, figures
from umbel.learning.examples import Examples
from umbel.learning.features import with_features
from umbel.learning.grouped import counted, grouped
from umbel.learning.steps import PrivateSteps
from umbel.learning.tasks import task_for
from umbel.learning.trainer import StepRange, train
from umbel.planning.noise import change_of
from umbel.privacy.noise.counts_noise import GROUP_COUNTS
from umbel.privacy.randomness import SecretStream

K = 3
CLIP = 1e-2  # so small that every gradient is clipped
OTHERS = [1, K, 2, K, 1]
KINDS = [
    ("bert", "text-classification", "head"),
    ("bert", "text-classification", "lora"),
    ("llama", "text-classification", "full"),
    ("gpt2", "causal-lm", "lora"),
]


@pytest.fixture
def learner(job_of, learner_of, request):
    base, task, adapter = getattr(request, "param", KINDS[0])
    sections = {"task": task, "model": {"adapter": adapter, "pooling": "mean"}}
    data = {"group_column": "site", "records_per_group": K}
    if task == "causal-lm":
        data |= {"labels": None, "label_column": None}
    learner = learner_of(
        job_of(
            base,
            **sections,
            data=data,
            privacy={"unit": "group"},
            evaluation={"counts": "private"},
            training={"optimizer": "sgd", "microbatch": 4},
        )
    )
    torch.manual_seed(1)
    for _, tensor in learner.network.trained_parameters():
        if not tensor.any():
            torch.nn.init.normal_(tensor, std=0.2)  # the start of heads and adapters moves nothing
    return replace(learner, initial=learner.network.arrays())


@pytest.fixture
def of_sizes(learner, examples_of):
    """A function of group sizes: so many reviews in each group, the same ones for the same start."""

    def build(sizes, start=0):
        rows = np.arange(start, start + sum(sizes)) * 5 % 144
        return with_features(
            learner,
            replace(
                examples_of(learner, rows=rows), groups=np.repeat(np.arange(len(sizes)), sizes)
            ),
        )

    return build


def step_of(learner, examples, rate=1.0, key=b"k" * 32, most=K):
    """What one real step releases, without its noise."""
    private = PrivateSteps(rate, 1.0, 0.0, CLIP, key, records_per_group=most)
    seen = []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: seen.append(
            torch.cat([p.grad.flatten().double() for p in optimizer.param_groups[0]["params"]])
        )
    )
    try:
        task = task_for(learner.job, len(learner.job.data.labels or ()))
        train(
            learner, task, learner.initial, examples, StepRange(0, 1, 1), seed=0, who="x",
            private=private,
        )  # fmt: skip
    finally:
        hook.remove()
    return seen[0]


@pytest.mark.parametrize("learner", KINDS, ids=str, indirect=True)
@pytest.mark.parametrize("size", [1, K, 5 * K])
def test_one_group_more_moves_a_step_by_at_most_the_clipping_norm(learner, of_sizes, size):
    without, with_it = of_sizes(OTHERS), of_sizes([*OTHERS, size])
    moved = (step_of(learner, with_it) - step_of(learner, without)).norm().item()
    assert moved <= CLIP * (1 + 1e-5)
    assert moved > 0.2 * CLIP
    if size == 1:
        assert moved == pytest.approx(CLIP, rel=1e-3)


def test_records_that_are_all_alike_move_it_as_far_as_one(learner, of_sizes):
    """The bound is reached: no group size needs less noise."""
    alike = of_sizes(OTHERS).take(np.array([0, 1, 2, 5, 5, 5, 5]))
    alike = replace(alike, groups=np.array([0, 1, 1, 2, 2, 2, 2]))
    moved = step_of(learner, alike) - step_of(learner, alike.take(np.arange(3)))
    assert moved.norm().item() == pytest.approx(CLIP, rel=1e-4)


@pytest.mark.parametrize("size", range(1, 2 * K))
def test_one_record_more_in_a_group_that_stays_moves_a_step_no_further(learner, of_sizes, size):
    """So whoever accepts record-level privacy loses nothing under group-level privacy."""
    larger = of_sizes([*OTHERS, size + 1])
    smaller = larger.take(np.arange(len(larger) - 1))
    moved = (step_of(learner, larger) - step_of(learner, smaller)).norm().item()
    assert moved <= CLIP * (1 + 1e-5)


@pytest.mark.parametrize("name", range(6))
def test_what_a_step_releases_is_that_of_the_drawn_groups_alone(learner, of_sizes, name):
    """With the independence of draws, the bound for a group that is drawn is the bound for a step."""
    key = hashlib.sha256(bytes([name])).digest()
    everybody = of_sizes([*OTHERS, 2 * K, 5 * K])
    drawn = everybody.by_group.sample(0.4, K, SecretStream.from_key(key))
    assert 0 < len(drawn.records) < len(everybody)
    found, alone = (
        step_of(learner, everybody, 0.4, key),
        step_of(learner, everybody.take(drawn.records)),
    )
    assert (found - alone).norm().item() <= CLIP * 1e-5


@pytest.mark.parametrize("weakened", ["records drawn one by one", "no weights"])
def test_a_mechanism_that_forgets_groups_moves_further(learner, of_sizes, weakened):
    """What the tests above would find: with either fault a group of five alike moves five times C."""
    alike = of_sizes([1, 2, 5]).take(np.array([0, 1, 2, 3, 3, 3, 3, 3]))
    alike = replace(alike, groups=np.array([0, 1, 1, 2, 2, 2, 2, 2]))
    if weakened == "no weights":
        alike = replace(alike, groups=np.arange(8))
    most = K if weakened == "no weights" else None
    moved = step_of(learner, alike, most=most) - step_of(
        learner, alike.take(np.arange(3)), most=most
    )
    assert moved.norm().item() == pytest.approx(5 * CLIP, rel=1e-4)


def counts_of(learner, examples):
    classes = len(learner.job.data.labels or ())
    task = counting(learner.job, task_for(learner.job, classes))
    return trainer.test(learner, task, learner.initial, examples).bounded(learner.job)


@pytest.mark.parametrize("learner", [KINDS[0], KINDS[3]], ids=str, indirect=True)
@pytest.mark.parametrize("size", [1, 2, K, 5 * K])
def test_one_group_more_moves_counts_by_no_more_than_their_noise_hides(learner, of_sizes, size):
    bound, job = change_of(learner.job), learner.job
    everybody = of_sizes([*OTHERS, size])

    def held_out(examples):
        texts = [examples.tokens(n).tobytes().hex() for n in range(len(examples))]
        rows = counted(np.arange(len(examples)), examples.groups, texts, K, b"secret")
        return examples.take(rows)

    for gone, spread in ((np.arange(sum(OTHERS)), 0), (np.arange(len(everybody) - 1), 1)):
        before = counts_of(learner, held_out(everybody.take(gone)))
        after = counts_of(learner, held_out(everybody))
        change = after.cells - before.cells
        assert (change**2).sum() <= bound.cells_squared
        assert abs(after.loss - before.loss) <= bound.sum
        if not spread:
            assert change.sum() == GROUP_COUNTS
            assert (change >= 0).all()
            assert after.loss >= before.loss
        assert figures(job, after)["examples"] == len(OTHERS) + 1
    assert len(held_out(everybody)) == sum(min(K, n) for n in [*OTHERS, size])


def test_a_test_says_how_groups_fare_on_average(learner, of_sizes):
    """Accuracy is the mean over groups of the share of right answers, up to the rounding of counts."""
    sizes = [1, 2, 3, 1, 3]
    examples = of_sizes(sizes)
    job = learner.job.model_copy(
        update={"privacy": learner.job.privacy.model_copy(update={"unit": "none"})}
    )
    right = []
    for number in range(len(sizes)):
        mine = examples.take(np.flatnonzero(examples.groups == number))
        exact = trainer.test(learner, task_for(job, 2), learner.initial, mine).metrics(["a", "b"])
        right.append(exact["accuracy"])
    found = counts_of(learner, examples)
    share = np.trace(found.cells) / found.cells.sum()
    assert share == pytest.approx(np.mean(right), abs=1 / GROUP_COUNTS)


def test_groups_follow_rows_wherever_they_are_taken_or_joined(learner, examples_of):
    store = examples_of(learner).store
    groups = np.arange(144) // 4
    one = grouped(store, np.array([9, 8, 40]), groups)
    assert one.groups.tolist() == [2, 2, 10]
    assert one.take(np.array([2, 0])).groups.tolist() == [10, 2]
    assert with_features(learner, one).groups.tolist() == [2, 2, 10]
    assert Examples.concatenate([one, one]).groups.tolist() == [2, 2, 10, 2, 2, 10]
    assert grouped(store, np.array([1]), None).groups is None
