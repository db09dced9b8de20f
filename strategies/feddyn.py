"""FedDyn: each owner's loss gets a linear term, by which all local optima move to the common one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..wire.arrays import Arrays
from .contract import LocalRule, Rule, Shapes, Told, told_number
from .stateful import not_under_client_level

if TYPE_CHECKING:
    from torch import Tensor

    from ..job import Job

_ALPHA = "dynamic-alpha"


class DynamicLoss(LocalRule):
    """loss - <h_k, theta> + alpha / 2 |theta - theta_t|^2, then h_k <- h_k - alpha (theta_k - theta_t)
    (Acar et al. 2021, Alg. 1)."""

    def __init__(self, told: Told) -> None:
        super().__init__(told)
        self._alpha = told_number(told, _ALPHA, above=True)
        self._linear: dict[str, Tensor] = {}

    @classmethod
    def state(cls, shapes: Shapes) -> Shapes:
        return shapes

    def correct(self, name: str, gradient: Tensor, weight: Tensor, start: Tensor) -> None:
        if name not in self._linear:
            self._linear[name] = gradient.new_tensor(self.own[name])
        gradient.sub_(self._linear[name]).add_(weight - start, alpha=self._alpha)

    def next_state(self, update: Arrays) -> Arrays:
        alpha = np.float32(self._alpha)
        return {name: own - alpha * update[name] for name, own in self.own.items()}


class FedDyn(Rule):
    """FedDyn (Acar et al. 2021, Alg. 1): h <- h - alpha |P| / m * mean update, then theta <- theta + mean
    update - h / alpha.

    h is the mean of all h_k, and |P| / m the cohort's share of the weight.
    """

    local = DynamicLoss
    when = "Like SCAFFOLD, but each owner's own optimum moves to the common one."

    def __init__(self, alpha: float = 0.01) -> None:
        if not 0 < alpha < math.inf:
            raise ValueError(f"alpha = {alpha} must be above 0")
        self._alpha, self._share = alpha, 0.0
        self._h: dict[str, np.ndarray] = {}

    @classmethod
    def refusals(cls, job: Job) -> Iterator[str]:
        return not_under_client_level(job, "FedDyn")

    def told(self, round_: int) -> Mapping[str, float]:
        return {_ALPHA: self._alpha}

    def summed(self, share: float, rates: float) -> None:
        self._share = share

    def next_model(
        self, model: Arrays, mean_update: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        following: dict[str, np.ndarray] = {}
        for name, mean in mean_update.items():
            h = self._h.get(name, np.zeros_like(mean)) - self._alpha * self._share * mean
            self._h[name] = h
            following[name] = model[name] + mean - h / self._alpha
        return following
