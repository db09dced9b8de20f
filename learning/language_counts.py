"""Counts of a language model: predicted tokens, and their loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..errors import MessageError
from .metrics import finite, whole

_CAP = 12.0
_LARGEST = math.log(np.finfo(np.float64).max)


@dataclass(frozen=True)
class LanguageCounts:
    """Counts over predicted tokens: `loss_sum` is the cross entropy in nats, summed over tokens."""

    loss_sum: float
    tokens: int
    examples: int
    reals: ClassVar[int] = 1

    @classmethod
    def zero(cls, classes: int = 0) -> LanguageCounts:
        """Counts of no examples."""
        return LanguageCounts(0.0, 0, 0)

    def __add__(self, other: LanguageCounts) -> LanguageCounts:
        return LanguageCounts(
            self.loss_sum + other.loss_sum,
            self.tokens + other.tokens,
            self.examples + other.examples,
        )

    def to_list(self) -> list[float]:
        """Flat numbers for the wire: tokens, examples, loss."""
        return [self.tokens, self.examples, self.loss_sum]

    @classmethod
    def from_list(cls, numbers: Sequence[float]) -> LanguageCounts:
        """Inverse of `to_list`; raises ``MessageError`` for what it cannot have written."""
        if len(numbers) != 3:
            raise MessageError(f"{len(numbers)} numbers are not the counts of a language model.")
        tokens, examples = whole(numbers[:2]).tolist()
        return cls(finite(numbers[2]), tokens, examples)

    @classmethod
    def most(cls, max_length: int) -> int:
        """A record has as many tokens."""
        return max_length

    @classmethod
    def cells(cls, classes: int) -> tuple[int, ...]:
        """One, which counts records."""
        return 1, 1

    @classmethod
    def caps(cls, classes: int) -> tuple[float, ...]:
        """Of a record's loss, the mean over its tokens, in nats: beyond, it counts as this."""
        return (_CAP,)

    @classmethod
    def of_noised(
        cls, cells: np.ndarray, sums: Sequence[float], each: int, label_names: Sequence[str]
    ) -> dict[str, Any]:
        """The loss is the mean over records of each one's mean over its tokens.

        One that noise took to zero or below is not defined.
        """
        examples, (loss,) = max(0, int(cells.sum())) / each, sums
        mean = loss / examples if loss > 0 and examples else None
        # Noise can leave few of many records, and so a mean beyond any.
        usable = mean is not None and mean < _LARGEST
        return {
            "loss": mean,
            "perplexity": math.exp(mean) if mean is not None and usable else None,
            "tokens": None,
            "examples": round(examples),
        }

    @classmethod
    def blur(cls, cell: float, total: float, classes: int) -> float:
        """Of the loss, in nats: a ratio of two noised sums, at the largest loss."""
        return _CAP * math.hypot(total, cell)

    def metrics(self, label_names: Sequence[str] = ()) -> dict[str, Any]:
        """Loss a token (nats), perplexity exp(loss); None without tokens, or beyond a float."""
        loss = self.loss_sum / self.tokens if self.tokens else None
        usable = loss is not None and loss < _LARGEST
        return {
            "loss": loss,
            "perplexity": math.exp(loss) if loss is not None and usable else None,
            "tokens": self.tokens,
            "examples": self.examples,
        }
