"""Private counts: what one record can change, and the figures that noise leaves."""

import math

import numpy as np
import pytest
import torch

from umbel.errors import MessageError
from umbel.learning.classification_counts import ClassificationCounts
from umbel.learning.language_counts import LanguageCounts
from umbel.learning.private_counts import PrivateCounts, PrivateTask
from umbel.learning.tasks.causal_lm import CausalLm
from umbel.learning.tasks.text_classification import TextClassification
from umbel.privacy.noise.counts_noise import LOSS_STEPS

WILD = [0.0, 1.0, -3.0, 200.0, -1e30, math.inf, -math.inf, math.nan]


def of_labels(logits, labels, classes=3):
    task = PrivateTask(TextClassification(classes), ClassificationCounts, classes)
    batch = {"labels": torch.tensor(labels, dtype=torch.long)}
    return task.counts(torch.tensor(logits, dtype=torch.float32).reshape(-1, classes), batch)


@pytest.mark.parametrize("seed", range(40))
def test_one_record_changes_one_cell_by_one_and_the_loss_by_a_bounded_amount(seed):
    """Whatever the model says: also not a number."""
    draw = np.random.default_rng(seed)
    logits = draw.choice(WILD, size=(6, 3))
    labels = draw.integers(3, size=6).tolist()
    whole, less = of_labels(logits, labels), of_labels(logits[:-1], labels[:-1])
    cells = whole.cells - less.cells
    assert np.abs(cells).sum() == 1
    assert 0 <= whole.loss - less.loss <= LOSS_STEPS


class Moments(ClassificationCounts):
    """A loss, and two more sums, of which a record adds at most 1 and 1,000."""

    @classmethod
    def caps(cls, classes):
        return *super().caps(classes), 1.0, 1000.0


class WithMoments(TextClassification):
    def sums(self, logits, batch):
        return torch.stack([self.losses(logits, batch), logits[:, 0], logits[:, 1] ** 2], dim=1)


@pytest.mark.parametrize("seed", range(20))
def test_one_record_changes_each_sum_that_a_task_declares_by_a_bounded_amount(seed):
    draw = np.random.default_rng(seed)
    logits = torch.tensor(draw.choice(WILD, size=(6, 3)), dtype=torch.float32)
    labels = torch.tensor(draw.integers(3, size=6))
    task = PrivateTask(WithMoments(3), Moments, 3)
    whole = task.counts(logits, {"labels": labels})
    less = task.counts(logits[:-1], {"labels": labels[:-1]})
    assert whole.sums.shape == (3,)
    assert ((whole.sums - less.sums >= 0) & (whole.sums - less.sums <= LOSS_STEPS)).all()
    assert np.abs(whole.cells - less.cells).sum() == 1
    again = PrivateCounts.from_list(Moments, 3, whole.to_list())
    assert (again.sums == whole.sums).all()
    assert (whole.plus([0] * 9 + [1, -2, 3]).sums - whole.sums).tolist() == [1, -2, 3]


def test_of_a_language_model_one_record_is_one_count_whatever_its_length():
    task = PrivateTask(CausalLm(), LanguageCounts, 0)
    ids = torch.randint(0, 50, (3, 9))
    mask = torch.ones_like(ids)
    mask[1, 3:] = 0
    counts = task.counts(torch.randn(3, 9, 50) * 100, {"input_ids": ids, "attention_mask": mask})
    assert counts.cells.tolist() == [[3]]
    assert 0 <= counts.loss <= 3 * LOSS_STEPS
    figures = counts.metrics([])
    assert figures["examples"] == 3
    assert figures["perplexity"] == pytest.approx(math.exp(figures["loss"]))


def test_without_noise_the_figures_are_those_of_exact_counts():
    logits = torch.randn(500, 3, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(0, 3, (500,), generator=torch.Generator().manual_seed(2))
    names = ["a", "b", "c"]
    task = TextClassification(3)
    exact = task.counts(logits, {"labels": labels}).metrics(names)
    private = PrivateTask(task, ClassificationCounts, 3)
    private = private.counts(logits, {"labels": labels}).metrics(names)
    (cap,) = ClassificationCounts.caps(3)
    assert private["loss"] == pytest.approx(exact["loss"], abs=cap / LOSS_STEPS / 2)
    for name in ("accuracy", "balanced_accuracy", "f1", "kappa", "per_class", "confusion"):
        assert private[name] == exact[name]
    assert private["roc_auc"] is None


def test_figures_stand_noise_that_goes_below_zero():
    zero = PrivateCounts.zero(ClassificationCounts, 2)
    figures = zero.plus([-5, 3, 4, 0, -700]).metrics(["no", "yes"])
    assert figures["accuracy"] == 0.0
    assert figures["loss"] is None
    assert zero.plus([-1, -1, -1, -1, 5]).metrics(["no", "yes"])["accuracy"] is None


def test_counts_travel_and_add_up():
    one = of_labels([[1, 0, 0], [0, 3, 1]], [0, 2])
    two = one.plus([-4] * 9 + [7])
    assert (
        PrivateCounts.from_list(ClassificationCounts, 3, two.to_list()).to_list() == two.to_list()
    )
    assert (one + two).cells.sum() == one.cells.sum() + two.cells.sum()


@pytest.mark.parametrize(
    "numbers",
    [
        [],
        [1.0],
        [1, 2, 3],
        [1, 2, 3, 4, 0.5],
        [1, 2, 3, math.nan, 0],
        [1, 2, 3, 1e300, 0],
        ["a", 1],
    ],
)
def test_what_no_client_can_have_sent_is_refused(numbers):
    with pytest.raises(MessageError):
        PrivateCounts.from_list(ClassificationCounts, 2, numbers)


def test_noise_does_not_bias_accuracy_or_loss():
    """Many empty cells: what falls below zero must not be cut off before it is added up."""
    generator = np.random.default_rng(0)
    classes, right, wrong = 20, 40, 10
    cells = np.zeros((classes, classes), np.int64)
    np.fill_diagonal(cells, right)
    cells[:, 0] += wrong
    true = (classes * right + wrong) / (classes * (right + wrong))
    found, names = [], [str(n) for n in range(classes)]
    for _ in range(300):
        noise = np.rint(generator.normal(0, 5, classes**2 + 1)).astype(int).tolist()
        counts = PrivateCounts(ClassificationCounts, classes, cells, np.array([1000]))
        found.append(counts.plus(noise).metrics(names)["accuracy"])
    assert np.mean(found) == pytest.approx(true, abs=0.01)
