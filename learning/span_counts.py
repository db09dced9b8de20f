"""Counts of a task that marks spans: right, false and missed ones by label, and a loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..errors import MessageError
from .metrics import finite, part_of, whole

MOST_SPANS = 15
"""So many spans of one record enter private counts: those that begin first. A record itself is one more."""
_CAP = 4.0
_BESIDE = 4
"""Numbers of exact counts beside those by label: records, right ones, words, and the loss."""


class Compared(NamedTuple):
    """The spans of one record: first and last unit, and label."""

    true: Sequence[tuple[int, int, int]]
    found: Sequence[tuple[int, int, int]]
    missed: Sequence[int]
    """Labels of true spans that no answer can say (``marked_texts``)."""

    @property
    def right(self) -> bool:
        return not self.missed and set(self.true) == set(self.found)

    def outcomes(self) -> list[tuple[int, int]]:
        """For each span, in order, what came of it (0: right, 1: false, 2: missed), and its label."""
        true, found = set(self.true), set(self.found)
        seen = [
            (0 if s in true and s in found else 1 if s in found else 2, s) for s in true | found
        ]
        seen.sort(key=lambda one: (one[1], one[0]))
        return [(what, span[2]) for what, span in seen] + [(2, label) for label in self.missed]


def cells_of(labels: int, one: Compared) -> np.ndarray:
    """What a record adds to private counts, int64[2 + 3 labels]: itself, as wrong or right, and its spans."""
    cells = np.zeros(2 + 3 * labels, np.int64)
    cells[int(one.right)] = 1
    for what, label in one.outcomes()[:MOST_SPANS]:
        cells[2 + what * labels + label] += 1
    return cells


@dataclass(frozen=True)
class SpanCounts:
    """Counts over records with spans of K labels.

    `spans` is int64[3, K]: spans that were found and are right, that were found and are false, and that were
    missed. A span is right if its first and last word and its label are: an exact match, as the CoNLL tasks
    count (Tjong Kim Sang and De Meulder 2003). `loss_sum` is the cross entropy in nats, summed over words.
    """

    spans: np.ndarray
    examples: int
    exact: int
    """Records of which every span is right, and no other was found."""
    words: int
    loss_sum: float
    reals: ClassVar[int] = 1

    @classmethod
    def zero(cls, classes: int) -> SpanCounts:
        """Counts of no records; `classes` is the number of labels."""
        return cls(np.zeros((3, classes), np.int64), 0, 0, 0, 0.0)

    @classmethod
    def of_record(cls, labels: int, one: Compared, loss: float, words: int) -> SpanCounts:
        spans = np.zeros((3, labels), np.int64)
        for what, label in one.outcomes():
            spans[what, label] += 1
        return cls(spans, 1, int(one.right), words, loss)

    def __add__(self, other: SpanCounts) -> SpanCounts:
        if self.spans.shape != other.spans.shape:
            raise ValueError("counts of different labels cannot be added")
        return SpanCounts(
            self.spans + other.spans,
            self.examples + other.examples,
            self.exact + other.exact,
            self.words + other.words,
            self.loss_sum + other.loss_sum,
        )

    def to_list(self) -> list[float]:
        """Flat numbers for the wire: 3 K spans, records, right ones, words, loss."""
        return [*self.spans.ravel().tolist(), self.examples, self.exact, self.words, self.loss_sum]

    @classmethod
    def from_list(cls, numbers: Sequence[float]) -> SpanCounts:
        """Inverse of `to_list`; raises ``MessageError`` for what it cannot have written."""
        labels, rest = divmod(len(numbers) - _BESIDE, 3)
        if labels < 1 or rest:
            raise MessageError(f"{len(numbers)} numbers are not the counts of spans.")
        counts = whole(numbers[:-1])
        examples, exact, words = counts[3 * labels :].tolist()
        part_of(exact, examples)
        return cls(
            counts[: 3 * labels].reshape(3, labels), examples, exact, words, finite(numbers[-1])
        )

    @classmethod
    def most(cls, max_length: int) -> int:
        """As many spans of one label as words, and as many that are beyond the longest row."""
        return 2 * max_length

    @classmethod
    def cells(cls, classes: int) -> tuple[int, ...]:
        """Records that are not right, and that are; then spans as in `spans`."""
        return (2 + 3 * classes,)

    @classmethod
    def caps(cls, classes: int) -> tuple[float, ...]:
        """Of a record's loss, the mean over its words, in nats: beyond, it counts as this."""
        return (_CAP,)

    @classmethod
    def of_noised(
        cls, cells: np.ndarray, sums: Sequence[float], each: int, label_names: Sequence[str]
    ) -> dict[str, Any]:
        """Those of exact counts. The loss is the mean over records of each one's mean over its words.

        F1, precision and recall over all labels are ratios of sums as they came; in figures by label what is
        below zero counts as zero. A figure without a denominator above zero is not defined.
        """
        counts, (loss,) = cells / each, sums
        examples, spans = float(counts[:2].sum()), counts[2:].reshape(3, -1)
        return {
            **_figures(spans.sum(axis=1)),
            "exact_match": _share(float(counts[1]), examples),
            "loss": loss / examples if loss > 0 and examples > 0 else None,
            "examples": max(0, round(examples)),
            "per_class": _by_label(np.maximum(np.rint(spans), 0), label_names),
        }

    @classmethod
    def blur(cls, cell: float, total: float, classes: int) -> float:
        """Of F1, if there is a span in each record, on average: with more it is less.

        F1 = 2 r / (2 r + f + m) of n spans moves by at most 2 / n for each that is right, and 1 / n for each
        that is false or missed; K labels have independent noise.
        """
        return cell * math.sqrt(6 * classes)

    def metrics(self, label_names: Sequence[str]) -> dict[str, Any]:
        """Figures that JSON can hold; one that is undefined (such as F1 without a span) is None.

        `f1`, `precision` and `recall` are over the spans of all labels (micro averages).
        """
        if len(label_names) != self.spans.shape[1]:
            raise ValueError(f"{self.spans.shape[1]} labels, but {len(label_names)} names")
        return {
            **_figures(self.spans.sum(axis=1).astype(np.float64)),
            "exact_match": _share(self.exact, self.examples),
            "loss": self.loss_sum / self.words if self.words else None,
            "examples": self.examples,
            "per_class": _by_label(self.spans, label_names),
        }


def _figures(spans: np.ndarray) -> dict[str, float | None]:
    """Of right, false and missed spans, float64[3]."""
    right, false, missed = spans.tolist()
    return {
        "f1": _share(2 * right, 2 * right + false + missed),
        "precision": _share(right, right + false),
        "recall": _share(right, right + missed),
    }


def _by_label(spans: np.ndarray, label_names: Sequence[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, counts in zip(label_names, spans.T, strict=True):
        right, false, missed = counts.tolist()
        shares = {key: value or 0.0 for key, value in _figures(counts.astype(np.float64)).items()}
        found[name] = {
            **shares,
            "support": int(right + missed),
            "right": int(right),
            "false": int(false),
            "missed": int(missed),
        }
    return found


def _share(part: float, of: float) -> float | None:
    return min(1.0, max(0.0, part / of)) if of > 0 else None
