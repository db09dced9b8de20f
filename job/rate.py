"""The learning rate of each step of a job: a function of the job alone."""

from __future__ import annotations

import math

from .training import TrainingSpec


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


def rates_of_round(round_: int, spec: TrainingSpec) -> float:
    """The sum of the learning rates of a round's steps: the same at every owner. The first round is 1."""
    first, total = (round_ - 1) * spec.local_steps, spec.rounds * spec.local_steps
    return math.fsum(
        learning_rate(step, total, spec) for step in range(first, first + spec.local_steps)
    )
