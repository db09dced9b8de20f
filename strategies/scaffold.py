"""SCAFFOLD: every step is corrected by how far the owner's gradients differ from everybody's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..wire.arrays import Arrays
from .averaging import FedAvg
from .contract import LocalRule, Shapes, Told
from .stateful import not_under_client_level

if TYPE_CHECKING:
    from torch import Tensor

    from ..job import Job


class ControlVariate(LocalRule):
    """y <- y - eta (g - c_k + c), then c_k <- c_k - c + (x - y) / (K eta)
    (Karimireddy et al. 2020, Alg. 1, option II).

    K eta is the sum of the round's learning rates. Under example- and group-level privacy g is a step's
    clipped and noised gradient and x - y what such steps came to, so both formulas are post-processing.
    """

    def __init__(self, told: Told) -> None:
        super().__init__(told)
        self._shift: dict[str, Tensor] = {}

    @classmethod
    def state(cls, shapes: Shapes) -> Shapes:
        return shapes

    @classmethod
    def hears(cls, shapes: Shapes) -> Shapes:
        return shapes

    def correct(self, name: str, gradient: Tensor, weight: Tensor, start: Tensor) -> None:
        if name not in self._shift:
            self._shift[name] = gradient.new_tensor(self.heard[name] - self.own[name])
        gradient.add_(self._shift[name])

    def next_state(self, update: Arrays) -> Arrays:
        return {
            name: own - self.heard[name] - update[name] / np.float32(self.rates)
            for name, own in self.own.items()
        }


class Scaffold(FedAvg):
    """SCAFFOLD (Karimireddy et al. 2020, Alg. 1, lines 16 and 17): x <- x + learning_rate * mean(y - x),
    c <- c + |S| / N * mean(c_k' - c_k).

    The mean change of the c_k of the cohort S is -c - mean(y - x) / (K eta), so it follows from the mean
    update, and nothing more is sent. That holds because all owners take steps of the same learning rates.
    If owners weigh differently, c is the mean of the c_k with these weights, and |S| / N a share of weight.
    """

    local = ControlVariate
    when = "Clients whose data differ, many local steps, and owners that come back."

    def __init__(self, learning_rate: float = 1.0) -> None:
        super().__init__(learning_rate)
        self._c: dict[str, np.ndarray] = {}
        self._share, self._rates = 0.0, 0.0

    @classmethod
    def refusals(cls, job: Job) -> Iterator[str]:
        spec = job.training
        if spec.optimizer != "sgd" or spec.momentum or spec.weight_decay:
            yield (
                "SCAFFOLD's control variates are mean gradients only if a step is the learning rate times "
                'the gradient: set training.optimizer = "sgd" with a learning_rate for it, without momentum '
                'and weight_decay; or take strategy.name = "feddyn", which goes with any optimizer'
            )
        yield from not_under_client_level(job, "SCAFFOLD")

    def sent(self, model: Arrays) -> Arrays:
        return {n: self._c.get(n, np.zeros(w.shape)).astype(np.float32) for n, w in model.items()}

    def summed(self, share: float, rates: float) -> None:
        self._share, self._rates = share, rates

    def next_model(
        self, model: Arrays, mean_update: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        for name, mean in mean_update.items():
            c = self._c.get(name, np.zeros_like(mean))
            self._c[name] = c - self._share * (c + mean / self._rates)
        return super().next_model(model, mean_update)
