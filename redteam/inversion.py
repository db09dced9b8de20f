"""Gradient inversion: what of a record can be read from an update, and what from a sum of updates.

Two attacks on one optimizer step over one record, the attacker's best case.

By features (linear heads): the gradient of a linear layer is an outer product of error and input,
so its rows are multiples of the record's features (Geiping et al. 2020, "Inverting Gradients",
Proposition 3.1). Among candidate texts, the one whose features lie closest to those rows is named.

By tokens (full fine-tuning): only the embeddings of tokens that occur in the record get a gradient
(Melis et al. 2019, "Exploiting Unintended Feature Leakage in Collaborative Learning", section 4.1).
The tokens whose rows moved most are named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from ..learning.examples import Examples
from ..learning.features import with_features
from ..learning.inputs import Texts
from ..learning.model import Learner
from ..learning.steps import PrivateSteps
from ..learning.tasks.task import Task
from ..learning.trainer import StepRange, train
from ..privacy.randomness import SecretStream
from ..wire.arrays import Arrays
from .plain_sgd import with_plain_sgd

MOST_CLIENTS = 8
"""Clients in an attacked sum; a larger cohort hides more."""
_BATCH = 64
_NOISE_FLOOR = 1e-4

Attack = Literal["features", "tokens"]


@dataclass(frozen=True)
class Trial:
    """One attack: the true texts, what the attacker makes of the update, how much of it is right.

    `share` is 1 or 0 for a record that is or is not among the true ones, or the share of tokens that
    were found; `chance` is what the same attacker gets without looking at the update.
    """

    truth: str
    recovered: str
    share: float
    chance: float


@dataclass(frozen=True)
class View:
    """What somebody sees: one client's update or a sum, with noise or without."""

    clients: int
    noised: bool
    trials: tuple[Trial, ...]

    @property
    def share(self) -> float:
        return float(np.mean([trial.share for trial in self.trials]))

    @property
    def chance(self) -> float:
        return float(np.mean([trial.chance for trial in self.trials]))


def attack_of(learner: Learner) -> Attack | None:
    """Which attack fits what the job trains; None if neither does, as for records that are not texts."""
    if not isinstance(learner.inputs, Texts):
        return None
    if _embedding(learner) is not None:
        return "tokens"
    return "features" if _head(learner) is not None else None


class Inverter:
    """Attacks steps of one model over a pool of records, of which the attacker knows the texts."""

    def __init__(self, learner: Learner, task: Task, weights: Arrays, pool: Examples) -> None:
        job = with_plain_sgd(learner.job, batch_size=1, gradient_clipping=None)
        self._learner, self._task, self._weights = replace(learner, job=job), task, weights
        self._pool = with_features(learner, pool)
        self._attack = attack_of(learner)
        if self._attack is None:
            raise ValueError("No attack is implemented for what this job trains.")
        self._features = self._all_features() if self._attack == "features" else np.zeros((0, 0))

    def view(
        self,
        victims: Sequence[Sequence[int]],
        noise: tuple[float, float] | None,
        *,
        secrets: Callable[[], SecretStream] = SecretStream.from_os,
        tell: Callable[[], None] = lambda: None,
    ) -> View:
        """Attack one sum for each group of `victims`, numbers of records in the pool, one per client.

        noise: noise multiplier and clipping norm of each client's step, or None for a plain one.
        """
        trials = []
        for group in victims:
            total: dict[str, np.ndarray] = {}
            for victim in group:
                for name, array in self._step(victim, noise, secrets).items():
                    total[name] = total[name] + array if name in total else array
            attack = self._by_features if self._attack == "features" else self._by_tokens
            trials.append(attack(total, group))
            tell()
        return View(len(victims[0]), noise is not None, tuple(trials))

    def _step(
        self,
        victim: int,
        noise: tuple[float, float] | None,
        secrets: Callable[[], SecretStream],
    ) -> Arrays:
        """The update that one step over one record makes: all that the attacker gets."""
        private = None
        if noise is not None:
            private = PrivateSteps(
                sampling_rate=1.0,
                expected_batch_size=1.0,
                noise_multiplier=noise[0],
                clipping_norm=noise[1],
                key=secrets().key(),
            )
        record = self._pool.take(np.array([victim]))
        update = train(
            self._learner,
            self._task,
            self._weights,
            record,
            StepRange(0, 1, 1),
            seed=0,
            who="victim",
            private=private,
        ).update
        names = [_embedding(self._learner) or _head(self._learner) or ""]
        return {name: update[name] for name in names}

    def _by_features(self, update: Arrays, group: Sequence[int]) -> Trial:
        [rows] = update.values()
        _, sizes, directions = np.linalg.svd(rows.astype(np.float64), full_matrices=False)
        seen = directions[sizes > _NOISE_FLOOR * max(sizes[0], 1e-30)]
        # How much of each candidate's features lies within what the rows span.
        found = int(np.argmax(np.linalg.norm(self._features @ seen.T, axis=1)))
        return Trial(
            self._texts(group),
            self._texts([found]),
            float(found in group),
            len(set(group)) / len(self._pool),
        )

    def _by_tokens(self, update: Arrays, group: Sequence[int]) -> Trial:
        [rows] = update.values()
        special = set(self._learner.tokenizer.all_special_ids)
        true = {int(t) for victim in group for t in self._ids(victim)} - special
        strength = np.linalg.norm(rows, axis=1)
        strength[list(special)] = -1.0
        found = np.argsort(-strength, kind="stable")[: len(true)].tolist()
        counts = np.zeros(len(strength))
        for other in range(len(self._pool)):
            if other not in group:
                np.add.at(counts, self._ids(other), 1)
        counts[list(special)] = -1.0
        common = np.argsort(-counts, kind="stable")[: len(true)].tolist()
        return Trial(
            self._texts(group),
            " ".join(str(self._learner.tokenizer.decode([token])).strip() for token in found),
            len(true & set(found)) / max(1, len(true)),
            len(true & set(common)) / max(1, len(true)),
        )

    def _texts(self, indices: Sequence[int]) -> str:
        decode = self._learner.tokenizer.decode
        tokens = [self._ids(index).tolist() for index in indices]
        return " / ".join(str(decode(row, skip_special_tokens=True)).strip() for row in tokens)

    def _ids(self, index: int) -> np.ndarray:
        inputs, row = self._learner.inputs, np.asarray(self._pool.tokens(index))
        return inputs.ids(row) if isinstance(inputs, Texts) else row

    @torch.no_grad()
    def _all_features(self) -> np.ndarray:
        """float64[pool, hidden], each of length 1: what the head would see of each candidate."""
        if self._pool.features is not None:
            found = np.asarray(self._pool.features, dtype=np.float64)
        else:
            network = self._learner.network
            network.load(self._weights)
            network.eval()
            parts = []
            for start in range(0, len(self._pool), _BATCH):
                indices = np.arange(start, min(start + _BATCH, len(self._pool)))
                batch = self._learner.batch(self._pool, indices)
                parts.append(network.features(batch).double().cpu().numpy())
            found = np.concatenate(parts)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def _head(learner: Learner) -> str | None:
    """Name of the weight of a linear head that is trained."""
    if not learner.job.kind.classified:
        return None
    head = learner.network.head
    if not isinstance(getattr(head, "original_module", head), torch.nn.Linear):
        return None
    own = {id(parameter) for parameter in head.parameters()}
    trained = learner.network.trained_parameters()
    return next((name for name, p in trained if id(p) in own and p.dim() == 2), None)


def _embedding(learner: Learner) -> str | None:
    """Name of the token embeddings, if they are trained."""
    table = learner.network.backbone.get_input_embeddings().weight  # type: ignore[operator]
    return next((name for name, p in learner.network.trained_parameters() if p is table), None)
