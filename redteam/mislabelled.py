"""The one-run audit from outside: records with wrong labels, judged by the final model alone.

Weaker than gradient canaries and nearer to what happens: the canaries are ordinary records, the
optimizer and its learning rate are the job's, and the attacker sees nothing but the last model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..learning.alone import train_alone
from ..learning.examples import Examples
from ..learning.model import Learner
from ..learning.tasks.task import Task
from ..privacy.randomness import SecretStream
from .canaries import CanaryAudit, FeatureLabels, Mechanism, judge
from .membership import losses_of

MOST = 1_000
"""At most this many canaries: each is a record of its own."""


def audit_from_outside(
    learner: Learner,
    task: Task,
    mechanism: Mechanism,
    train_examples: Examples,
    held_out: Examples,
    classes: int,
    *,
    claim: float,
    delta: float,
    secrets: Callable[[], SecretStream] = SecretStream.from_os,
) -> CanaryAudit:
    """Train once more at one client, with held-out records under wrong labels as canaries.

    Both sets of examples have features: the job trains a head alone.
    """
    held_out = _part(held_out, np.arange(min(MOST, len(held_out))), 0, classes)
    coins = (secrets().words(len(held_out)) & 1).astype(bool)
    wrong = _part(held_out, np.arange(len(held_out)), 1, classes)
    included = _part(held_out, np.flatnonzero(coins), 1, classes)
    examples = _joined(train_examples, included)
    expected = max(1.0, mechanism.sampling_rate * len(train_examples))
    final = train_alone(
        learner,
        task,
        examples,
        mechanism.rounds,
        mechanism.local_steps,
        who="canaries",
        private=lambda _: mechanism.private_steps(expected, secrets()),
    )
    scores = []
    for weights in (learner.initial, final):
        learner.network.load(weights)
        scores.append(losses_of(learner, task, wrong))
    return judge(coins, scores[0] - scores[1], claim, delta)


def _part(examples: Examples, indices: np.ndarray, turn: int, classes: int) -> Examples:
    """Some of the examples, with labels turned on by `turn`: 1 makes every one of them wrong."""
    labels = (examples.labels[indices] + turn) % classes
    return _of(np.asarray(examples.features)[indices], labels)


def _joined(one: Examples, other: Examples) -> Examples:
    features = np.concatenate([np.asarray(one.features), np.asarray(other.features)])
    return _of(features, np.concatenate([one.labels, other.labels]))


def _of(features: np.ndarray, labels: np.ndarray) -> Examples:
    rows = np.arange(len(labels), dtype=np.int64)
    return replace(Examples(FeatureLabels(Path(), labels), rows), features=features)
