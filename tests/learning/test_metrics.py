"""Counts add up, and the figures from them are those of scikit-learn."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.special import log_softmax

from umbel.errors import MessageError, ModelError
from umbel.learning.classification_counts import BINS, ClassificationCounts, area_under_roc
from umbel.learning.language_counts import LanguageCounts


def probabilities(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    result: np.ndarray = exponents / exponents.sum(axis=1, keepdims=True)
    return result


def example(classes: int, rows: int, spread: float, skill: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes * rows)
    labels = rng.choice(classes, size=rows, p=probabilities(-np.arange(classes)[None] / 2.0)[0])
    logits = rng.normal(size=(rows, classes))
    logits[np.arange(rows), labels] += skill
    return (spread * logits).astype(np.float32), labels


def figures(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    names = [f"class {k}" for k in range(logits.shape[1])]
    result: dict[str, Any] = ClassificationCounts.from_logits(logits, labels).metrics(names)
    return result


# From an untrained head, over a usual one, to one that is sure of nearly everything.
@pytest.mark.parametrize("spread", [0.02, 1.0, 8.0])
@pytest.mark.parametrize("skill", [0.3, 2.0])
@pytest.mark.parametrize("classes", [2, 3, 12])
def test_figures_are_those_of_scikit_learn(classes: int, skill: float, spread: float) -> None:
    logits, labels = example(classes, 4000, spread, skill)
    ours = figures(logits, labels)
    predicted, p = logits.argmax(axis=1), probabilities(logits)
    precision, recall, f1, _ = reference.precision_recall_fscore_support(
        labels, predicted, average="macro", zero_division=0
    )
    assert ours["accuracy"] == pytest.approx(reference.accuracy_score(labels, predicted))
    assert ours["balanced_accuracy"] == pytest.approx(
        reference.balanced_accuracy_score(labels, predicted)
    )
    assert ours["precision"] == pytest.approx(precision)
    assert ours["recall"] == pytest.approx(recall)
    assert ours["f1"] == pytest.approx(f1)
    assert ours["kappa"] == pytest.approx(reference.cohen_kappa_score(labels, predicted))
    # scikit-learn's log_loss cuts probabilities off at 2e-16.
    log_p = log_softmax(logits.astype(np.float64), axis=1)
    assert ours["loss"] == pytest.approx(-log_p[np.arange(4000), labels].mean())
    assert ours["confusion"] == reference.confusion_matrix(labels, predicted).tolist()
    assert ours["examples"] == 4000
    by_class = reference.precision_recall_fscore_support(
        labels, predicted, labels=range(classes), zero_division=0
    )
    for k, row in enumerate(zip(*by_class, strict=True)):
        figure = ours["per_class"][f"class {k}"]
        assert list(figure) == ["precision", "recall", "f1", "support"]
        assert list(figure.values()) == pytest.approx(list(row))
    scores = p[:, 1] if classes == 2 else p
    area = reference.roc_auc_score(labels, scores, multi_class="ovr")
    assert ours["roc_auc"] == pytest.approx(area, abs=1e-3)


def test_classes_that_do_not_occur_are_left_out_of_the_means() -> None:
    logits = np.array([[3, 0, 0, 0], [0, 3, 0, 0], [2, 1, 0, 0]], np.float32)
    labels = np.array([0, 1, 1])
    ours = figures(logits, labels)
    assert ours["precision"] == reference.precision_score(labels, [0, 1, 0], average="macro")
    p = probabilities(logits)
    areas = [reference.roc_auc_score(labels == k, p[:, k]) for k in (0, 1)]
    assert ours["roc_auc"] == pytest.approx(np.mean(areas))
    assert ours["per_class"]["class 3"] == {
        "precision": 0.0,
        "recall": 0.0,
        "f1": 0.0,
        "support": 0,
    }


def test_figures_that_are_undefined_are_null_in_json() -> None:
    one_class = figures(np.array([[1, 0], [2, 0]], np.float32), np.array([0, 0]))
    assert one_class["roc_auc"] is None
    assert one_class["kappa"] is None
    assert one_class["accuracy"] == 1.0
    nothing = ClassificationCounts.zero(3).metrics("abc")
    defined = {name for name, value in nothing.items() if value is not None}
    assert defined == {"examples", "per_class", "confusion"}
    assert json.loads(json.dumps(nothing, allow_nan=False)) == nothing
    silent = LanguageCounts.zero().metrics()
    assert silent == {"loss": None, "perplexity": None, "tokens": 0, "examples": 0}


LOGITS = st.integers(2, 4).flatmap(
    lambda classes: st.integers(0, 12).flatmap(
        lambda rows: st.tuples(
            arrays.arrays(np.float32, (rows, classes), elements=st.floats(-1e4, 1e4, width=32)),
            arrays.arrays(np.int64, rows, elements=st.integers(0, classes - 1)),
            st.integers(0, rows),
        )
    )
)


@given(LOGITS)
def test_counts_of_parts_add_up_to_the_counts_of_the_whole(
    case: tuple[np.ndarray, np.ndarray, int],
) -> None:
    logits, labels, cut = case
    whole = ClassificationCounts.from_logits(logits, labels)
    parts = ClassificationCounts.from_logits(
        logits[:cut], labels[:cut]
    ) + ClassificationCounts.from_logits(logits[cut:], labels[cut:])
    assert np.array_equal(whole.confusion, parts.confusion)
    assert np.array_equal(whole.scores, parts.scores)
    assert math.isclose(whole.loss_sum, parts.loss_sum, rel_tol=1e-12, abs_tol=1e-12)
    assert whole.examples == len(labels)
    # Each example is scored once for every class, and as its own class once.
    assert whole.scores.sum() == logits.size
    assert whole.scores[:, 1].sum() == len(labels)
    assert whole.scores.shape == (logits.shape[1], 2, BINS)


@given(LOGITS)
def test_the_wire_form_gives_the_counts_back_and_adds_number_by_number(
    case: tuple[np.ndarray, np.ndarray, int],
) -> None:
    counts = ClassificationCounts.from_logits(*case[:2])
    flat = json.loads(json.dumps(counts.to_list()))
    back = ClassificationCounts.from_list(flat)
    assert np.array_equal(back.confusion, counts.confusion)
    assert np.array_equal(back.scores, counts.scores)
    assert back.scores.dtype == back.confusion.dtype == np.int64
    assert back.loss_sum == counts.loss_sum
    twice = ClassificationCounts.from_list([2 * number for number in flat])
    assert twice.to_list() == (counts + counts).to_list()


@given(st.lists(st.integers(0, 20), min_size=5, max_size=5), st.integers(0, 2**32))
def test_area_is_the_chance_that_a_hit_scores_above_a_miss(sizes: list[int], seed: int) -> None:
    others = np.array(sizes)
    own = np.random.default_rng(seed).permutation(others)[::-1]
    pairs = [((a > b) + (a == b) / 2, own[a] * others[b]) for a in range(5) for b in range(5)]
    total = sum(weight for _, weight in pairs)
    area = area_under_roc(others, own)
    if total == 0:
        assert area is None
    else:
        assert area == pytest.approx(sum(value * weight for value, weight in pairs) / total)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_outputs_of_a_model_that_diverged_are_refused(bad: float) -> None:
    with pytest.raises(ModelError, match="learning_rate"):
        ClassificationCounts.from_logits(np.array([[0.0, bad]], np.float32), np.array([0]))


@pytest.mark.parametrize("labels", [[0, 2], [-1, 0], [0]])
def test_labels_that_fit_no_logit_are_refused(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="labels must be"):
        ClassificationCounts.from_logits(np.zeros((2, 2), np.float32), np.array(labels))


@pytest.mark.parametrize("change", ["cut", "negative", "half", "text", "loss"])
def test_a_list_that_no_client_can_have_written_is_refused(change: str) -> None:
    numbers: list[Any] = ClassificationCounts.zero(3).to_list()
    if change == "cut":
        numbers = numbers[1:]
    elif change == "loss":
        numbers[-1] = math.nan
    else:
        numbers[0] = {"negative": -1, "half": 0.5, "text": "1"}[change]
    with pytest.raises(MessageError):
        ClassificationCounts.from_list(numbers)


def test_language_counts_add_up_and_perplexity_is_that_of_the_mean_loss() -> None:
    sum_ = LanguageCounts(12.0, 4, 1) + LanguageCounts(3.0, 2, 1)
    assert sum_.metrics() == {
        "loss": 2.5,
        "perplexity": pytest.approx(math.exp(2.5)),
        "tokens": 6,
        "examples": 2,
    }
    assert LanguageCounts.from_list(json.loads(json.dumps(sum_.to_list()))) == sum_
    assert sum_ + LanguageCounts.zero() == sum_
    assert LanguageCounts(1e6, 1, 1).metrics()["perplexity"] is None
    for wrong in ([1.0, 2.0], [1.5, 1, 1.0], [1, 1, math.inf]):
        with pytest.raises(MessageError):
            LanguageCounts.from_list(wrong)
