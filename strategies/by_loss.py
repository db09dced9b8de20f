"""Strategies that give owners with a high loss more weight: q-FedAvg and AFL.

The weight is in what an owner sends: its update times a number that follows from its loss, and beside it
that number, whose sum is the normaliser. So one sum is enough, and no single loss is seen under encryption.

Noise in an update's steps does not cover a loss that multiplies it. So under example- and group-level
privacy each owner releases its clipped mean loss with the whole noise itself, once a round, is charged for
it beside the steps, and uses that one noised value for the weight and for the normaliser alike. The proof
is in ``planning.losses``, the mechanism in ``privacy.noise.loss_noise``. Client level is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from ..wire.arrays import Arrays
from .charged_loss import ChargedLoss
from .contract import Channel, LocalRule, Rule, Shapes, Told, told_number

_SHARE, _ONE, _NEXT = "share", "normaliser", "next-normaliser"
_REACH, _FARTHER = 2.0**6, 2.0**12
_LEAST = 1e-10
"""Added to a loss, whose power below 1 may be asked for."""
_Q, _GAMMA, _OFFSET = "q", "afl-gamma", "offset"
_LARGEST_Q = 16
"""Beyond, powers of losses leave the range of float32."""
_MOST = 20.0
"""Largest logarithm of a lambda, whose mean is 1: more than any cohort needs, and no overflow."""


class _Weighted(LocalRule):
    """The update times `weight`, and the normaliser's part beside it."""

    needs_loss = True

    def weight(self) -> float:
        raise NotImplementedError

    def part(self, update: Arrays) -> float:
        """Of the normaliser."""
        return self.weight()

    def sends(self, update: Arrays) -> Arrays:
        weight = np.float32(self.weight())
        return {name: weight * array for name, array in update.items()}

    def further(self, update: Arrays) -> Mapping[str, Arrays]:
        return {_ONE: {_SHARE: np.array([self.part(update)], np.float32)}}


class _Normalised(Rule):
    """w <- w + learning_rate * sum of weighted updates / sum of the normaliser's parts."""

    local: ClassVar[type[LocalRule] | None] = _Weighted

    def __init__(self, learning_rate: float, loss_share: float, loss_clip: float) -> None:
        """loss_share, loss_clip: as ``ChargedLoss`` has them, of a private job."""
        if not learning_rate > 0:
            raise ValueError(f"learning_rate = {learning_rate} must be above 0")
        self._learning_rate, self._normaliser = learning_rate, 1.0
        self.charged = ChargedLoss(loss_share, loss_clip)

    def channels(self, shapes: Shapes) -> tuple[Channel, ...]:
        return (Channel("update", shapes), Channel(_ONE, {_SHARE: (1,)}, reach=_REACH))

    def hear(self, channel: str, name: str, mean: np.ndarray) -> None:
        self._normaliser = float(mean[0])

    def next_model(
        self, model: Arrays, mean_update: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        # If nobody has any weight, nothing moves.
        rate = self._learning_rate / self._normaliser if self._normaliser > 0 else 0.0
        return {name: model[name] + rate * mean for name, mean in mean_update.items()}


class LossToTheQ(_Weighted):
    """F^q times the update, with F the loss of the model that came (Li et al. 2020, Alg. 2). The part of the
    normaliser is h / L = F^q + q F^(q - 1) L |update|^2, with L = 1 / learning rate.

    Both are divided by C^q, with C the clip of a released loss. The quotient of the sums is the same, and a
    weight is then at most 1, so that it takes no update beyond the bound of a sum.
    """

    def __init__(self, told: Told) -> None:
        super().__init__(told)
        self._q = told_number(told, _Q)

    @property
    def _relative(self) -> float:
        """F / C: of a released loss at most 1, but for ``_LEAST`` / C."""
        return (self.loss + _LEAST) / self.loss_clip

    def weight(self) -> float:
        return float(self._relative**self._q)

    def part(self, update: Arrays) -> float:
        squares = math.fsum(float(np.square(a, dtype=np.float64).sum()) for a in update.values())
        lipschitz = self.steps / self.rates if self.rates else 0.0
        steep = self._q * self._relative ** (self._q - 1)
        return self.weight() + float(steep * lipschitz / self.loss_clip * squares)


class QFedAvg(_Normalised):
    """q-FedAvg (Li et al. 2020, arXiv 1905.10497, Alg. 2): w + (sum of F_k^q d_k) / (sum of h_k / L).

    F_k is the loss of the model that came on the owner's training records, d_k its update, and h_k an upper
    bound of the curvature of F_k^(q + 1). L is 1 / the round's mean learning rate. With q = 0 it is FedAvg.
    """

    local = LossToTheQ
    when = "Accuracy that is alike at all owners; the larger q, the more alike."

    def __init__(
        self,
        q: float = 0.1,
        learning_rate: float = 1.0,
        loss_share: float = 0.1,
        loss_clip: float = 0.0,
    ) -> None:
        super().__init__(learning_rate, loss_share, loss_clip)
        if not 0 <= q <= _LARGEST_Q:
            raise ValueError(f"q = {q} must be from 0 to {_LARGEST_Q}")
        self._q = q

    def told(self, round_: int) -> Mapping[str, float]:
        return {_Q: self._q}


class MultiplicativeWeight(_Weighted):
    """lambda times the update, then log-lambda <- log-lambda + gamma * loss of the model that came."""

    def __init__(self, told: Told) -> None:
        super().__init__(told)
        self._gamma = told_number(told, _GAMMA, above=True)

    @classmethod
    def state(cls, shapes: Shapes) -> Shapes:
        return {"log-lambda": (1,), "known": (1,)}

    @classmethod
    def hears(cls, shapes: Shapes) -> Shapes:
        return {_OFFSET: (1,)}

    @property
    def _log(self) -> float:
        """log-lambda; of an owner without a state, which joined late or lost it, everybody's mean."""
        return float((self.own["log-lambda"] if self.own["known"][0] else self.heard[_OFFSET])[0])

    def weight(self) -> float:
        log = self._log - float(self.heard[_OFFSET][0])
        return math.exp(max(-_MOST, min(_MOST, log)))

    def further(self, update: Arrays) -> Mapping[str, Arrays]:
        grown = self.weight() * math.exp(min(_MOST, self._gamma * self.loss))
        return {**super().further(update), _NEXT: {_SHARE: np.array([grown], np.float32)}}

    def next_state(self, update: Arrays) -> Arrays:
        grown = np.array([self._log + self._gamma * self.loss], np.float32)
        return {"log-lambda": grown, "known": np.ones(1, np.float32)}


class Afl(_Normalised):
    """AFL (Mohri et al. 2019, arXiv 1902.00146): w + sum of lambda_k d_k / sum of lambda_k; lambda_k grows by
    exp(gamma F_k) a round.

    The paper projects lambda onto the simplex, for which somebody must see every loss; with multiplicative
    weights (exponentiated gradient ascent) each owner keeps its own log-lambda, and the sum is the
    normaliser. The sum of the next lambdas gives their common `offset`, with which their mean is 1; an owner
    without a state begins with that mean.
    """

    local = MultiplicativeWeight
    when = "The worst-served owner: its loss decides more and more."

    def __init__(
        self,
        gamma: float = 0.1,
        learning_rate: float = 1.0,
        loss_share: float = 0.1,
        loss_clip: float = 0.0,
    ) -> None:
        super().__init__(learning_rate, loss_share, loss_clip)
        if not 0 < gamma < math.inf:
            raise ValueError(f"gamma = {gamma} must be above 0")
        self._gamma, self._offset = gamma, 0.0

    def told(self, round_: int) -> Mapping[str, float]:
        return {_GAMMA: self._gamma}

    def channels(self, shapes: Shapes) -> tuple[Channel, ...]:
        return (*super().channels(shapes), Channel(_NEXT, {_SHARE: (1,)}, reach=_FARTHER))

    def sent(self, model: Arrays) -> Arrays:
        return {_OFFSET: np.array([self._offset], np.float32)}

    def hear(self, channel: str, name: str, mean: np.ndarray) -> None:
        if channel == _ONE:
            super().hear(channel, name, mean)
        elif float(mean[0]) > 0:
            self._offset += math.log(float(mean[0]))
