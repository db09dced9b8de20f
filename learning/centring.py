"""Steps around the centre of the features, for a linear head whose loss is a softmax cross-entropy.

Features of a frozen base model are equally long, and those of similar records, such as pictures of one
kind, nearly agree: their mean m is almost as long as each of them. A gradient (p - y) x^T of the head then
says mostly that common part, and clipped to C little is left of what tells records apart; without a clip,
steps overshoot along m. Around the centre, with z = s (x - m), neither holds.

**Where the centre is kept.** A softmax does not change if one number is added to all of a record's logits.
So the mean over classes of the head's rows says nothing (a free part of the weights W and of the biases b).
It carries the centre: nothing else travels, and no prediction changes by it. In the first
``training.centre_rounds`` rounds a record's loss is -a times the sum of its logits, whose gradient is -a x
for each row of W and -a for each bias. The job's own steps add that up, with clip, noise and secure sum as
always. The free part of W over that of b is then the mean feature, whatever the rates, weights and sizes of
owners. Later rounds leave the free part as it is.

Guarantee under example-level privacy: a round is what the accountant takes it for, T noised steps. The
centre follows from the weights that everybody receives, a record's gradient around it from that record and
those weights, and it is clipped to the same C as any. What is made of a step's noised sum afterwards, the
mean over classes in the first rounds and what takes it out in later ones, is post-processing (Dwork and Roth
2014, Prop. 2.1).

Assumption: every owner takes the same steps, under plain averaging and SGD, which move W and b at one rate.
A member that does not moves the centre as far as it can move any weights, and with it how fast others learn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..job import Job, TrainingSpec
from ..job.centre import MOST_STRETCH
from ..job.rate import learning_rate
from ..wire.arrays import Arrays
from .network import Batch, Network
from .tasks.task import Objective

_KEPT = 0.1
_LEAST = 1e-6
"""From so small a free part of the biases on there is a centre."""


class View(Protocol):
    """The coordinates in which a round's steps are taken, and what they learn."""

    def load(self, network: Network, arrays: Mapping[str, np.ndarray]) -> None:
        """Set all that travels, for this round's steps."""
        ...

    def losses(self, module: nn.Module, task: Objective, batch: Batch) -> Tensor:
        """Loss of each example, float32[B]; it depends on that example alone."""
        ...

    def update(self, moved: Arrays) -> Arrays:
        """What has to be added to the loaded arrays, by how far the trained tensors moved."""
        ...


class Usual(View):
    """The weights as they travel, and the task's loss."""

    def load(self, network: Network, arrays: Mapping[str, np.ndarray]) -> None:
        network.load(arrays)

    def losses(self, module: nn.Module, task: Objective, batch: Batch) -> Tensor:
        return task.losses(module(batch), batch)

    def update(self, moved: Arrays) -> Arrays:
        return moved


@dataclass(frozen=True)
class Measuring(Usual):
    """A round that adds up features in the free part; every record adds as much, at most the clip."""

    part: float
    """a: the gradient of each bias, but for its sign."""
    rates: float
    """Learning rates of all steps of such rounds, added up."""

    def losses(self, module: nn.Module, task: Objective, batch: Batch) -> Tensor:
        found: Tensor = module(batch)
        return -self.part * found.sum(-1)

    def update(self, moved: Arrays) -> Arrays:
        """Nearly the same for all classes: what differs between them is noise.

        A tenth of it stays: if classes were equal, rounding would decide what the model says, and owners
        refuse such weights (``probing.received``). The free part of b becomes the share of a batch that
        owners have, so logits stay small.
        """
        found = {}
        for name, array in moved.items():
            free = _free(array)
            whole = free / (self.rates * self.part) + _KEPT * (array - free)
            found[name] = whole.astype(np.float32)
        return found


class Around(View):
    """Steps in z = s (x - c), with the weights of z: W_z = W / s, b_z = b + W c, without their free part."""

    def __init__(self, weight: str, bias: str, centre: np.ndarray, stretch: float) -> None:
        """centre: float64[inputs of the head]."""
        self._weight, self._bias = weight, bias
        self._centre, self._stretch = centre, stretch

    def load(self, network: Network, arrays: Mapping[str, np.ndarray]) -> None:
        weight, bias = (
            (array := arrays[name].astype(np.float64)) - _free(array)
            for name in (self._weight, self._bias)
        )
        seen = {self._weight: weight / self._stretch, self._bias: bias + weight @ self._centre}
        network.load({**arrays, **{name: a.astype(np.float32) for name, a in seen.items()}})

    def losses(self, module: nn.Module, task: Objective, batch: Batch) -> Tensor:
        features = batch["features"]
        centre = torch.from_numpy(self._centre).to(features.device, features.dtype)
        shifted = {**batch, "features": (features - centre) * self._stretch}
        return task.losses(module(shifted), batch)

    def update(self, moved: Arrays) -> Arrays:
        weight, bias = (
            (array := moved[name].astype(np.float64)) - _free(array)
            for name in (self._weight, self._bias)
        )
        weight = weight * self._stretch
        found = {self._weight: weight, self._bias: bias - weight @ self._centre}
        return {name: found[name].astype(np.float32) for name in moved}


def _free(array: np.ndarray) -> np.ndarray:
    """The mean over classes: of [classes, inputs], or of [classes]."""
    return np.asarray(array.mean(axis=0, keepdims=True, dtype=np.float64))


def view_of(job: Job, network: Network, arrays: Mapping[str, np.ndarray], first_step: int) -> View:
    """How the round that begins with this step of the job is taken, from the weights `arrays`."""
    rounds = job.training.centre_rounds
    if not rounds:
        return Usual()
    weight, bias = (name for name, _ in network.trained_parameters())
    length = job.model.feature_scale
    if first_step < rounds * job.training.local_steps:
        clip = job.privacy.clipping_norm if job.noised_locally else 1.0
        part = clip / math.sqrt(len(arrays[bias]) * (length**2 + 1))
        return Measuring(part, _rates(job.training))
    centre, stretch = centre_of(arrays[weight], arrays[bias], length)
    return Around(weight, bias, centre, stretch)


def _rates(spec: TrainingSpec) -> float:
    """Of the steps of the rounds that measure, added up; with momentum each counts several times."""
    steps, total = spec.centre_rounds * spec.local_steps, spec.rounds * spec.local_steps
    rates = math.fsum(learning_rate(step, total, spec) for step in range(steps))
    return rates / (1 - spec.momentum)


def centre_of(weight: np.ndarray, bias: np.ndarray, length: float) -> tuple[np.ndarray, float]:
    """The centre c that the free part carries, float64[inputs], and the stretch s.

    weight: [classes, inputs]; bias: [classes]; length: of every feature. Whatever the weights, c is finite
    and shorter than features, and s is from 1 to ``MOST_STRETCH``: if c is their mean, s (x - c) is in the
    root mean square as long as a feature, for E|x - c|^2 = length^2 - |c|^2.
    """
    above, below = _free(weight)[0], float(_free(bias)[0])
    centre = above / below if below > _LEAST else np.zeros_like(above)
    found = float(np.linalg.norm(centre))
    if not math.isfinite(found):
        return np.zeros_like(above), 1.0
    most = length * math.sqrt(1 - 1 / MOST_STRETCH**2)
    if found > most:
        centre, found = centre * (most / found), most
    return centre, length / math.sqrt(length**2 - found**2)
