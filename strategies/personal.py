"""Strategies that leave a part of the model with each owner: local head, FedRep."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from .averaging import FedAvg
from .contract import LocalRule, Shapes, Told, told_number
from .factors import but_shared, factor_of

if TYPE_CHECKING:
    from ..job import Job


class PersonalParts(FedAvg):
    """FedAvg of the shared tensors; the personal ones stay with their owner.

    Guarantee under example- and group-level privacy: both parts are trained by the same steps of DP-SGD. A
    step clips a record's gradient over all that it trains together, and adds noise to all of it; so
    the personal part, and the shared gradient that depends on it, follow from noised steps. Under
    client-level privacy what leaves is clipped as a whole and noised, whatever an owner computed it of.
    """

    @classmethod
    def refusals(cls, job: Job) -> Iterator[str]:
        if job.evaluation.decides:
            yield (
                "an owner's personal part goes on from round to round and is not kept for an earlier "
                'one, so the shared part of the last round is the result: set evaluation.keep = "last", '
                'and no evaluation.patience; or take strategy.name = "fedavg"'
            )


class LocalHead(PersonalParts):
    """Local head (Arivazhagan et al. 2019, arXiv 1912.00818, Alg. 1: FedPer): the head is personal, and all
    else is averaged. Each step trains both.
    """

    fits = ("lora",)
    when = (
        "Owners whose classes differ in frequency or meaning, and whose texts have much in common."
    )

    @classmethod
    def personal(cls, shapes: Shapes) -> Collection[str]:
        return but_shared("AB", shapes)


_HEAD = "head-steps"


class HeadFirst(LocalRule):
    """A round's first steps train the personal head, the others the shared body.

    Which a step trains follows from its number, so a step of DP-SGD clips each record's gradient of that
    part alone, and adds noise to it alone.
    """

    def __init__(self, told: Told) -> None:
        super().__init__(told)
        self._head = told_number(told, _HEAD, 1, whole=True)

    def trains(self, step: int, names: Collection[str]) -> Collection[str]:
        head = step % self.steps < self._head
        return [name for name in names if (factor_of(name) is None) == head]


class FedRep(LocalHead):
    """FedRep (Collins et al. 2021, arXiv 2102.07078, Alg. 1): the head is personal; each round trains first
    the head, then the body, which is averaged. While one is trained, the other rests.

    head_steps: how many of a round's steps are the head's. Each step is charged like any other.
    """

    local = HeadFirst
    when = "As local-head, with enough steps in a round to fit the head to the new body first."

    def __init__(self, head_steps: int = 1, learning_rate: float = 1.0) -> None:
        super().__init__(learning_rate)
        if type(head_steps) is not int or head_steps < 1:
            raise ValueError(f"head_steps = {head_steps!r} must be a whole number of 1 or more")
        self._head_steps = head_steps

    @classmethod
    def refusals(cls, job: Job) -> Iterator[str]:
        yield from super().refusals(job)
        head, steps = job.strategy.options.get("head_steps", 1), job.training.local_steps
        if isinstance(head, int) and head >= steps:
            yield (
                f"FedRep trains the head in {head} of a round's {steps} steps, which leaves none for the "
                "shared body: raise training.local_steps or lower strategy.options.head_steps; or take "
                'strategy.name = "local-head", which trains both in each step'
            )

    def told(self, round_: int) -> Mapping[str, float]:
        return {_HEAD: self._head_steps}
