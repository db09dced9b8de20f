"""What the rules share that move the base: exact mean products, of which a part is put into the residual."""

from __future__ import annotations

import math

import numpy as np

from ..wire.arrays import Arrays
from ..wire.residual_names import names_beside
from .products import MeanProduct, Products, pairs_in
from .residual import fold, residual_in

Added = tuple[np.ndarray, np.ndarray]
"""left (m, s) and right (s, n) float64: what a round adds to a layer's residual is their product."""


class Rebasing(Products):
    """Two sums, the next factors, and what is put into the base instead of them (``residual``).

    Guarantee: owners send what they send with every rule of exact products, and nothing of the residual. It
    follows from opened sums and from the options, so it is post-processing of these.
    """

    def __init__(self, residual_rank: int = 64) -> None:
        """residual_rank: columns of a layer's residual, at most min(m, n).

        It is exact while that is at least min(m, n), or the sum of all ranks that were put into it.
        """
        super().__init__()
        if isinstance(residual_rank, bool) or not isinstance(residual_rank, int):
            raise ValueError(f"residual_rank = {residual_rank!r} must be a whole number")
        if not 1 <= residual_rank < 2**16:
            raise ValueError(f"residual_rank = {residual_rank} must be from 1 to 65,535")
        self.residual = residual_rank
        self._added: dict[str, Added] = {}

    def next_model(
        self, model: Arrays, mean_update: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Of all tensors at once, residuals among them."""
        following = super().next_model(model, mean_update)
        residual, dropped = residual_in(model), []
        for pair in pairs_in(model):
            name_b, name_a = names_beside(pair.b)
            b, a = (residual[name].astype(np.float64) for name in (name_b, name_a))
            folded = fold(b, a, *self._added.pop(pair.b))
            following |= {name_b: folded.b, name_a: folded.a}
            dropped.append(folded.dropped)
        self.dropped = math.hypot(*dropped)
        return following

    def combined(
        self, mean: MeanProduct, b: np.ndarray, a: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        b, a, self._added[mean.pair.b] = self.parted(mean, b, a)
        return b, a

    def parted(
        self, mean: MeanProduct, b: np.ndarray, a: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, Added]:
        """The mean product as B (m, r), A (r, n), and what is put into the base.

        b, a: the means of the owners' factors, if the rule is `padded`.
        """
        raise NotImplementedError
