"""The work on an owner's records: training and testing the model that came."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

from ..errors import PlanRefused
from ..job import Job
from ..learning.counts import counting
from ..learning.examples import Examples
from ..learning.failures import Touch
from ..learning.features import with_features
from ..learning.filling import NO_LENGTH, NOTHING, Costs, Filling, Invented, UpTo
from ..learning.metrics import Counts
from ..learning.model import Learner
from ..learning.pace import Pace
from ..learning.probing.received import ReceivedWeights
from ..learning.resting import training_only
from ..learning.steps import PrivateSteps
from ..learning.tasks import Task
from ..learning.trainer import Outcome, StepRange, test, train
from ..planning.losses import clip_of_loss, releases_loss
from ..privacy.noise.sizes import Sizes
from ..strategies import LocalRule
from ..wire.arrays import Arrays

Side = Literal["train", "test"]


@dataclass(frozen=True)
class LocalData:
    """One owner's examples, and what its account is about."""

    train: Examples
    test: Examples
    counts: Sizes
    """The true sizes, around which the published ones are drawn. A secret."""
    records_per_group: int | None = None
    """At most this many records of a group in a step; None if the job does not protect groups."""

    @property
    def grouped(self) -> bool:
        """Whether it is known which examples belong together."""
        return self.train.groups is not None and self.test.groups is not None


class OutOfTime(PlanRefused):
    """The work has taken longer than the owner lets a whole run take; nothing of it is left."""


class Work(Protocol):
    """What an owner's machine computes from its records.

    Under privacy no record decides whether there is a result: the model fails on a record, and the
    record is left out (``learning.trainer``). What is raised all the same has no record to blame.
    """

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the tensors that travel."""
        ...

    @property
    def personal(self) -> Arrays:
        """What the tensors begin with that each owner trains for itself, and that do not travel."""
        ...

    @property
    def base_model(self) -> str:
        """SHA-256 of the base model's files."""
        ...

    @property
    def fixed(self) -> str:
        """SHA-256 of the adapter's tensors that nobody trains; empty if there are none."""
        ...

    @property
    def grouped(self) -> bool:
        """Whether it is declared which examples belong together."""
        ...

    @property
    def records_per_group(self) -> int | None:
        """As the owner declared."""
        ...

    @property
    def interruptions(self) -> int:
        """How often the process that works had to be started, or prepared, again before it answered."""
        ...

    def open(self) -> object:
        """Have the records read. What is above is known without."""
        ...

    def prepare(self) -> None:
        """Compute what does not change from round to round."""
        ...

    def checked(self, arrays: Arrays, names: Collection[str] | None = None) -> None:
        """Raise ``ModelError`` for weights that no private step is taken from; no record takes part.

        names: of the tensors that the steps would train. Default: all.
        """
        ...

    def tested(
        self, job: Job, arrays: Arrays, *, fill: int | None = None, side: Side = "test"
    ) -> Counts:
        """Counts of the model on the held-out records, of the kind that the job says.

        side: "train" for those on the training records; if an owner releases its loss, with its clip.

        fill: the work is worth so many records of the greatest length, whatever there is
        (``learning.filling``).
        """
        ...

    def trained(
        self,
        job: Job,
        round_: int,
        arrays: Arrays,
        private: PrivateSteps | None = None,
        local: LocalRule | None = None,
        *,
        names: Collection[str] | None = None,
        records: bool = True,
        fill: int | None = None,
    ) -> Outcome:
        """Take a round's steps. Without `records`: what an owner of no record would come to.

        names: of the tensors that the round trains. Default: all.
        fill: as in ``tested``; what the same steps have cost in vain just before counts towards it.
        """
        ...

    def trained_apart(
        self,
        job: Job,
        round_: int,
        own: Arrays,
        local: LocalRule,
        *,
        records: bool = True,
        fill: int | None = None,
    ) -> Outcome:
        """As many steps, without noise, of a model of the owner's own; how far they moved it.

        own: how far it is from the job's first model, by the names that travel.
        """
        ...


@dataclass(frozen=True)
class Workplace:
    """A process's loaded model, shared by the agents that live in it."""

    learner: Learner
    task: Task

    @cached_property
    def received(self) -> ReceivedWeights:
        """The check of weights that come from a server."""
        return ReceivedWeights(self.learner, self.task)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: array.shape for name, array in self.learner.initial.items()}


class WorkHere:
    """The work in this process. `touch`: as in ``learning.trainer.train``."""

    interruptions = 0

    def __init__(
        self,
        name: str,
        workplace: Workplace,
        data: LocalData,
        pace: Pace | None = None,
        touch: Touch | None = None,
    ) -> None:
        """pace: of this machine with this model, for answers that are filled."""
        self._name, self._workplace, self._data = name, workplace, data
        self._pace, self.touch = pace, touch
        self._in_vain: Filling = NOTHING
        self._unreadable: dict[Side, Exception] = {}
        self._invented: dict[Costs, Invented] = {}
        self._featured: dict[str, Examples] = {}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self._workplace.shapes

    @property
    def personal(self) -> Arrays:
        return self._workplace.learner.personal

    @property
    def base_model(self) -> str:
        return self._workplace.learner.shape().base_digest

    @property
    def fixed(self) -> str:
        return self._workplace.learner.fixed_digest

    @property
    def grouped(self) -> bool:
        return self._data.grouped

    @property
    def records_per_group(self) -> int | None:
        return self._data.records_per_group

    def open(self) -> None:
        """They are."""

    def prepare(self) -> None:
        self._examples("train"), self._examples("test")

    def checked(self, arrays: Arrays, names: Collection[str] | None = None) -> None:
        with training_only(self._workplace.learner.network, names):
            self._workplace.received.check(arrays)

    def tested(
        self, job: Job, arrays: Arrays, *, fill: int | None = None, side: Side = "test"
    ) -> Counts:
        workplace, filling = self._workplace, self.filling("test", fill)
        clip = clip_of_loss(job) if side == "train" and releases_loss(job) else None

        def counts(examples: Examples) -> Counts:
            return test(
                workplace.learner,
                counting(job, workplace.task, clip),
                arrays,
                examples,
                forgiving=job.private,
                touch=self.touch,
                filling=filling,
            )

        try:
            examples = self._examples(side)
        except Exception:
            if filling is not NOTHING:
                counts(self._none(side))
            raise
        return counts(examples)

    def trained(
        self,
        job: Job,
        round_: int,
        arrays: Arrays,
        private: PrivateSteps | None = None,
        local: LocalRule | None = None,
        *,
        names: Collection[str] | None = None,
        records: bool = True,
        fill: int | None = None,
    ) -> Outcome:
        return self._trained(
            job, round_, arrays, private, local, self._name, names, records=records, fill=fill
        )

    def trained_apart(
        self,
        job: Job,
        round_: int,
        own: Arrays,
        local: LocalRule,
        *,
        records: bool = True,
        fill: int | None = None,
    ) -> Outcome:
        first = self._workplace.learner.initial
        arrays = {name: array + own[name] for name, array in first.items()}
        who = f"{self._name}, apart"
        return self._trained(
            job, round_, arrays, None, local, who, None, records=records, fill=fill
        )

    def _trained(
        self,
        job: Job,
        round_: int,
        arrays: Arrays,
        private: PrivateSteps | None,
        local: LocalRule | None,
        who: str,
        names: Collection[str] | None,
        *,
        records: bool,
        fill: int | None,
    ) -> Outcome:
        steps = StepRange(
            first=(round_ - 1) * job.training.local_steps,
            count=job.training.local_steps,
            total=job.training.rounds * job.training.local_steps,
        )
        filling = self.filling("train", fill, NOTHING if records else self._in_vain)
        self._in_vain = NOTHING
        try:
            return train(
                self._workplace.learner,
                self._workplace.task,
                arrays,
                self._examples("train") if records else self._none("train"),
                steps,
                seed=job.seed,
                who=who,
                private=private,
                local=copy.deepcopy(local),  # what it notes in vain is of that training alone
                names=names,
                touch=self.touch,
                filling=filling,
            )
        except Exception:
            self._in_vain = filling
            raise

    def _none(self, side: Side) -> Examples:
        """No examples, which go the way that some would."""
        examples = self._data.train if side == "train" else self._data.test
        return with_features(self._workplace.learner, examples.none())

    def filling(self, side: Side, fill: int | None, in_vain: Filling = NOTHING) -> Filling:
        """For an answer that is worth so many records, of which some work was in vain."""
        if fill is None or self._pace is None:
            return NOTHING
        costs = self._pace.training if side == "train" else self._pace.testing
        if costs not in self._invented:
            learner = self._workplace.learner
            self._invented[costs] = Invented(
                learner, costs.rows, costs.lengths, on_features=costs.lengths == (NO_LENGTH,)
            )
        steps = self._workplace.learner.job.training.local_steps if side == "train" else 1
        done = in_vain.done if isinstance(in_vain, UpTo) else 0.0
        return UpTo(costs, self._invented[costs], costs.most(fill, steps), done, in_vain.steps)

    def _examples(self, side: Side) -> Examples:
        """This owner's examples, with their features where only a head trains; found, or not, once."""
        if side in self._unreadable:
            raise self._unreadable[side]
        if side not in self._featured:
            examples = self._data.train if side == "train" else self._data.test
            try:
                self._featured[side] = with_features(self._workplace.learner, examples, self.touch)
            except Exception as error:
                self._unreadable[side] = error
                raise
        return self._featured[side]
