"""Rounds of training on one set of examples, without a federation: for comparisons and audits."""

from __future__ import annotations

from collections.abc import Callable

from ..wire.arrays import Arrays
from .examples import Examples
from .model import Learner
from .steps import PrivateSteps
from .tasks.task import Objective
from .trainer import Outcome, StepRange, train


def train_alone(
    learner: Learner,
    task: Objective,
    examples: Examples,
    rounds: int,
    local_steps: int,
    *,
    who: str,
    private: Callable[[int], PrivateSteps | None],
    tell: Callable[[Arrays], None] = lambda _: None,
    train: Callable[..., Outcome] = train,
) -> Arrays:
    """The model after `rounds` rounds of `local_steps` steps, from the learner's initial one on.

    `private` gives what makes the steps of a round (0, 1, ...) private, or None for plain ones;
    `tell` hears each round's update.
    """
    model = {**learner.initial, **learner.personal}
    for round_ in range(rounds):
        outcome = train(
            learner,
            task,
            model,
            examples,
            StepRange(round_ * local_steps, local_steps, rounds * local_steps),
            seed=learner.job.seed,
            who=who,
            private=private(round_),
        )
        model |= {name: model[name] + update for name, update in outcome.update.items()}
        tell(outcome.update)
    return model
