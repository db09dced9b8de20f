"""Strategies that add the mean update: FedAvg, FedAvgM, FedProx."""

from __future__ import annotations

import numpy as np

from ..wire.arrays import Arrays
from .base import SumStrategy


class FedAvg(SumStrategy):
    """Federated averaging (McMahan et al. 2017, Alg. 1): w <- w + learning_rate * mean update."""

    def __init__(self, learning_rate: float = 1.0, *, total_weight: int = 2**20) -> None:
        super().__init__(total_weight)
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

    def __init__(
        self, learning_rate: float = 1.0, momentum: float = 0.9, *, total_weight: int = 2**20
    ) -> None:
        super().__init__(learning_rate, total_weight=total_weight)
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


class FedProx(FedAvg):
    """FedAvg whose clients are pulled towards the global model (Li et al. 2020, eq. 2)."""

    def __init__(
        self, proximal_mu: float = 0.01, learning_rate: float = 1.0, *, total_weight: int = 2**20
    ) -> None:
        super().__init__(learning_rate, total_weight=total_weight)
        if proximal_mu < 0:
            raise ValueError(f"proximal_mu = {proximal_mu} must not be negative")
        self._mu = proximal_mu

    def client_config(self) -> dict[str, float]:
        return {"proximal-mu": self._mu}


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"{name} = {value} must be above 0")
    return value
