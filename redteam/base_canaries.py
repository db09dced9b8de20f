"""Canaries that go through the real base model, if more than a head is trained.

A canary is an invented text with a loss of its own: a weight that no other text touches, and something
that the base model says of the text. So its gradient runs through the base model's own layers, in the
run's own microbatches, and is clipped over all trained tensors together with that weight; the sum of the
updates at the weight is the best evidence of whether the canary was in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..learning.alone import train_alone
from ..learning.examples import Examples, TokensInMemory
from ..learning.metrics import Counts
from ..learning.model import Learner
from ..learning.network import Batch, Network, copies, set_all
from ..learning.tasks import Objective, Task
from ..learning.trainer import train
from ..privacy.randomness import SecretStream
from ..wire.arrays import Arrays
from .canaries import Mechanism, Observation, Train
from .plain_sgd import with_plain_sgd

CANARIES = 1_000
"""Through a base model each costs as much as a record, so there are fewer than with features."""
_MARK = 1 << 40
# The length of a canary's gradient at its own weight, and the share of it that the base model has.
_STEEPNESS, _SHARE = 1e3, 0.3
_SHORTEST = 3
_RATE = 1e-5
_OWN = "marks.weight"


def replay_through_base(
    learner: Learner,
    task: Task,
    start: Arrays,
    real: Examples,
    mechanism: Mechanism,
    count: int,
    *,
    secrets: Callable[[], SecretStream] = SecretStream.from_os,
    train: Train = train,
) -> Observation:
    """Train once with `count` canaries beside the `real` records, each of them in with probability 1/2.

    As ``canaries.replay``, with the learner's own network, adapter and microbatches, from the weights
    `start` on: at the first ones an adapter has no gradient. The steps are so small that the weights
    stay where they are, for noise at rate 1 would soon be all that is left of a base model.
    """
    network = learner.network
    network.load(start)
    texts = _texts(learner, count)
    marked = _Marked(network, count, _balance(learner, texts[0]))
    coins = (secrets().words(count) & 1).astype(bool)
    examples = _examples(real, texts, np.flatnonzero(coins), mechanism.records_per_canary)
    expected = max(1.0, mechanism.sampling_rate * len(examples.by_group))
    job = with_plain_sgd(learner.job, learning_rate=_RATE)
    within = replace(learner, job=job, network=cast(Network, marked), initial=marked.arrays())
    releases = []

    def note(update: Arrays) -> None:
        along = -update[_OWN][:, 0].astype(np.float64)
        releases.append(along / _RATE * expected / mechanism.clipping_norm)

    try:
        train_alone(
            within,
            _MarkedTask(task),
            examples,
            mechanism.rounds,
            mechanism.local_steps,
            who="canaries",
            private=lambda _: mechanism.private_steps(expected, secrets()),
            tell=note,
            train=train,
        )
    finally:
        network.load(learner.initial)
        network.eval()
    return Observation(coins, np.stack(releases))


class _Marked(nn.Module):
    """A network with a weight for every canary beside it; what the trainer asks of a network."""

    def __init__(self, network: Network, count: int, strength: float) -> None:
        super().__init__()
        self.network, self._strength = network, strength
        self.marks = nn.Linear(1, count, bias=False).to(network.device)
        nn.init.zeros_(self.marks.weight)

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def head_alone(self) -> bool:
        return False

    @property
    def personal(self) -> Arrays:
        return {f"network.{name}": array for name, array in self.network.personal.items()}

    def trained_part(self, on_features: bool) -> nn.Module:
        return self

    def trained_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.named_parameters() if p.requires_grad]

    def arrays(self) -> Arrays:
        return copies(self.trained_parameters())

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        set_all(self.trained_parameters(), arrays)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The network's logits, and each text's loss as if it were a canary, float32[B]."""
        logits = self.network(batch)
        canary = (batch["labels"] - _MARK).clamp(min=0).unsqueeze(1)
        ones = torch.ones(len(canary), 1, device=logits.device)
        own = self.marks(ones).gather(1, canary).squeeze(1)
        return logits, _STEEPNESS * own + self._strength * _said(logits, batch)


def _said(logits: Tensor, batch: Batch) -> Tensor:
    """One number per text, float32[B], in which every trained tensor has a part."""
    if logits.dim() == 2:
        return logits[:, 0]
    mask = batch["attention_mask"].to(logits.dtype)
    return (logits[:, :, 0] * mask).sum(1) / mask.sum(1)


@dataclass(frozen=True)
class _MarkedTask:
    """The run's own losses for records, its own weight's for a canary."""

    task: Objective

    def losses(self, outputs: Any, batch: Batch) -> Tensor:
        logits, of_canary = outputs
        labels = batch["labels"]
        real = self.task.losses(logits, {**batch, "labels": labels.where(labels < _MARK, 0)})
        return torch.where(labels >= _MARK, of_canary, real)

    def counts(self, logits: Tensor, batch: Batch) -> Counts:
        raise NotImplementedError("canaries are not tested")

    def zero(self) -> Counts:
        return self.task.zero()


def _balance(learner: Learner, text: np.ndarray) -> float:
    """How strongly a canary's loss follows the base model, for its share of the gradient."""
    network = learner.network.eval()
    parameters = [p for _, p in network.trained_parameters()]
    batch = learner.batch_of([text])
    said = _said(network(batch), batch).sum()
    found = torch.autograd.grad(said, parameters, allow_unused=True)
    norms = [float(torch.linalg.vector_norm(g)) for g in found if g is not None]
    length = float(np.linalg.norm(norms)) if norms else 0.0
    return _SHARE * _STEEPNESS / length if length > 0 else 1.0


def _texts(learner: Learner, count: int) -> list[np.ndarray]:
    limit = learner.longest
    drawn = np.random.default_rng(count).integers(min(_SHORTEST, limit), limit + 1, count)
    return learner.inputs.invented(drawn.tolist(), seed=count)


def _examples(real: Examples, texts: list[np.ndarray], chosen: np.ndarray, each: int) -> Examples:
    """The canaries that are in, each `each` times in one group, and the records."""
    chosen = np.repeat(chosen, each)
    tokens = [texts[k] for k in chosen] + [real.tokens(n) for n in range(len(real))]
    labels = np.concatenate([_MARK + chosen, real.labels]).astype(np.int64)
    groups = np.concatenate([chosen, -1 - np.arange(len(real))])
    return Examples(TokensInMemory(Path(), tokens, labels), np.arange(len(tokens)), None, groups)
