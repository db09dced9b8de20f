"""Counts of a task with classes: a confusion matrix, histograms of scores, and a loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any, ClassVar

import numpy as np

from ..errors import MessageError, ModelError
from .metrics import finite, whole

BINS = 1024

# Log-odds up to which bins have equal width, and beyond which all share the last; see _bins_of.
_FINEST = 0.1
_WIDEST = 100.0
_LEAST_CAP = 4.0


@dataclass(frozen=True)
class ClassificationCounts:
    """Counts over examples of K classes.

    `confusion` is int64[K, K], by true and predicted class. `scores` is int64[K, 2, BINS]: for
    class k a histogram of the model's probability of k, over examples of other classes (0) and
    of class k (1). `loss_sum` is the cross entropy in nats, summed over examples.
    """

    confusion: np.ndarray
    scores: np.ndarray
    loss_sum: float
    reals: ClassVar[int] = 1

    @classmethod
    def zero(cls, classes: int) -> ClassificationCounts:
        """Counts of no examples of `classes` classes."""
        return cls(
            np.zeros((classes, classes), np.int64), np.zeros((classes, 2, BINS), np.int64), 0.0
        )

    @classmethod
    def from_logits(cls, logits: np.ndarray, labels: np.ndarray) -> ClassificationCounts:
        """Counts of a batch: `logits` float[B, K], `labels` int[B]; ties go to the first class.

        Raises ``ModelError`` if a logit is not finite.
        """
        logits_BK = np.asarray(logits, dtype=np.float64)
        labels_B = np.asarray(labels, dtype=np.int64)
        examples, classes = logits_BK.shape
        if classes < 2:
            raise ValueError("logits must have two classes or more")
        if labels_B.shape != (examples,) or np.any((labels_B < 0) | (labels_B >= classes)):
            raise ValueError(f"labels must be {examples} numbers from 0 to {classes - 1}")
        if not np.isfinite(logits_BK).all():
            raise ModelError(
                "The model's outputs are not finite, so it has diverged. Lower "
                "training.learning_rate, or set training.gradient_clipping."
            )
        if examples == 0:
            return cls.zero(classes)
        log_p_BK = logits_BK - _log_sum_exp(logits_BK)
        confusion = np.bincount(
            labels_B * classes + logits_BK.argmax(axis=1), minlength=classes * classes
        )
        class_K = np.arange(classes)
        is_class_BK = labels_B[:, None] == class_K
        cell_BK = (2 * class_K + is_class_BK) * BINS + _bins_of(logits_BK)
        scores = np.bincount(cell_BK.ravel(), minlength=classes * 2 * BINS)
        return cls(
            confusion.reshape(classes, classes).astype(np.int64),
            scores.reshape(classes, 2, BINS).astype(np.int64),
            -float(log_p_BK[np.arange(examples), labels_B].sum()),
        )

    def __add__(self, other: ClassificationCounts) -> ClassificationCounts:
        if self.confusion.shape != other.confusion.shape:
            raise ValueError("counts of different classes cannot be added")
        return ClassificationCounts(
            self.confusion + other.confusion,
            self.scores + other.scores,
            self.loss_sum + other.loss_sum,
        )

    @property
    def examples(self) -> int:
        return int(self.confusion.sum())

    def to_list(self) -> list[float]:
        """Flat numbers for the wire: K*K + K*2*BINS whole counts, then the loss."""
        return [*self.confusion.ravel().tolist(), *self.scores.ravel().tolist(), self.loss_sum]

    @classmethod
    def from_list(cls, numbers: Sequence[float]) -> ClassificationCounts:
        """Inverse of `to_list`; raises ``MessageError`` for what it cannot have written."""
        # K^2 + 2 BINS K = len - 1, solved for K.
        classes = isqrt(max(0, BINS * BINS + len(numbers) - 1)) - BINS
        if classes < 2 or classes * classes + 2 * BINS * classes + 1 != len(numbers):
            raise MessageError(f"{len(numbers)} numbers are not the counts of a classification.")
        counts = whole(numbers[:-1])
        return cls(
            counts[: classes * classes].reshape(classes, classes),
            counts[classes * classes :].reshape(classes, 2, BINS),
            finite(numbers[-1]),
        )

    @classmethod
    def most(cls, max_length: int) -> int:
        """A record is one in one cell."""
        return 1

    @classmethod
    def cells(cls, classes: int) -> tuple[int, ...]:
        """By true and predicted class."""
        return classes, classes

    @classmethod
    def caps(cls, classes: int) -> tuple[float, ...]:
        """Of the cross entropy, in nats: beyond, it counts as this."""
        return (max(_LEAST_CAP, 2 * math.log(max(1, classes))),)

    @classmethod
    def of_noised(
        cls, cells: np.ndarray, sums: Sequence[float], each: int, label_names: Sequence[str]
    ) -> dict[str, Any]:
        """Those of exact counts, but for the area under the ROC curve.

        Accuracy and loss are ratios of sums as they came, so noise does not bias them; in figures by
        class what is below zero counts as zero. A loss that noise took to zero or below is not defined.
        """
        whole_cells = np.maximum(np.rint(cells / each).astype(np.int64), 0)
        examples, (loss,) = max(0, int(cells.sum())) / each, sums
        scores = np.zeros((len(cells), 2, BINS), np.int64)
        found = cls(whole_cells, scores, max(0.0, loss)).metrics(label_names)
        right = min(max(0, int(np.trace(cells))) / each, examples)
        return found | {
            "examples": round(examples),
            "accuracy": right / examples if examples else None,
            "loss": loss / examples if loss > 0 and examples else None,
        }

    @classmethod
    def blur(cls, cell: float, total: float, classes: int) -> float:
        """Of the accuracy: right answers over all.

        If all are right, the noise of the cells that are wrong ones moves the ratio; if none is, that of the
        diagonal. The larger of the two bounds every accuracy between.
        """
        return cell * math.sqrt(max(classes, classes * (classes - 1)))

    def metrics(self, label_names: Sequence[str]) -> dict[str, Any]:
        """Figures that JSON can hold; one that is undefined (such as a mean over none) is None.

        As in scikit-learn, macro means run over the classes that occur as truth or prediction,
        `balanced_accuracy` over those that occur as truth, a precision or recall without
        denominator is 0, and `roc_auc` is that of class 1 when there are two classes, else the
        macro mean of one against the rest, over the classes for which it is defined.
        """
        if len(label_names) != len(self.confusion):
            raise ValueError(f"{len(self.confusion)} classes, but {len(label_names)} names")
        hits = self.confusion.diagonal()
        support = self.confusion.sum(axis=1)
        predicted = self.confusion.sum(axis=0)
        precision, recall = _ratio(hits, predicted), _ratio(hits, support)
        f1 = _ratio(2 * hits, support + predicted)
        occurs = support + predicted > 0
        examples = self.examples
        return {
            "accuracy": int(hits.sum()) / examples if examples else None,
            "balanced_accuracy": _mean(recall[support > 0]),
            "precision": _mean(precision[occurs]),
            "recall": _mean(recall[occurs]),
            "f1": _mean(f1[occurs]),
            "roc_auc": self._roc_auc(),
            "kappa": self._kappa(support, predicted),
            "loss": self.loss_sum / examples if examples else None,
            "examples": examples,
            "per_class": {
                name: {
                    "precision": float(precision[k]),
                    "recall": float(recall[k]),
                    "f1": float(f1[k]),
                    "support": int(support[k]),
                }
                for k, name in enumerate(label_names)
            },
            "confusion": self.confusion.tolist(),
        }

    def _roc_auc(self) -> float | None:
        areas = [area_under_roc(others, own) for others, own in self.scores]
        if len(areas) == 2:
            return areas[1]
        defined = [area for area in areas if area is not None]
        return sum(defined) / len(defined) if defined else None

    def _kappa(self, support: np.ndarray, predicted: np.ndarray) -> float | None:
        """Cohen's kappa (Cohen 1960): agreement beyond that of independent raters."""
        examples = self.examples
        if not examples:
            return None
        # Python integers: the products can pass 2^63.
        chance = sum(int(s) * int(p) for s, p in zip(support, predicted, strict=True))
        if chance == examples**2:
            return None
        agreed = int(self.confusion.diagonal().sum())
        return (examples * agreed - chance) / (examples**2 - chance)


def area_under_roc(others: np.ndarray, own: np.ndarray) -> float | None:
    """Area under the ROC curve from two histograms, int64[BINS], with ascending scores.

    It is the chance that a random example of the class scores above a random other one (Hanley
    and McNeil 1982); a pair in one bin counts half. None when either side is empty.
    """
    pairs = int(others.sum()) * int(own.sum())
    if pairs == 0:
        return None
    below = np.cumsum(others) - others
    wins = own.astype(np.float64) @ (below + others / 2)
    return float(wins) / pairs


def _bins_of(logits_BK: np.ndarray) -> np.ndarray:
    """int64[B, K]: the bin, 0 to BINS - 1, of each class's probability.

    A rank statistic may bin any ascending function of the probability. Bins of equal width in it
    would put all sure answers, and all of a rare class, into the outermost two, and an untrained
    head's into one. So bins are of equal width in asinh of the log-odds against chance: about 1.5 %
    of the distance from chance, at any distance.
    """
    classes = logits_BK.shape[1]
    log_p_BK = logits_BK - _log_sum_exp(logits_BK)
    top_B1 = logits_BK.argmax(axis=1)[:, None]
    # log(1 - p) from p loses all digits where p is near 1, which only the highest class can be.
    others_BK = logits_BK.copy()
    np.put_along_axis(others_BK, top_B1, -np.inf, axis=1)
    top_odds_B1 = np.take_along_axis(logits_BK, top_B1, axis=1) - _log_sum_exp(others_BK)
    np.put_along_axis(log_p_BK, top_B1, -1.0, axis=1)
    odds_BK = log_p_BK - np.log(-np.expm1(log_p_BK))
    np.put_along_axis(odds_BK, top_B1, top_odds_B1, axis=1)
    odds_BK = np.clip(odds_BK + math.log(classes - 1), -_WIDEST, _WIDEST)
    position_BK = np.arcsinh(odds_BK / _FINEST) / (2 * math.asinh(_WIDEST / _FINEST)) + 0.5
    bins_BK: np.ndarray = np.minimum((position_BK * BINS).astype(np.int64), BINS - 1)
    return bins_BK


def _log_sum_exp(logits_BK: np.ndarray) -> np.ndarray:
    highest_B1 = logits_BK.max(axis=1, keepdims=True)
    total: np.ndarray = highest_B1 + np.log(
        np.exp(logits_BK - highest_B1).sum(axis=1, keepdims=True)
    )
    return total


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """float64[K]; 0 if the denominator is 0."""
    ratio: np.ndarray = np.where(denominator > 0, numerator / np.maximum(denominator, 1), 0.0)
    return ratio


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None
