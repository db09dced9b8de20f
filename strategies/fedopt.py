"""Adaptive server optimizers (Reddi et al. 2021, "Adaptive Federated Optimization", Alg. 2).

With d the mean update, all of them keep m <- beta_1 m + (1 - beta_1) d and step
w <- w + learning_rate * m / (sqrt(v) + tau); they differ in v, which starts at tau^2.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from ..wire.arrays import Arrays
from .contract import Rule


class _FedOpt(Rule):
    def __init__(
        self,
        learning_rate: float = 0.01,
        beta_1: float = 0.9,
        beta_2: float = 0.99,
        tau: float = 1e-3,
    ) -> None:
        if not (learning_rate > 0 and tau > 0 and 0 <= beta_1 < 1 and 0 <= beta_2 < 1):
            raise ValueError("learning_rate and tau must be above 0, beta_1 and beta_2 in [0, 1)")
        self._learning_rate, self._tau = learning_rate, tau
        self._beta_1, self._beta_2 = beta_1, beta_2
        self._m: dict[str, np.ndarray] = {}
        self._v: dict[str, np.ndarray] = {}

    @abstractmethod
    def _second_moment(self, v: np.ndarray, square: np.ndarray) -> np.ndarray:
        """The next v from the last one and the squared mean update."""

    def next_model(
        self, model: Arrays, mean_update: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        following: dict[str, np.ndarray] = {}
        for name, d in mean_update.items():
            m = self._m.get(name, np.zeros_like(d))
            v = self._v.get(name, np.full_like(d, self._tau**2))
            self._m[name] = self._beta_1 * m + (1 - self._beta_1) * d
            self._v[name] = self._second_moment(v, d * d)
            step = self._m[name] / (np.sqrt(self._v[name]) + self._tau)
            following[name] = model[name] + self._learning_rate * step
        return following


class FedAdam(_FedOpt):
    """FedAdam (Reddi et al. 2021, Alg. 2): v <- beta_2 v + (1 - beta_2) d^2"""

    when = "Tensors that move at very different rates, with many rounds."

    def _second_moment(self, v: np.ndarray, square: np.ndarray) -> np.ndarray:
        return self._beta_2 * v + (1 - self._beta_2) * square


class FedYogi(_FedOpt):
    """FedYogi (Reddi et al. 2021, Alg. 2): v <- v - (1 - beta_2) d^2 sign(v - d^2)"""

    when = "As FedAdam, if some rounds are far larger than others: v changes slowly."

    def _second_moment(self, v: np.ndarray, square: np.ndarray) -> np.ndarray:
        return v - (1 - self._beta_2) * square * np.sign(v - square)


class FedAdagrad(_FedOpt):
    """FedAdagrad (Reddi et al. 2021, Alg. 2): v <- v + d^2"""

    when = "As FedAdam, if features are rare: steps only get smaller."

    def _second_moment(self, v: np.ndarray, square: np.ndarray) -> np.ndarray:
        return v + square
