"""The rules of a step: which examples are drawn, and how their gradients become one sum.

``PlainRule`` shuffles and takes the mean; ``PrivateRule`` takes the steps of DP-SGD.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ..job import TrainingSpec
from ..privacy.dpsgd.optimizer import PrivateOptimizer, TornSum
from ..privacy.randomness import SecretStream, poisson_sample
from .examples import Examples
from .failures import left_out_if_it_fails, one_by_one

LOWER = "Lower training.learning_rate."
DIVERGED = f"training diverged, and the answer is an update of zeros. {LOWER}"

LossesOf = Callable[[np.ndarray], Tensor]
"""Losses of the examples at some indices, from a forward pass."""

_log = logging.getLogger(__name__)


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
    """The secret stream from which batches and noise are drawn, and nothing else."""
    records_per_group: int | None = None
    """Most records of a group in a step, if whole groups are drawn; None if single records are."""

    def drawn_anew(self) -> PrivateSteps:
        """The same under another key that follows from this one: independent batches and noise."""
        return replace(self, key=hashlib.sha256(b"umbel steps drawn anew\n" + self.key).digest())


class PlainRule:
    """Steps without privacy: shuffled batches, mean gradient."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        spec: TrainingSpec,
        order: Shuffled,
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

    def spend(self, losses: Callable[[], Tensor]) -> None:
        """The work of a microbatch, of which nothing is kept."""
        total = losses().sum()
        total.backward()
        float(total.detach())
        self._optimizer.zero_grad()

    def spend_step(self) -> None:
        """The work of a step, after which nothing is kept of any."""
        for parameter in self._optimizer.param_groups[0]["params"]:
            parameter.grad = torch.zeros_like(parameter)
        self.step()

    def step(self) -> bool:
        """Whether training can go on."""
        if self._limit is not None:
            nn.utils.clip_grad_norm_(self._optimizer.param_groups[0]["params"], self._limit)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return True

    def close(self) -> None:
        pass


class PrivateRule:
    """Steps of DP-SGD: Poisson samples, clipped per-example gradients, one noise draw per step.

    Samples are of records, or of whole groups if `private` says how many records one may bring.

    Guarantee: what a record adds to a step's sum is its own affair. A record that the model cannot
    read or learn from alone adds zero, and any other what it adds alone, to rounding (1e-5 of the
    clipping norm, the same as for a text that stands in another microbatch: the probe of the model
    measures it). So such a record moves the sum by nothing, and one that takes the place of another
    by at most one clipped gradient.

    Why: a microbatch that fails is taken one record at a time. A failure while the sum was being
    added to leaves it torn, and the step then starts again from zero, one record at a time. A single
    record that tears it leaves some tensors' parts of its clipped gradient, which is no longer than
    the whole.

    Assumption: a record that fails alone also fails among others, and in later steps of the same answer, in
    which it is not tried again. A failure that has no record to
    blame, such as a lack of memory, is no record's affair: a pass takes as much for one as for many.
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
        self._failed: set[int] = set()
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
        # What failed alone has failed for this answer: to try it again and again would take time.
        known = np.array(sorted(self._failed), dtype=np.int64)
        chunks = [kept for chunk in chunks if len(kept := chunk[~np.isin(chunk, known)])]
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
            if len(chunk) == 1:
                self._failed.add(int(chunk[0]))
            return sum(self._alone(one, losses_of) for one in one_by_one(chunk, error))

    def _alone(self, record: np.ndarray, losses_of: LossesOf) -> float:
        with left_out_if_it_fails():
            return self._added(record, losses_of)
        self._failed.add(int(record[0]))
        return 0.0

    def _added(self, chunk: np.ndarray, losses_of: LossesOf) -> float:
        try:
            losses = losses_of(chunk)
            weights = self._weights_of(chunk, losses)
            self._optimizer.accumulate(losses, weights)
        except Exception:
            self._optimizer.forget()
            raise
        return float(losses.detach()[: len(chunk)].sum())

    def _weights_of(self, chunk: np.ndarray, losses: Tensor) -> Tensor | None:
        """Of each loss; none for rows behind the chunk's, which only fill a pass (``shapes``)."""
        if self._weights is None and len(losses) == len(chunk):
            return None
        weights = np.zeros(len(losses))
        weights[: len(chunk)] = 1.0 if self._weights is None else self._weights[chunk]
        return torch.from_numpy(weights).to(losses.device)

    def spend(self, losses: Callable[[], Tensor]) -> None:
        """The work of a microbatch, of which nothing is kept: no step may follow."""
        found = losses()
        weights = torch.from_numpy(np.ones(len(found))).to(found.device)
        self._optimizer.accumulate(found, weights)
        float(found.detach().sum())

    def step(self) -> bool:
        """Whether training can go on.

        What goes wrong here does so with the noised sum and the weights, which follow from noised
        sums: whether it does tells nothing beyond them.
        """
        try:
            self._optimizer.step()
        except Exception as error:
            _log.error("%s: %s", DIVERGED, error)
            return False
        return True

    def close(self) -> None:
        self._optimizer.close()


class Shuffled:
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
            generator = np.random.default_rng(seed_of(self._seed, self._who, epoch))
            self._epochs[epoch] = generator.permutation(self._count)
        return self._epochs[epoch]


def seed_of(seed: int, who: str, number: int) -> int:
    digest = hashlib.sha256(f"{seed}\n{who}\n{number}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
