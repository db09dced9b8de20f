"""Work on invented texts behind the work on records, until an answer has cost a public amount of work.

How long a machine works for an answer follows from how many records were drawn, and how long they are. Here
it goes on working, on texts that nobody wrote, until as much is done as the most records that are likely to
be drawn would have cost, were each of the greatest length. No clock takes part: a machine that others make
slower is slower with both.

Guarantee: the cost of all passes of an answer, real and invented, is on average the same public number,
whatever the records are, and never further from it than one pass of the shortest length; if the records alone
cost more, it is the next whole multiple of that number. A pass costs what passes of its shape cost when the
model was loaded, before any record was read, its batch included.

Assumptions: how long a pass takes follows from its shape, not from the numbers in it (not so with mixtures of
experts, if it follows from how many experts a text asks); costs of shapes stand to each other as they were
measured: what is measured wrongly by a share moves an answer by that share of a pass for each pass that a
record changes. A pass that a record makes fail counts as a whole one, wherever it failed.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .batches import make_batch
from .examples import Examples, TokensInMemory
from .network import BESIDE
from .shapes import feature_width

if TYPE_CHECKING:
    from .model import Learner
    from .network import Batch

NO_LENGTH = 0
"""Of rows that are features."""
_log = logging.getLogger(__name__)
_chance = random.SystemRandom()

Spend = Callable[[Callable[[], "Batch"]], object]
"""Makes a batch and does the work of a pass on it, whose result is discarded."""


class Filling(Protocol):
    """What an answer's passes are told to, and what follows them."""

    steps: int
    """Steps that the optimizer has taken."""

    def passed(self, batch: Batch) -> None:
        """A batch of records is about to go through."""

    def stepped(self) -> None:
        """The optimizer has taken a step."""

    def fill(self, spend: Spend) -> None:
        """The records are done."""


class Nothing:
    """Of an answer that leaves when it is there."""

    steps = 0

    def passed(self, batch: Batch) -> None:
        pass

    def stepped(self) -> None:
        pass

    def fill(self, spend: Spend) -> None:
        pass


NOTHING = Nothing()


@dataclass(frozen=True)
class Costs:
    """What passes cost. The unit is a pass of `rows` rows of the greatest length."""

    rows: int
    lengths: tuple[int, ...]
    """Ascending, in tokens; the last is the greatest."""
    whole: tuple[float, ...]
    """Cost of a pass of `rows` rows of each length."""
    single: float
    """Of a pass of one row, as a share of one of `rows` rows."""
    fixed: bool
    """Whether all passes have `rows` rows and one of these lengths."""

    def of(self, batch: Batch) -> float:
        """What it costs to take this batch through."""
        rows, length = _shape(batch)
        cost = float(np.interp(length, self.lengths, self.whole))
        if self.rows == 1 or rows == self.rows:
            return cost * rows / self.rows
        return cost * (self.single + (1 - self.single) * (rows - 1) / (self.rows - 1))

    def most(self, records: int, steps: int = 1) -> float:
        """The most that so many records can cost in so many steps; in each, some passes are not full.

        There is room for a record that makes a pass fail, which is then taken again, record by record.
        """
        passes = records / self.rows + steps * (sum(self.whole) if self.fixed else 1.0)
        again = 0.0 if self.lengths == (NO_LENGTH,) else 1 + self.rows * self.single
        return passes + again


ONE = Costs(1, (NO_LENGTH,), (1.0,), 1.0, fixed=False)
"""For rows that are passes of their own, each of which costs as much as any other."""


def invented_examples(learner: Learner, lengths: Sequence[int]) -> Examples:
    """Examples that nobody wrote, of these lengths in tokens, all of the first class."""
    texts = learner.inputs.invented(lengths)
    store = TokensInMemory(Path(), texts, np.zeros(len(texts), np.int64))
    return Examples(store, np.arange(len(texts)))


class Invented:
    """Batches of invented rows, made as those of records are."""

    def __init__(
        self, learner: Learner, rows: int, lengths: Sequence[int], *, on_features: bool
    ) -> None:
        self._learner, self._rows, self._lengths = learner, rows, list(lengths)
        longest = learner.longest
        all_lengths = [length or longest for length in self._lengths for _ in range(rows)]
        examples = invented_examples(learner, all_lengths)
        features = _features(learner, len(examples)) if on_features else None
        self._examples = replace(examples, features=features)

    def batch(self, length: int, *, alone: bool = False) -> Batch:
        """Of texts of this many tokens, or of features; of one of them if `alone`."""
        first = self._lengths.index(length) * self._rows
        rows = np.arange(first, first + (1 if alone else self._rows))
        learner = self._learner
        device = learner.network.device
        return make_batch(self._examples, rows, learner.inputs, device, length or None)


class UpTo:
    """Fills what the records of an answer cost up to `most`."""

    def __init__(
        self, costs: Costs, invented: Invented, most: float, done: float = 0.0, steps: int = 0
    ) -> None:
        """done, steps: what was spent on the same answer before, in vain."""
        self._costs, self._invented, self._most = costs, invented, most
        self.done, self.steps = done, steps

    def passed(self, batch: Batch) -> None:
        self.done += self._costs.of(batch)

    def stepped(self) -> None:
        self.steps += 1

    def fill(self, spend: Spend) -> None:
        """Passes of the greatest length, and shorter ones at the end.

        Whether there is one more for the last bit is left to chance, so that the mean tells nothing of it.
        """
        ladder = sorted(zip(self._costs.whole, self._costs.lengths, strict=True))
        times = max(1, math.ceil(self.done / self._most)) if self._most > 0 else 0
        if times > 1:
            _log.warning(
                "an answer took %.0f passes instead of the planned %.0f, and leaves after %d times that: "
                "an observer learns that it took long. If files have grown since their size was "
                "published: umbel client publish-size.", self.done, self._most, times,
            )  # fmt: skip
        least = ladder[0][0]
        try:
            while (left := times * self._most - self.done) > 0:
                if left < least and left / least <= _chance.random():
                    break
                cost, length = [step for step in ladder if step[0] <= max(left, least)][-1]
                spend(partial(self._invented.batch, length))
                self.done += cost
        except Exception:
            # What the records came to is worth more than to leave late.
            _log.exception("an answer could not be filled up, so it leaves early")


def _shape(batch: Batch) -> tuple[int, int]:
    """Rows, and numbers that the base model takes in of each."""
    if "features" in batch:
        return len(batch["features"]), NO_LENGTH
    taken = next(values for name, values in batch.items() if name not in BESIDE)
    return len(taken), math.prod(taken.shape[1:])


def _features(learner: Learner, rows: int) -> np.ndarray:
    drawn = np.random.default_rng(7).normal(0, 1, (rows, feature_width(learner)))
    return drawn.astype(np.float32)
