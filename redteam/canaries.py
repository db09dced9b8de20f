"""The one-run audit with gradient canaries: does the training leak more than it claims?

A canary is an example whose gradient is known: it points along one weight of the head that no
record and no other canary touches, and is far longer than the clipping norm. So the training's own
sampling, clipping and noise are all that stands between a canary and anyone who reads the update; the
sum of the updates along a canary's weight is the best evidence of whether it was in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..job import Job
from ..learning.alone import train_alone
from ..learning.device import choose_device
from ..learning.examples import Examples, TokenStore
from ..learning.inputs import Texts
from ..learning.metrics import Counts
from ..learning.model import Learner
from ..learning.network import Batch, Network
from ..learning.probing.verdict import INDEPENDENT
from ..learning.steps import PrivateSteps
from ..learning.tasks import Objective, task_for
from ..learning.trainer import Outcome, train
from ..privacy.randomness import SecretStream
from ..tasks.spec import usual_task
from ..wire.arrays import Arrays
from .bound import epsilon_lower_bound
from .plain_sgd import with_plain_sgd

CANARIES = 10_000
BLOCK = 1_000
"""Canaries in one replay. Replays are independent, and each canary is in one of them only, so all
replays together are one mechanism with as many canaries as they have together."""
CONFIDENCE = 0.95
_GUESSED = 0.02
_FEWEST_GUESSES = 100
_GIVEN_AWAY = 0.1
_MOST_RECORDS_PER_CANARY = 8
NORMAL_999 = 3.290527
_MOST_CLAIMED = 20.0
# The gradient of a canary along its own weight over the one along the bias, which all share.
_STEEPNESS = 1e3
_WEIGHT = "mean_head.weight"

Train = Callable[..., Outcome]
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Mechanism:
    """What a client does in a run, as its plan states it."""

    noise_multiplier: float
    sampling_rate: float
    clipping_norm: float
    rounds: int
    local_steps: int
    records_per_group: int | None = None
    """At most this many records of a group in a step, if whole groups are drawn."""

    @property
    def records_per_canary(self) -> int:
        """A canary is what is protected: one record, or a group of records that are all alike."""
        return min(self.records_per_group or 1, _MOST_RECORDS_PER_CANARY)

    def private_steps(self, expected_batch_size: float, stream: SecretStream) -> PrivateSteps:
        return PrivateSteps(
            sampling_rate=self.sampling_rate,
            expected_batch_size=expected_batch_size,
            noise_multiplier=self.noise_multiplier,
            clipping_norm=self.clipping_norm,
            key=stream.key(),
            records_per_group=self.records_per_group,
        )


@dataclass(frozen=True)
class Records:
    """Real records that train beside the canaries: features float32[n, hidden], labels int64[n]."""

    features: np.ndarray
    labels: np.ndarray
    classes: int

    @staticmethod
    def none() -> Records:
        return Records(np.zeros((0, 1), np.float32), np.zeros(0, np.int64), 2)


@dataclass(frozen=True)
class Observation:
    """coins: bool[m], who was in. releases: float64[rounds, m], each round's update along each
    canary's weight, in units of the clipping norm: how often it was drawn, plus noise."""

    coins: np.ndarray
    releases: np.ndarray


@dataclass(frozen=True)
class CanaryAudit:
    """What the guesses prove: epsilon at `delta` is at least `lower_bound`, with `confidence`."""

    canaries: int
    guesses: int
    correct: int
    delta: float
    confidence: float
    lower_bound: float


@dataclass(frozen=True)
class Measured:
    """Noise multiplier and sampling rate as the releases show them, each with a 99.9 % interval.

    No bound on epsilon follows, but a far smaller fault shows: noise that is a few percent short.
    """

    noise_multiplier: float
    noise_low: float
    noise_high: float
    sampling_rate: float
    rate_low: float
    rate_high: float


def measure(seen: Observation, local_steps: int) -> Measured:
    """Noise from the canaries that were out, sampling rate from those that were in."""
    noise = seen.releases[:, ~seen.coins].ravel()
    sigma = math.sqrt(float(np.mean(noise**2)) / local_steps)
    noise_error = NORMAL_999 / math.sqrt(2 * len(noise))
    drawn = seen.releases[:, seen.coins].ravel() / local_steps
    rate, rate_error = float(drawn.mean()), NORMAL_999 * float(drawn.std()) / math.sqrt(len(drawn))
    return Measured(
        sigma,
        sigma * (1 - noise_error),
        sigma * (1 + noise_error),
        rate,
        max(0.0, rate - rate_error),
        rate + rate_error,
    )


def replay(
    job: Job,
    mechanism: Mechanism,
    records: Records,
    count: int,
    *,
    secrets: Callable[[], SecretStream] = SecretStream.from_os,
    train: Train = train,
) -> Observation:
    """Train once with `count` canaries, each of them in with probability 1/2.

    The training is the job's own: the trainer's Poisson batches, the private optimizer's clipping
    and noise, round by round. Only what comes after the noise is replaced by plain SGD, so that the
    update is the sum of what was released. `secrets` gives fresh streams for coins, batches, noise.
    """
    hidden = records.features.shape[1]
    learner = _learner(job, hidden + math.ceil(count / records.classes), records.classes)
    of_records = task_for(learner.job, records.classes)
    task = CanaryTask(of_records, records.classes, mechanism.clipping_norm)
    coins = (secrets().words(count) & 1).astype(bool)
    examples = _examples(records, np.flatnonzero(coins), learner, mechanism.records_per_canary)
    expected = max(1.0, mechanism.sampling_rate * len(examples.by_group))
    releases = []

    def note(update: Arrays) -> None:
        along = -update[_WEIGHT][:, hidden:].T.reshape(-1)[:count].astype(np.float64)
        releases.append(along * expected / mechanism.clipping_norm)

    train_alone(
        learner,
        task,
        examples,
        mechanism.rounds,
        mechanism.local_steps,
        who="canaries",
        private=lambda _: mechanism.private_steps(expected, secrets()),
        tell=note,
        train=train,
    )
    return Observation(coins, np.stack(releases))


def audit_mechanism(
    job: Job,
    mechanism: Mechanism,
    records: Records,
    *,
    claim: float,
    delta: float,
    canaries: int = CANARIES,
    secrets: Callable[[], SecretStream] = SecretStream.from_os,
    train: Train = train,
    through: Callable[[int], Observation] | None = None,
    tell: Tell = lambda *_: None,
) -> tuple[CanaryAudit, Measured]:
    """Replay the training with `canaries` canaries in blocks, and judge by the summed updates.

    `claim` is the epsilon that might be refuted: it decides how many canaries are guessed. `through`
    replays so many canaries otherwise, through a base model.
    """
    blocks = math.ceil(canaries / BLOCK)
    parts = []
    for block in range(blocks):
        tell("canaries", block, blocks)
        count = min(BLOCK, canaries - block * BLOCK)
        if through is not None:
            parts.append(through(count))
        else:
            parts.append(replay(job, mechanism, records, count, secrets=secrets, train=train))
    seen = Observation(
        np.concatenate([part.coins for part in parts]),
        np.concatenate([part.releases for part in parts], axis=1),
    )
    scores = seen.releases.sum(axis=0)
    some = guessable(canaries, delta)
    found = judge(seen.coins[:some], scores[:some], claim, delta)
    return found, measure(seen, mechanism.local_steps)


def guessable(canaries: int, delta: float) -> int:
    """How many canaries are guessed: if delta is large, not all.

    The bound gives 2 m delta away, so that with 10,000 canaries at delta = 1e-3 nothing at all would
    follow from the guesses.
    """
    return min(canaries, max(_FEWEST_GUESSES, int(_GIVEN_AWAY / delta)))


def judge(
    coins: np.ndarray,
    scores: np.ndarray,
    claim: float,
    delta: float,
    confidence: float = CONFIDENCE,
) -> CanaryAudit:
    """Guess "in" for the highest scores, "out" for the lowest, nothing between; count and bound.

    How many are guessed is fixed before a score is seen (trying several numbers and keeping the
    best would need a correction): the surest 2 %, at least 100, and so many that the claim would
    be refuted if one in ten of those that randomised response gets wrong were wrong.
    """
    count = len(coins)
    wanted = max(_FEWEST_GUESSES, _GUESSED * count, 10 * math.exp(min(claim, _MOST_CLAIMED)))
    each = min(count, int(wanted)) // 2
    order = np.argsort(scores, kind="stable")
    correct = int(coins[order[count - each :]].sum() + (~coins[order[:each]]).sum())
    bound = epsilon_lower_bound(count, 2 * each, correct, delta, confidence)
    return CanaryAudit(count, 2 * each, correct, delta, confidence, bound)


@dataclass(frozen=True)
class CanaryTask:
    """The losses of records; for a canary, marked by a label of `classes` + k, logit k itself.

    The gradient of a logit is the same whatever the weights are.
    """

    records: Objective
    classes: int
    strength: float = 1.0

    def losses(self, logits: Tensor, batch: Batch) -> Tensor:
        labels = batch["labels"]
        known = {**batch, "labels": labels.clamp(max=self.classes - 1)}
        real = self.records.losses(logits, known)
        chosen = (labels - self.classes).clamp(min=0)
        linear = self.strength * logits.gather(1, chosen.unsqueeze(1)).squeeze(1)
        return torch.where(labels >= self.classes, linear, real)

    def counts(self, logits: Tensor, batch: Batch) -> Counts:
        return self.records.counts(logits, batch)

    def zero(self) -> Counts:
        return self.records.zero()


class _NoBackbone(nn.Module):
    """In place of a base model: features are there already."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace()
        self.place = nn.Parameter(torch.zeros(()), requires_grad=False)


@dataclass(frozen=True)
class FeatureLabels(TokenStore):
    """What examples that are features need of a store: labels, and lengths that are all alike."""

    values: np.ndarray

    @cached_property
    def labels(self) -> np.ndarray:
        return self.values

    @cached_property
    def offsets(self) -> np.ndarray:
        return np.arange(len(self.values) + 1)


def _learner(job: Job, inputs: int, classes: int) -> Learner:
    """The job's own linear head, with a column more for every weight that canaries need."""
    job = with_plain_sgd(job, precision="float32", microbatch=256)
    model = job.model.model_copy(update={"adapter": "head", "pooling": "mean"})
    job = job.model_copy(update={"task": usual_task(labelled=True).name, "model": model})
    head = nn.Linear(inputs, classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    network = Network(_NoBackbone(), head, job).to(choose_device(job.training.device))
    texts = Texts(cast(Any, SimpleNamespace(pad_token_id=0)))
    # A linear layer on features that are given: nothing can couple examples.
    return Learner(job, network, texts, Path(), network.arrays(), INDEPENDENT)


def _examples(records: Records, chosen: np.ndarray, learner: Learner, each: int) -> Examples:
    """The canaries that are in, each `each` times in one group, and the records, as rows of features."""
    chosen = np.repeat(chosen, each)
    count, hidden = len(chosen), records.features.shape[1]
    width = learner.initial[_WEIGHT].shape[1]
    features = np.zeros((count + len(records.labels), width), np.float32)
    features[np.arange(count), hidden + chosen // records.classes] = _STEEPNESS
    features[count:, :hidden] = records.features
    labels = np.concatenate([records.classes + chosen % records.classes, records.labels])
    rows = np.arange(len(labels), dtype=np.int64)
    groups = np.concatenate([chosen, -1 - np.arange(len(records.labels))])
    return Examples(FeatureLabels(Path(), labels), rows, features, groups)
