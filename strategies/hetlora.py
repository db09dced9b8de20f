"""HetLoRA: factors of different ranks, padded with zeros and weighted by how much their products move."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..wire.arrays import Arrays
from .averaging import FedAvg
from .channels import reach_for
from .contract import UPDATE, Channel, Shapes
from .factors import factor_of, squared_norm, without_factors
from .products import OwnRank, pairs_in

if TYPE_CHECKING:
    from ..job import Job

_WEIGHTED, _NORMS, _ALL = "weighted-factors", "norms", "product"
_LEAST = 2.0**-4


class WeightedFactors(OwnRank):
    """Sends its factors times s = ||B A||, over all layers together, and s, in place of the factors' changes.

    With the sums of the changes, too, those of two owners could be taken apart by one equation, as s is the
    norm of their product (tests/strategies/test_taken_apart.py).
    """

    def further(self, update: Arrays) -> Mapping[str, Arrays]:
        begun = self.begins(self.model)
        own = {n: begun[n] + moved for n, moved in update.items() if factor_of(n)}
        found = [pair.factors(own) for pair in pairs_in(own)]
        s = math.sqrt(math.fsum(max(0.0, squared_norm(b, a)) for b, a in found))
        weighted = {name: (s * array).astype(np.float32) for name, array in own.items()}
        return {_WEIGHTED: weighted, _NORMS: {_ALL: np.array([s], np.float32)}}


class HetLora(FedAvg):
    """HetLoRA (Cho et al. 2024, arXiv 2401.06432, sec. 3.2): A and B are means of padded factors, by weights
    s_k = ||B_k A_k||.

    Factors of a smaller rank are padded with zeros to the largest. One sum, so the mean product is inexact.
    The weight multiplies the owner's factors before they are summed, and the sum of the s_k divides them. If
    all s_k are 0, the factors stay as they are.
    (The paper also lets owners prune their ranks; here an owner sets its own.)
    """

    fits = ("lora",)
    local = WeightedFactors
    ranked = True
    when = "Different ranks per owner with one sum, at the bytes of plain averaging."

    def __init__(self) -> None:
        super().__init__()
        self._weighted: dict[str, np.ndarray] = {}
        self._norm = 0.0

    @classmethod
    def refusals(cls, job: Job) -> Iterator[str]:
        if job.per_client:
            yield (
                "HetLoRA sends each owner's factors themselves, and client-level privacy clips a change: set "
                'strategy.name = "ffa-lora", or privacy.unit = "example"'
            )

    def channels(self, shapes: Shapes) -> tuple[Channel, ...]:
        factors = {name: shape for name, shape in shapes.items() if factor_of(name)}
        if not factors:
            return (Channel(UPDATE, shapes),)
        weighted, norms = Channel(_WEIGHTED, factors, _LEAST), Channel(_NORMS, {_ALL: (1,)}, _LEAST)
        return (Channel(UPDATE, without_factors(shapes)), weighted, norms)

    def scales(self, model: Arrays, asked: Arrays | None = None) -> Mapping[str, float]:
        """Bounds of s, and of s times an entry, over the bound c of an update's entries.

        ||(B + dB) (A + dA)|| <= (||B|| + c sqrt(m r)) (||A|| + c sqrt(r n)), in Frobenius norms.
        """
        c, squares, largest = self.clip, 0.0, 0.0
        for pair in pairs_in(model):
            each = [
                float(np.linalg.norm(factor)) + c * math.sqrt(factor.size)
                for factor in pair.factors(model)
            ]
            squares += math.prod(each) ** 2
            largest = max(largest, *(float(np.abs(f).max()) + c for f in pair.factors(model)))
        most = math.sqrt(squares)
        found = {_WEIGHTED: most * largest / c, _NORMS: most / c}
        return {name: reach_for(far, _LEAST) for name, far in found.items()}

    def hear(self, channel: str, name: str, mean: np.ndarray) -> None:
        if channel == _NORMS:
            self._norm = float(mean[0])
        else:
            self._weighted[name] = mean

    def next_model(
        self, model: Arrays, mean_update: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        following = super().next_model(model, mean_update)
        for name in model.keys() & self._weighted.keys():
            weighted = self._weighted.pop(name)
            if self._norm > 0:
                following[name] = weighted / self._norm
        return following
