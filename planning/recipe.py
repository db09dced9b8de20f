"""The recipe: settings for a job that names none, chosen from public numbers alone.

A job file says what it wants, and what it leaves out has one default whatever the data. A user with a data
file alone has said nothing, and one default cannot suit 500 records and 500,000, or an epsilon of 1 and
none. The recipe sees what everybody may know (``Numbers``), never a record, a loss or an accuracy, so what it
chooses costs no privacy. Where its figures come from: benchmarks/first_result.py.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ..job import Job
from ..job.chosen import chosen_text
from .facts import ClientFacts
from .noise import private_recipe

STEPS = ("training.optimizer", "training.learning_rate", "training.momentum", "training.schedule")
"""They fit only together: if you set one of them, set the others too."""

_PLAIN: dict[str, Any] = {
    "training.rounds": 30,
    "training.local_steps": 12,
    "training.batch_size": 256,
    "training.optimizer": "sgd",
    "training.momentum": 0.9,
    "training.weight_decay": 5e-4,
    "training.schedule": "linear",
}
_PLAIN_RATE = 0.25
"""Per class, for features of length four: a step's gradient shrinks as the number of classes grows."""
_MOST_CLASSES = 12
"""Beyond this the steps do not become larger."""

_PRIVATE: dict[str, Any] = {
    "training.rounds": 20,
    "training.local_steps": 8,
    "training.optimizer": "sgd",
    "training.schedule": "linear",
    "privacy.clipping_norm": 0.5,
}
_NOISE_IN_SCORES = 1.6
"""Standard deviation of the noise in a class's score, from all steps together."""
_FARTHEST = 640.0
"""Sum of all steps' learning rates times the clipping norm: beyond this a head has learned all it can."""
_CENTRE, _CENTRE_PRIVATELY = 1, 4
"""Rounds that measure the centre of features of pictures: more under noise."""
_LARGEST_BATCH = 8192
"""So that a step takes at most a second at an owner with millions of records."""


@dataclass(frozen=True)
class Numbers:
    """All that the recipe sees beside the job: published, declared, or said by the job."""

    sizes: tuple[int, ...]
    """Published training sizes, one per client."""
    classes: int

    @classmethod
    def of(cls, job: Job, facts: Sequence[ClientFacts]) -> Numbers:
        return cls(tuple(client.training_size for client in facts), len(job.data.labels or ()))


def has_recipe(job: Job, asked: Collection[str]) -> bool:
    """Whether the recipe knows anything better than the defaults for a job of which `asked` keys are set.

    It does for a head that reads features, and classes, with records protected one by one or not at all,
    under plain averaging; not if somebody has set a key of ``STEPS``.
    """
    fits = job.kind.labelled and job.adapter == "head" and job.pooled
    fits = fits and job.strategy.name == "fedavg"
    return fits and job.privacy.unit in ("example", "none") and not set(STEPS) & set(asked)


def recipe(job: Job, asked: Collection[str], numbers: Numbers) -> dict[str, Any]:
    """Values by dotted key for what `job` leaves open: none of the keys `asked`, which somebody set.

    What is chosen fits what was set: a job of half the rounds gets a larger learning rate. Raises
    ``PlanRefused`` if no noise meets the job's epsilon.
    """
    if not has_recipe(job, asked):
        return {}
    rule = _private if job.private else _plain
    chosen = rule(job, asked, numbers)
    key = "training.rounds"
    chosen |= _centre(job, job.training.rounds if key in asked else chosen[key])
    return {key: value for key, value in chosen.items() if key not in asked}


def _plain(job: Job, asked: Collection[str], numbers: Numbers) -> dict[str, Any]:
    """Steps with momentum and without noise: nothing hinders a convex problem but too few of them."""
    rate = _PLAIN_RATE * min(max(2, numbers.classes), _MOST_CLASSES)
    return _PLAIN | {"training.learning_rate": _short(rate * (4 / job.model.feature_scale) ** 2)}


def _private(job: Job, asked: Collection[str], numbers: Numbers) -> dict[str, Any]:
    """Noised steps: the largest batch, and the largest learning rate that noise allows.

    Every owner takes all its records in every step, if they are not too many: the noise that an epsilon
    asks for grows with the root of the sampling rate at most, and what is learned with the rate itself.

    The mean of K clients' noised gradients deviates by sigma C / (B sqrt(K)) in each entry (noise
    multiplier sigma, clipping norm C, batch B). T steps whose rates fall from the first to zero add that
    up to sqrt(T / 3) times the first rate, and features of length s make it s times as much in the score
    of a class. An owner with n < B records brings n / B of a step.
    """
    sizes = numbers.sizes
    chosen = _PRIVATE | {"training.batch_size": min(max(sizes), _LARGEST_BATCH)}
    job = job.changed({key: value for key, value in chosen.items() if key not in asked})
    steps, batch = job.training.rounds * job.training.local_steps, job.training.batch_size
    norm, scale = job.privacy.clipping_norm, job.model.feature_scale
    mean_size = max(1, sum(sizes) // len(sizes))
    sigma = private_recipe(job, mean_size, job.training.rounds).noise_multiplier
    noise = scale * sigma * norm / (batch * math.sqrt(len(sizes))) * math.sqrt(steps / 3)
    whole = sum(min(size, batch) for size in sizes) / (batch * len(sizes))
    most = _FARTHEST * (4 / scale) / (norm * whole * steps / 2)
    return chosen | {"training.learning_rate": _short(min(_NOISE_IN_SCORES / noise, most))}


def _centre(job: Job, rounds: int) -> dict[str, Any]:
    """Some of the rounds for the centre, if records are pictures: those of one kind resemble each other."""
    if job.kind.reads != "pictures":
        return {}
    wanted = _CENTRE_PRIVATELY if job.private else _CENTRE
    return {"training.centre_rounds": min(wanted, rounds // 5)}


def _short(rate: float) -> float:
    return float(f"{rate:.2g}")


def source(job: Job, chosen: Collection[str], numbers: Numbers) -> str:
    """What a job says of its recipe: which keys it has chosen, and by which numbers."""
    privacy = f"epsilon {job.privacy.epsilon:g}" if job.private else "no privacy"
    sizes = numbers.sizes
    return chosen_text(
        chosen,
        f"chosen for {len(sizes)} clients that publish {sum(sizes):,} records to train on, the "
        f"largest {max(sizes):,}, {numbers.classes} classes, {privacy}",
    )
