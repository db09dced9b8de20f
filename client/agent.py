"""The agent: where an owner's data is touched, and where the owner's rules hold.

``Agent.handle`` answers one request at a time, in a simulation by a function call, in a deployment
through a service. Every request carries the whole job, so the agent remembers nothing but its
ledger. It derives its own noise from the job and its own data; the server cannot ask for less.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .. import __version__
from ..errors import BudgetExceeded, MessageError, PlanRefused, UmbelError
from ..job import Job
from ..learning.examples import Examples
from ..learning.features import with_features
from ..learning.model import Learner
from ..learning.tasks import Task
from ..learning.trainer import PrivateSteps, StepRange, test, train
from ..messages import (
    ASSIGNMENT,
    EVALUATE,
    FAILED,
    PREPARE,
    REFUSED,
    TRAIN,
    WEIGHT,
    Arrays,
    Assignment,
    Readiness,
    only_arrays,
    to_array_record,
    to_arrays,
)
from ..plan import PrivateRecipe, private_recipe
from ..privacy.accounting import size_class
from ..privacy.ledger import Ledger
from ..privacy.randomness import SecretStream

if TYPE_CHECKING:
    from flwr.app import Message, RecordDict


@dataclass(frozen=True)
class LocalData:
    """One owner's examples. `fingerprint` names all its records to the ledger, however split."""

    train: Examples
    test: Examples
    fingerprint: str


@dataclass(frozen=True)
class Workplace:
    """A process's loaded model, shared by the agents that live in it."""

    learner: Learner
    task: Task

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: array.shape for name, array in self.learner.initial.items()}


class Agent:
    """One data owner in one process.

    `secrets` gives the stream that batches and noise of a request are drawn from; only a
    reproducible simulation or rehearsal passes another than the operating system's, and
    `replayable` then says that a repeated request draws the very same noise.
    """

    def __init__(
        self,
        name: str,
        workplace: Workplace,
        data: LocalData,
        ledger: Path,
        *,
        secrets: Callable[[str], SecretStream] = lambda _: SecretStream.from_os(),
        replayable: bool = False,
    ) -> None:
        self.name = name
        self._workplace = workplace
        self._data = data
        self._ledger = ledger
        self._secrets = secrets
        self._replayable = replayable
        self._featured: dict[str, Examples] = {}

    def handle(self, message: Message) -> Message:
        """Answer a request with a reply, or with an error that tells nothing of the data."""
        from flwr.app import Message

        from ..flower import refuse

        actions = {PREPARE: self._prepare, TRAIN: self._train, EVALUATE: self._evaluate}
        try:
            action = actions.get(message.metadata.message_type)
            if action is None:
                raise MessageError(f"Unknown request {message.metadata.message_type!r}")
            return Message(action(self._assignment(message), message), reply_to=message)
        except (BudgetExceeded, PlanRefused) as error:
            return refuse(message, REFUSED, str(error))
        except _Unspoken as error:
            logging.getLogger(__name__).error("%s: %s", self.name, error)
            return refuse(message, FAILED, "training failed; the reason is in the client's own log")
        except UmbelError as error:
            return refuse(message, FAILED, str(error))
        except Exception as error:
            logging.getLogger(__name__).exception("%s failed", self.name)
            return refuse(message, FAILED, f"internal error at the client ({type(error).__name__})")

    def _assignment(self, message: Message) -> Assignment:
        assignment = Assignment.from_record(message.content.config_records[ASSIGNMENT])
        if assignment.version != __version__:
            raise PlanRefused(
                f"{self.name} runs Umbel {__version__}, the server {assignment.version}: "
                "install the same version on both sides"
            )
        return assignment

    def _prepare(self, assignment: Assignment, message: Message) -> RecordDict:
        from flwr.app import RecordDict

        job = _job(assignment)
        if job.private:
            self._check_budget(job, assignment)
        self._examples("train"), self._examples("test")
        learner = self._workplace.learner
        readiness = Readiness(
            version=__version__,
            name=self.name,
            base_model=learner.shape().base_digest,
            size_class=size_class(len(self._data.train)),
        )
        return RecordDict({"readiness": readiness.to_record()})

    def _train(self, assignment: Assignment, message: Message) -> RecordDict:
        from flwr.app import MetricRecord, RecordDict

        job = _job(assignment)
        arrays = self._global_model(message)
        steps = StepRange(
            first=(assignment.round - 1) * job.training.local_steps,
            count=job.training.local_steps,
            total=job.training.rounds * job.training.local_steps,
        )
        metrics: dict[str, int | float | list[int] | list[float]] = {}
        private = None
        if job.private:
            metrics["epsilon"] = self._reserve(job, assignment)
            private = self._private_steps(job, assignment)
        try:
            outcome = train(
                self._workplace.learner,
                self._workplace.task,
                arrays,
                self._examples("train"),
                steps,
                seed=job.seed,
                who=self.name,
                private=private,
                proximal_mu=_proximal_mu(message),
            )
        except UmbelError as error:
            # What went wrong inside a private step depends on the records that were drawn.
            raise (_Unspoken(str(error)) if job.private else error) from error
        by_size = job.weighting == "examples"
        metrics[WEIGHT] = size_class(len(self._data.train)) if by_size else 1
        if not job.private:
            metrics["loss"] = outcome.loss
        return RecordDict(
            {"arrays": to_array_record(outcome.update), "metrics": MetricRecord(metrics)}
        )

    def _evaluate(self, assignment: Assignment, message: Message) -> RecordDict:
        from flwr.app import MetricRecord, RecordDict

        counts = test(
            self._workplace.learner,
            self._workplace.task,
            self._global_model(message),
            self._examples("test"),
        )
        numbers = [float(number) for number in counts.to_list()]
        # Flower divides by the weights of a round together, so an empty test set weighs one.
        weight = max(1, len(self._data.test))
        return RecordDict({"metrics": MetricRecord({"counts": numbers, WEIGHT: weight})})

    def _global_model(self, message: Message) -> Arrays:
        return to_arrays(only_arrays(message.content), like=self._workplace.shapes)

    def _examples(self, side: Literal["train", "test"]) -> Examples:
        """This owner's examples, with their features where only a head trains; found once."""
        if side not in self._featured:
            examples = self._data.train if side == "train" else self._data.test
            self._featured[side] = with_features(self._workplace.learner, examples)
        return self._featured[side]

    def _recipe(self, job: Job, assignment: Assignment) -> PrivateRecipe:
        return private_recipe(job, size_class(len(self._data.train)), assignment.participations)

    def _private_steps(self, job: Job, assignment: Assignment) -> PrivateSteps:
        recipe = self._recipe(job, assignment)
        return PrivateSteps(
            sampling_rate=recipe.sampling_rate,
            expected_batch_size=recipe.expected_batch_size,
            noise_multiplier=recipe.noise_multiplier,
            clipping_norm=job.privacy.clipping_norm,
            stream=self._secrets(f"{self.name}/{assignment.round}"),
        )

    def _check_budget(self, job: Job, assignment: Assignment) -> None:
        """Refuse a job whose remaining rounds this data cannot pay, before it costs anything."""
        recipe = self._recipe(job, assignment)
        with Ledger(self._ledger) as ledger:
            mine = f"{assignment.run}/"
            done = {e.key.split("/")[1] for e in ledger.entries() if e.key.startswith(mine)}
            left = max(0, assignment.participations - len(done))
            ledger.ensure_affordable(
                self._data.fingerprint,
                replace(recipe.round_event, steps=recipe.round_event.steps * left),
                delta=job.privacy.delta,
                limit=job.privacy.owner_limit,
            )

    def _reserve(self, job: Job, assignment: Assignment) -> float:
        """Write this round's spending to disk before any record is read; epsilon after it."""
        with Ledger(self._ledger) as ledger:
            return ledger.reserve(
                self._data.fingerprint,
                self._recipe(job, assignment).round_event,
                job=job.digest(),
                key=f"{assignment.run}/{assignment.round}/{0 if self._replayable else assignment.attempt}",
                delta=job.privacy.delta,
                limit=job.privacy.owner_limit,
                replay=self._replayable,
            )


class _Unspoken(UmbelError):
    """An error that tells of the data, so the server must not hear its text."""


def _proximal_mu(message: Message) -> float:
    """How strongly a strategy wants steps pulled to the global model; 0 where it does not say."""
    for record in message.content.config_records.values():
        mu = record.get("proximal-mu", 0.0)
        if not isinstance(mu, int | float) or not 0 <= mu < math.inf:
            raise MessageError(f"proximal-mu = {mu!r} is not a number of 0 or more")
        if mu:
            return float(mu)
    return 0.0


def _job(assignment: Assignment) -> Job:
    return _parse_job(assignment.job)


@lru_cache(maxsize=4)
def _parse_job(text: str) -> Job:
    return Job.build(json.loads(text), source="the server's job")
