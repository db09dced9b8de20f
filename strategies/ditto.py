"""Ditto: beside the shared model each owner trains one of its own, which is pulled towards the shared one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .averaging import FedAvg
from .contract import LocalRule, Told, told_number

if TYPE_CHECKING:
    from torch import Tensor

_LAMBDA = "ditto-lambda"


class PulledToShared(LocalRule):
    """v <- v - eta (gradient at v + lambda (v - w)), with w the model that came
    (Li et al. 2021, Alg. 1, line 6)."""

    def __init__(self, told: Told) -> None:
        super().__init__(told)
        self._lambda = told_number(told, _LAMBDA)
        self._shared: dict[str, Tensor] = {}

    def correct(self, name: str, gradient: Tensor, weight: Tensor, start: Tensor) -> None:
        if name not in self._shared:
            self._shared[name] = gradient.new_tensor(self.shared[name])
        gradient.add_(weight - self._shared[name], alpha=self._lambda)


class Ditto(FedAvg):
    """Ditto (Li et al. 2021, arXiv 2012.04221, Alg. 1): w by FedAvg; beside it each owner trains its own v on
    loss + lambda / 2 |v - w|^2.

    The shared model never sees v, so what leaves is FedAvg's, with FedAvg's privacy, and v is trained
    without noise. So nothing of v leaves, and no figure of it either.
    """

    apart = PulledToShared
    when = (
        "A shared model for everybody, and a model of its own for each owner, whatever the adapter."
    )

    def __init__(self, pull: float = 0.1, learning_rate: float = 1.0) -> None:
        super().__init__(learning_rate)
        if not 0 <= pull < math.inf:
            raise ValueError(f"pull = {pull} must be 0 or more")
        self._pull = pull

    def told(self, round_: int) -> Mapping[str, float]:
        return {_LAMBDA: self._pull}
