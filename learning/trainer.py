"""Local training and testing: from the global model to an update, on one client's examples.

``train`` takes the job's local steps, with or without example-level privacy, and returns how far
the trained tensors moved. It keeps nothing between rounds: the same inputs give the same update,
whichever process computes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..job import TrainingSpec
from ..messages import Arrays
from ..privacy.dpsgd import PrivateOptimizer
from ..privacy.randomness import SecretStream, poisson_sample
from .examples import Examples
from .metrics import Counts
from .model import Learner
from .tasks.base import Task, make_batch

# A CPU gains more from short padding than from wide products.
_MICROBATCH = {"cpu": 8}
_TEST_BATCH = 64


@dataclass(frozen=True)
class StepRange:
    """Which of the job's optimizer steps are taken now; the schedule spans all rounds."""

    first: int
    count: int
    total: int


@dataclass(frozen=True)
class PrivateSteps:
    """What makes the steps differentially private: each is one Poisson-sampled Gaussian event."""

    sampling_rate: float
    expected_batch_size: float
    noise_multiplier: float
    clipping_norm: float
    stream: SecretStream


@dataclass(frozen=True)
class Outcome:
    """An update, float32 arrays (local minus global), and the mean training loss."""

    update: Arrays
    loss: float


def learning_rate(step: int, total: int, spec: TrainingSpec) -> float:
    """Learning rate of step 0 <= `step` < `total`: a linear rise, then the schedule."""
    peak = spec.learning_rate or 0.0
    warmup = math.ceil(spec.warmup * total)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    factor = {
        "constant": 1.0,
        "linear": 1.0 - done,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * done)),
    }[spec.schedule]
    return peak * factor


def train(
    learner: Learner,
    task: Task,
    arrays: Arrays,
    examples: Examples,
    steps: StepRange,
    *,
    seed: int,
    who: str,
    private: PrivateSteps | None = None,
    proximal_mu: float = 0.0,
) -> Outcome:
    """Start from `arrays`, take the steps on `examples`, return the difference.

    `seed` and `who` fix the order of batches and dropout where there is no privacy; private steps
    draw their batches and noise from the secret stream. `proximal_mu` pulls every step towards the
    start (FedProx, Li et al. 2020, eq. 2); it acts after the noise, so it costs no privacy.
    """
    spec = learner.job.training
    network = learner.network
    network.load(arrays)
    on_features = examples.features is not None
    module = network.trained_part(on_features)
    # Walking through all modules costs as much as a small step, so only where it changes something.
    if on_features or not module.training:
        module.train()
    device, pad = network.device, _pad(learner)
    _seed_generators(device, _seed(seed, who, steps.first))
    parameters = [p for _, p in network.trained_parameters()]
    start = [p.detach().clone() for p in parameters]
    optimizer = _optimizer(spec, parameters)
    if proximal_mu:
        _pull_towards(start, optimizer, proximal_mu)
    rule: _PrivateRule | _PlainRule
    if private is None:
        rule = _PlainRule(module, optimizer, spec, _Shuffled(len(examples), spec, seed, who))
    else:
        rule = _PrivateRule(module, optimizer, private, len(examples))
    total_loss, seen = 0.0, 0
    with contextlib.closing(rule):
        for step in range(steps.first, steps.first + steps.count):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps.total, spec)
            indices = rule.draw(step)
            for chunk in _chunks(indices, examples, spec, device):
                batch = make_batch(examples, chunk, pad, device)
                losses = task.losses(rule.module(batch), batch)
                total_loss += rule.accumulate(losses, len(indices))
                seen += len(chunk)
            rule.step()
    update = {
        name: (p.detach() - before).float().cpu().numpy()
        for (name, p), before in zip(network.trained_parameters(), start, strict=True)
    }
    if not all(np.isfinite(array).all() for array in update.values()):
        raise ModelError(
            f"Training diverged at {who} (a weight became NaN or infinite). "
            "Lower training.learning_rate."
        )
    return Outcome(update, total_loss / max(1, seen))


@torch.no_grad()
def test(learner: Learner, task: Task, arrays: Arrays, examples: Examples) -> Counts:
    """Counts of the model `arrays` on `examples`; batches group examples of like length."""
    network = learner.network
    network.load(arrays)
    network.eval()
    counts = task.zero()
    order = np.argsort(examples.lengths, kind="stable")
    for start in range(0, len(order), _TEST_BATCH):
        batch = make_batch(
            examples, order[start : start + _TEST_BATCH], _pad(learner), network.device
        )
        counts = counts + task.counts(network(batch), batch)
    return counts


class _PlainRule:
    """Steps without privacy: shuffled batches, mean gradient."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        spec: TrainingSpec,
        order: _Shuffled,
    ) -> None:
        self.module = module
        self._optimizer = optimizer
        self._limit = spec.gradient_clipping
        self.draw = order.batch

    def accumulate(self, losses: Tensor, batch_size: int) -> float:
        """Add this part's gradients; the sum of its losses."""
        total = losses.sum()
        (total / batch_size).backward()
        return float(total.detach())

    def step(self) -> None:
        if self._limit is not None:
            nn.utils.clip_grad_norm_(self._optimizer.param_groups[0]["params"], self._limit)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def close(self) -> None:
        pass


class _PrivateRule:
    """Steps of DP-SGD: Poisson samples, clipped per-example gradients, one noise draw a step."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        private: PrivateSteps,
        count: int,
    ) -> None:
        self._private = private
        self._count = count
        self._optimizer = PrivateOptimizer(
            module,
            optimizer,
            noise_multiplier=private.noise_multiplier,
            clipping_norm=private.clipping_norm,
            expected_batch_size=private.expected_batch_size,
            stream=private.stream,
        )
        self.module = self._optimizer.module

    def draw(self, step: int) -> np.ndarray:
        return poisson_sample(self._count, self._private.sampling_rate, self._private.stream)

    def accumulate(self, losses: Tensor, batch_size: int) -> float:
        self._optimizer.accumulate(losses)
        return float(losses.detach().sum())

    def step(self) -> None:
        self._optimizer.step()

    def close(self) -> None:
        self._optimizer.close()


class _Shuffled:
    """Batches without privacy: every epoch a new order, running on from round to round.

    The order depends on the seed, the client and the epoch alone, so a run that is resumed sees
    the examples as if it had never stopped.
    """

    def __init__(self, count: int, spec: TrainingSpec, seed: int, who: str) -> None:
        self._count = count
        self._size = min(spec.batch_size, count)
        self._seed, self._who = seed, who
        self._epochs: dict[int, np.ndarray] = {}

    def batch(self, step: int) -> np.ndarray:
        """int64[min(batch_size, count)] indices of step `step`."""
        first = step * self._size
        epochs = range(first // self._count, (first + self._size - 1) // self._count + 1)
        order = np.concatenate([self._epoch(epoch) for epoch in epochs])
        offset = first - epochs.start * self._count
        return order[offset : offset + self._size]

    def _epoch(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            generator = np.random.default_rng(_seed(self._seed, self._who, epoch))
            self._epochs[epoch] = generator.permutation(self._count)
        return self._epochs[epoch]


def _seed_generators(device: torch.device, seed: int) -> None:
    """Seed what dropout draws from."""
    if device.type == "cpu":
        # torch.manual_seed formats a stack trace for every kind of device that is not there.
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _seed(seed: int, who: str, number: int) -> int:
    digest = hashlib.sha256(f"{seed}\n{who}\n{number}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _optimizer(spec: TrainingSpec, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """A fresh optimizer: its state never leaves the owner and never outlives a round."""
    rate = spec.learning_rate or 0.0  # set anew before every step
    if spec.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, rate, momentum=spec.momentum, weight_decay=spec.weight_decay
        )
    return torch.optim.AdamW(parameters, rate, weight_decay=spec.weight_decay)


def _pull_towards(start: list[Tensor], optimizer: torch.optim.Optimizer, mu: float) -> None:
    def add_pull(optimizer: torch.optim.Optimizer, *_: object) -> None:
        parameters = optimizer.param_groups[0]["params"]
        for parameter, origin in zip(parameters, start, strict=True):
            parameter.grad.add_(parameter.detach() - origin, alpha=mu)

    optimizer.register_step_pre_hook(add_pull)


def _chunks(
    indices: np.ndarray, examples: Examples, spec: TrainingSpec, device: torch.device
) -> Iterator[np.ndarray]:
    """The batch in microbatches of like length: a third of the tokens would be padding otherwise."""
    whole = _MICROBATCH.get(device.type, 32)
    if examples.features is not None:
        whole = len(indices)
    else:
        indices = indices[np.argsort(examples.lengths[indices], kind="stable")]
    size = max(1, spec.microbatch or whole)
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


def _pad(learner: Learner) -> int:
    return int(learner.tokenizer.pad_token_id)
