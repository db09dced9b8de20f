"""Counts of a model that answers: predicted tokens of answers, their loss, and answers that are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import MessageError
from .language_counts import LanguageCounts
from .metrics import part_of, whole


@dataclass(frozen=True)
class AnswerCounts(LanguageCounts):
    """As of a language model, over tokens of answers; and `exact`: dialogues all of whose answers are right.

    An answer is right if each of its tokens, and its end, is the likeliest behind those before: then it is
    what the model says if the likeliest token is taken again and again.
    """

    exact: int

    @classmethod
    def zero(cls, classes: int = 0) -> AnswerCounts:
        return cls(0.0, 0, 0, 0)

    def __add__(self, other: LanguageCounts) -> AnswerCounts:
        if not isinstance(other, AnswerCounts):
            raise TypeError("counts of different tasks cannot be added")
        both = LanguageCounts.__add__(self, other)
        return AnswerCounts(both.loss_sum, both.tokens, both.examples, self.exact + other.exact)

    def to_list(self) -> list[float]:
        """Flat numbers for the wire: exact, tokens, examples, loss."""
        return [self.exact, *super().to_list()]

    @classmethod
    def from_list(cls, numbers: Sequence[float]) -> AnswerCounts:
        """Inverse of `to_list`; raises ``MessageError`` for what it cannot have written."""
        if len(numbers) != 4:
            raise MessageError(f"{len(numbers)} numbers are not the counts of answers.")
        others = LanguageCounts.from_list(numbers[1:])
        (exact,) = whole(numbers[:1]).tolist()
        part_of(exact, others.examples)
        return cls(others.loss_sum, others.tokens, others.examples, exact)

    @classmethod
    def cells(cls, classes: int) -> tuple[int, ...]:
        """Dialogues that are not answered exactly, and those that are."""
        return 1, 2

    @classmethod
    def of_noised(
        cls, cells: np.ndarray, sums: Sequence[float], each: int, label_names: Sequence[str]
    ) -> dict[str, Any]:
        found = super().of_noised(cells, sums, each, label_names)
        total = int(cells.sum())
        share = float(np.clip(cells[0, 1] / total, 0.0, 1.0)) if total > 0 else None
        return found | {"exact_match": share}

    def metrics(self, label_names: Sequence[str] = ()) -> dict[str, Any]:
        share = self.exact / self.examples if self.examples else None
        return super().metrics(label_names) | {"exact_match": share}
