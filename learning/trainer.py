"""Local training and testing: from the global model to an update, on one client's examples.

``train`` takes the job's local steps, with or without example-level privacy, and returns how far
the trained tensors moved. It keeps nothing between rounds: the same inputs give the same update,
whichever process computes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..job import TrainingSpec
from ..messages import Arrays
from ..privacy.dpsgd import PrivateOptimizer, TornSum
from ..privacy.randomness import SecretStream, poisson_sample
from .batches import microbatch
from .examples import Examples
from .failures import NOBODY, Touch, left_out_if_it_fails, one_by_one
from .metrics import Counts
from .model import Learner
from .network import Network
from .rate import learning_rate
from .tasks.base import Task

# Examples with features in one pass of a test.
_TEST_BATCH = 1024


_LOWER = "Lower training.learning_rate."
_DIVERGED = f"training diverged, and the answer is an update of zeros. {_LOWER}"

LossesOf = Callable[[np.ndarray], Tensor]
"""Losses of the examples at some indices, from a forward pass."""

_log = logging.getLogger(__name__)


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
    """Of a record, or of a whole group."""
    expected_batch_size: float
    """Records, or groups, in a step."""
    noise_multiplier: float
    clipping_norm: float
    key: bytes
    """Of the secret stream that batches and noise are drawn from, and of no other stream."""
    records_per_group: int | None = None
    """Most records of a group in a step, if whole groups are drawn; None if single records are."""


@dataclass(frozen=True)
class Outcome:
    """An update, float32 arrays (local minus global), and the mean training loss."""

    update: Arrays
    loss: float
    diverged: bool = False
    """Whether zeros stand for an update that is not finite. Under privacy noised steps alone say so."""


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
    touch: Touch | None = None,
) -> Outcome:
    """Start from `arrays`, take the steps on `examples`, return the difference.

    Guarantee under `private`: no record decides whether there is an answer. A record that cannot be
    learned from counts as zero (``_PrivateRule``). Weights that are no longer finite follow from
    noised steps alone, so the update of zeros that then stands for the answer, and the end of the
    steps, are post-processing. Without privacy both raise ``ModelError``.

    touch: told of each record before it is used, one at a time: for a process that may die of it.

    `seed` and `who` fix the order of batches and dropout where there is no privacy; private steps
    draw their batches and noise from the secret stream. `proximal_mu` pulls every step towards the
    start (FedProx, Li et al. 2020, eq. 2); it acts after the noise, so it costs no privacy.
    """
    if private is not None:
        learner.check_independent()
    spec = learner.job.training
    network = learner.network
    if private is None and len(examples) == 0:
        return Outcome(_zeros(network), 0.0)
    network.load(arrays)
    on_features = examples.features is not None
    module = network.trained_part(on_features)
    # Walking through all modules costs as much as a small step, so only where it changes something.
    if on_features or not module.training:
        module.train()
    device = network.device
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
        rule = _PrivateRule(module, optimizer, private, examples)

    def losses_of(chunk: np.ndarray) -> Tensor:
        if touch is not None:
            touch(int(examples.rows[chunk[0]]))
        batch = learner.batch(examples, chunk)
        return task.losses(rule.module(batch), batch)

    total_loss, seen = 0.0, 0
    with contextlib.closing(rule):
        for step in range(steps.first, steps.first + steps.count):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps.total, spec)
            indices = rule.draw(step)
            chunks = list(_chunks(indices, examples, spec, device, alone=touch is not None))
            total_loss += rule.add(chunks, losses_of)
            if touch is not None:
                touch(NOBODY)
            seen += len(indices)
            if not rule.step():
                return Outcome(_zeros(network), 0.0, diverged=True)
    update = {
        name: (p.detach() - before).float().cpu().numpy()
        for (name, p), before in zip(network.trained_parameters(), start, strict=True)
    }
    if not all(np.isfinite(array).all() for array in update.values()):
        if private is not None:
            _log.error("%s", _DIVERGED)
            return Outcome(_zeros(network), 0.0, diverged=True)
        raise ModelError(f"Training diverged at {who} (a weight became NaN or infinite). {_LOWER}")
    return Outcome(update, total_loss / max(1, seen))


@torch.no_grad()
def test(
    learner: Learner,
    task: Task,
    arrays: Arrays,
    examples: Examples,
    *,
    forgiving: bool = False,  # noqa: PT028
    touch: Touch | None = None,  # noqa: PT028
) -> Counts:
    """Counts of the model `arrays` on `examples`; batches group examples of like length.

    If `forgiving`, a record that the model cannot read counts nothing: what stands beside it in a
    batch that fails is counted one by one, as it would have been without it but for rounding.
    touch: as in ``train``.
    """
    network = learner.network
    network.load(arrays)
    network.eval()
    counts = task.zero()
    order = np.argsort(examples.lengths, kind="stable")
    if forgiving and examples.features is not None:
        order = order[np.isfinite(examples.features[order]).all(axis=1)]
    size = _TEST_BATCH
    if examples.features is None:
        size = microbatch(learner.job.training, network.device)
    if touch is not None:
        size = 1

    def counted(chunk: np.ndarray) -> Counts:
        if touch is not None:
            touch(int(examples.rows[chunk[0]]))
        batch = learner.batch(examples, chunk)
        return task.counts(network(batch), batch)

    for start in range(0, len(order), size):
        chunk = order[start : start + size]
        try:
            counts = counts + counted(chunk)
        except Exception as error:
            if not forgiving:
                raise
            for one in one_by_one(chunk, error):
                with left_out_if_it_fails():
                    counts = counts + counted(one)
    if touch is not None:
        touch(NOBODY)
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

    def add(self, chunks: list[np.ndarray], losses_of: LossesOf) -> float:
        """Add the gradients of a step's microbatches; the sum of their losses."""
        found, size = 0.0, sum(map(len, chunks))
        for chunk in chunks:
            total = losses_of(chunk).sum()
            (total / size).backward()
            found += float(total.detach())
        return found

    def step(self) -> bool:
        """Whether training can go on."""
        if self._limit is not None:
            nn.utils.clip_grad_norm_(self._optimizer.param_groups[0]["params"], self._limit)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return True

    def close(self) -> None:
        pass


class _PrivateRule:
    """Steps of DP-SGD: Poisson samples, clipped per-example gradients, one noise draw a step.

    Samples are of records, or of whole groups if `private` says how many records one may bring.

    Guarantee: what a record adds to a step's sum is its own affair. A record that the model cannot
    read or learn from alone adds zero, and any other what it adds alone, to rounding (1e-5 of the
    clipping norm, the same as for a text that stands in another microbatch: the probe of the model
    measures it). So such a record moves the sum by nothing, and one that takes the place of another
    by at most one clipped gradient.

    Why: a microbatch that fails is taken one record at a time. A failure while the sum was being
    added to leaves it torn, and the step then begins anew from zero, one record at a time. A single
    record that tears it leaves some tensors' parts of its clipped gradient, which is no longer than
    the whole.

    Assumption: a record that fails alone also fails among others. A failure that has no record to
    blame, such as a lack of memory for many at once, fails for none alone.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        private: PrivateSteps,
        examples: Examples,
    ) -> None:
        self._private = private
        self._examples = examples
        self._weights: np.ndarray | None = None
        self._stream = SecretStream.from_key(private.key)
        self._optimizer = PrivateOptimizer(
            module,
            optimizer,
            noise_multiplier=private.noise_multiplier,
            clipping_norm=private.clipping_norm,
            expected_batch_size=private.expected_batch_size,
            stream=self._stream,
            strict=False,
        )
        self.module = self._optimizer.module

    def draw(self, step: int) -> np.ndarray:
        rate, most = self._private.sampling_rate, self._private.records_per_group
        if most is None:
            return poisson_sample(len(self._examples), rate, self._stream)
        drawn = self._examples.by_group.sample(rate, most, self._stream)
        self._weights = np.zeros(len(self._examples))
        self._weights[drawn.records] = drawn.weights
        return drawn.records

    def add(self, chunks: list[np.ndarray], losses_of: LossesOf) -> float:
        """Add the clipped gradients of a step's microbatches; the sum of their losses."""
        try:
            return sum(self._together(chunk, losses_of) for chunk in chunks)
        except TornSum:
            self._optimizer.restart()
            records = [chunk[at : at + 1] for chunk in chunks for at in range(len(chunk))]
            return sum(self._alone(record, losses_of) for record in records)

    def _together(self, chunk: np.ndarray, losses_of: LossesOf) -> float:
        try:
            return self._added(chunk, losses_of)
        except TornSum:
            raise
        except Exception as error:
            return sum(self._alone(one, losses_of) for one in one_by_one(chunk, error))

    def _alone(self, record: np.ndarray, losses_of: LossesOf) -> float:
        with left_out_if_it_fails():
            return self._added(record, losses_of)
        return 0.0

    def _added(self, chunk: np.ndarray, losses_of: LossesOf) -> float:
        try:
            losses = losses_of(chunk)
            weights = None
            if self._weights is not None:
                weights = torch.from_numpy(self._weights[chunk]).to(losses.device)
            self._optimizer.accumulate(losses, weights)
        except Exception:
            self._optimizer.forget()
            raise
        return float(losses.detach().sum())

    def step(self) -> bool:
        """Whether training can go on.

        What goes wrong here does so with the noised sum and the weights, which follow from noised
        sums: whether it does tells nothing beyond them.
        """
        try:
            self._optimizer.step()
        except Exception as error:
            _log.error("%s: %s", _DIVERGED, error)
            return False
        return True

    def close(self) -> None:
        self._optimizer.close()


def _zeros(network: Network) -> Arrays:
    return {n: np.zeros(p.shape, np.float32) for n, p in network.trained_parameters()}


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
    indices: np.ndarray,
    examples: Examples,
    spec: TrainingSpec,
    device: torch.device,
    *,
    alone: bool,
) -> Iterator[np.ndarray]:
    """The batch in microbatches of like length: a third of the tokens would be padding otherwise."""
    if examples.features is not None:
        size = max(1, spec.microbatch or len(indices))
    else:
        size = microbatch(spec, device)
        indices = indices[np.argsort(examples.lengths[indices], kind="stable")]
    if alone:
        size = 1
    for start in range(0, len(indices), size):
        yield indices[start : start + size]
