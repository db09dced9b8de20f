"""The company that a probed text is put into: alone, beside others, moved, beside the longest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..invented import sizes_of, unlike_sizes
from ..model import Learner
from ..network import Batch


@dataclass(frozen=True)
class Pass:
    """Texts that go through the network together: places of known ones, or -1 for neighbours."""

    texts: list[np.ndarray]
    places: list[int]
    padded_otherwise: bool = False
    """Whether masked positions hold other tokens than the padding token."""


COUNTS = (3, 5, 7)
"""Number of texts that are compared: if possible, one that no axis of the model has."""

Groups = list[tuple[str, list[Pass]]]
"""Where a difference was seen, and passes that together have every known text once."""


class Company:
    """A few invented texts, and the passes that they are compared in, `size` texts at most in one.

    Shapes differ from pass to pass, and the number of texts is never the number of tokens: an axis
    could be taken for the other.
    """

    def __init__(self, learner: Learner, size: int) -> None:
        self._learner, self._size = learner, size
        self._limit = learner.longest
        sizes = sizes_of(learner.network.backbone.config) | {self._limit}
        longest = unlike_sizes((11, 13, 10, 9, 17, 7, 6, 4), sizes)
        self.longest = min(longest, self._limit)
        count = unlike_sizes(COUNTS, sizes | {self.longest})
        lengths = [self.longest, 3, 7, 5, 9, 4, 6][:count]
        lengths = [min(length, self.longest) for length in lengths]
        self.texts = learner.inputs.invented(lengths)

    def alone(self) -> list[Pass]:
        return [Pass([text], [place]) for place, text in enumerate(self.texts)]

    def groups(self) -> Groups:
        """Beside texts of ``max_length``, then beside each other and moved, then alone again.

        And with other padding: if only the padding token's own row of zeros kept it from others, one
        step of training, or another token, would let it through. Heads of an architecture's own may look
        for the padding token itself, and in texts of one length the padding is always the same.
        """
        order = list(range(len(self.texts)))
        parts = [p for o in (order[::-1][:2], order[::-1][2:]) for p in self.passes(o)]
        groups = [
            (f"beside a text of {self._limit} tokens", self.beside_long()),
            ("beside others", self.passes(order)),
            ("moved into another microbatch", parts),
            (f"after a text of {self._limit} tokens", self.alone()),
        ]
        job = self._learner.job
        if job.model.padding == "longest" and not job.own_head:
            others = [replace(one, padded_otherwise=True) for one in self.passes(order)]
            groups.append(("with the content of masked positions", others))
        return groups

    def beside_long(self) -> list[Pass]:
        """Every text once beside texts of ``max_length``; the first pass has as many as training."""
        size, order = self._size, list(range(len(self.texts)))
        if size == 1:
            # Alone in every pass of training: there is no neighbour.
            return [Pass(self._long(1), [-1]), *self.alone()]
        # Never as many texts as tokens: an axis could be taken for the other.
        count = size - (size == self._limit and size > 2)
        passes = []
        for start in range(0, len(order), count - 1):
            places = order[start : start + count - 1]
            long = self._long(count - len(places) if start == 0 else 1)
            whole = [self.texts[place] for place in places]
            passes.append(Pass([long[0], *whole, *long[1:]], [-1, *places, *[-1] * len(long[1:])]))
        return passes

    def _long(self, count: int) -> list[np.ndarray]:
        return self._learner.inputs.invented([self._limit] * count, seed=1)

    def passes(self, order: Sequence[int]) -> list[Pass]:
        parts = [order[start : start + self._size] for start in range(0, len(order), self._size)]
        return [Pass([self.texts[p] for p in part], list(part)) for part in parts]

    def batch(self, one: Pass) -> Batch:
        batch = self._learner.batch_of(one.texts)
        if one.padded_otherwise:
            batch = self._learner.inputs.padded_otherwise(batch)
        classes = max(2, len(self._learner.job.data.labels or ()))
        labels = [place % classes for place in one.places]
        return batch | {"labels": torch.tensor(labels, device=self._learner.network.device)}
