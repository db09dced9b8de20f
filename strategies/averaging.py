"""Strategies that add the mean update: FedAvg, FedAvgM, FedProx."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..wire.arrays import Arrays
from .contract import LocalRule, Rule, Told, told_number

if TYPE_CHECKING:
    from torch import Tensor

PROXIMAL_MU = "proximal-mu"
"""As Flower's own FedProx tells it."""


class FedAvg(Rule):
    """Federated averaging (McMahan et al. 2017, Alg. 1): w <- w + learning_rate * mean update."""

    when = "First. On LoRA it is FedIT: the mean of A and the mean of B."

    def __init__(self, learning_rate: float = 1.0) -> None:
        self._learning_rate = _positive("learning_rate", learning_rate)

    def next_model(
        self, model: Arrays, mean_update: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        following = {name: self._learning_rate * update for name, update in mean_update.items()}
        for name in following:
            following[name] += model[name]
        return following


class FedAvgM(FedAvg):
    """FedAvg with server momentum (Hsu et al. 2019, sec. 4.3): v <- momentum * v + mean update."""

    when = "Updates that change direction from round to round, as with clients that differ."

    def __init__(self, learning_rate: float = 1.0, momentum: float = 0.9) -> None:
        super().__init__(learning_rate)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum = {momentum} must lie in [0, 1)")
        self._momentum = momentum
        self._velocity: dict[str, np.ndarray] = {}

    def next_model(
        self, model: Arrays, mean_update: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        for name, update in mean_update.items():
            self._velocity[name] = self._momentum * self._velocity.get(name, 0.0) + update
        return super().next_model(model, {name: self._velocity[name] for name in mean_update})


class Proximal(LocalRule):
    """Pulls every step towards the global model (Li et al. 2020, eq. 2): g <- g + mu (w - w_t)."""

    def __init__(self, told: Told) -> None:
        super().__init__(told)
        self._mu = told_number({PROXIMAL_MU: 0.0, **told}, PROXIMAL_MU)

    def correct(self, name: str, gradient: Tensor, weight: Tensor, start: Tensor) -> None:
        if self._mu:
            gradient.add_(weight - start, alpha=self._mu)


class FedProx(FedAvg):
    """FedAvg whose clients are pulled towards the global model (Li et al. 2020, Alg. 2)."""

    local = Proximal
    when = "Many local steps at clients that differ: they would drift apart."

    def __init__(self, proximal_mu: float = 0.01, learning_rate: float = 1.0) -> None:
        super().__init__(learning_rate)
        if not 0 <= proximal_mu < math.inf:
            raise ValueError(f"proximal_mu = {proximal_mu} must be 0 or more")
        self._mu = proximal_mu

    def told(self, round_: int) -> Mapping[str, float]:
        return {PROXIMAL_MU: self._mu}


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"{name} = {value} must be above 0")
    return value
