"""The work on an owner's records: training and testing the model that came."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import UmbelError
from ..job import Job
from ..learning.counts import counting
from ..learning.examples import Examples
from ..learning.features import with_features
from ..learning.metrics import Counts
from ..learning.model import Learner
from ..learning.tasks import Task
from ..learning.trainer import Outcome, PrivateSteps, StepRange, test, train
from ..messages import Arrays, Assignment
from .answers import Unspoken, job_of


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


class Work:
    """What one owner's machine computes from its records. `log` is the owner's own file of figures."""

    def __init__(
        self, name: str, workplace: Workplace, data: LocalData, log: Path | None = None
    ) -> None:
        self._name, self._workplace, self._data, self._log = name, workplace, data, log
        self._featured: dict[str, Examples] = {}

    def prepare(self) -> None:
        """Compute what does not change from round to round."""
        self._examples("train"), self._examples("test")

    def tested(self, assignment: Assignment, arrays: Arrays) -> Counts:
        """Counts of the model on the held-out records, and a line in the owner's own log."""
        job, workplace = job_of(assignment), self._workplace
        task = counting(job, workplace.task)
        counts = test(workplace.learner, task, arrays, self._examples("test"))
        if self._log is not None:
            line = {"run": assignment.run, "round": assignment.round - assignment.test}
            line["metrics"] = counts.metrics(job.data.labels or [])
            append_line(self._log, line)
        return counts

    def trained(
        self,
        job: Job,
        assignment: Assignment,
        arrays: Arrays,
        private: PrivateSteps | None,
        proximal_mu: float,
    ) -> Outcome:
        """Take a round's steps, whose budget is reserved."""
        steps = StepRange(
            first=(assignment.round - 1) * job.training.local_steps,
            count=job.training.local_steps,
            total=job.training.rounds * job.training.local_steps,
        )
        try:
            return train(
                self._workplace.learner,
                self._workplace.task,
                arrays,
                self._examples("train"),
                steps,
                seed=job.seed,
                who=self._name,
                private=private,
                proximal_mu=proximal_mu,
            )
        except UmbelError as error:
            # What went wrong inside a private step depends on the records that were drawn.
            raise (Unspoken(str(error)) if job.private else error) from error

    def _examples(self, side: Literal["train", "test"]) -> Examples:
        """This owner's examples, with their features where only a head trains; found once."""
        if side not in self._featured:
            examples = self._data.train if side == "train" else self._data.test
            self._featured[side] = with_features(self._workplace.learner, examples)
        return self._featured[side]


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Add a line of JSON to a log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
