"""The model that an owner has of its own: the shared part that came, and what its state says of the rest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UmbelError
from ..job import Job
from ..quantities import tested_keys
from ..storage.files import refuse_existing
from ..strategies import leaves_own_model, state_of
from ..strategies.contract import APART
from ..wire.arrays import Arrays
from .approvals import Approvals
from .asked import find
from .models import place_of
from .policy import Policy

if TYPE_CHECKING:
    from ..learning.model import Learner
    from .home import Home


def own_model(learner: Learner, shared: Arrays, state: Arrays) -> Arrays:
    """All tensors of an owner's model (float32), by their names.

    shared: the federation's model. state: the owner's, of which zeros are the common start. Of a strategy
    with personal tensors the model is the shared ones and these; of one that trains a whole model apart
    (``Rule.apart``) it is that one. Of any other it is the shared model.
    """
    if any(name.startswith(APART) for name in state):
        return {name: array + state[f"{APART}{name}"] for name, array in learner.initial.items()}
    own = {name: array + state[name] for name, array in learner.personal.items()}
    return {**shared, **own}


@dataclass(frozen=True)
class Written:
    """An owner's own model, as it was written."""

    run: str
    round: int
    """Of the last update that was counted."""
    path: str
    metrics: dict[str, Any]
    """On this owner's held-out records; empty without any."""

    @property
    def line(self) -> str:
        key = next((key for key in tested_keys(self.metrics) if key in self.metrics), "")
        said = f"{key} {self.metrics[key]:.4g} on " if self.metrics.get(key) is not None else ""
        tested = f"{said}{self.metrics['examples']:,} held-out records" if self.metrics else ""
        return f"{self.path}: after round {self.round}{f', {tested}' if tested else ''}"

    def to_dict(self) -> dict[str, Any]:
        return {"run": self.run, "round": self.round, "path": self.path, "metrics": self.metrics}


def write_own_model(home: Home, run: str, out: Path | None = None) -> Written:
    """Write an owner's own model of a finished run as a plain adapter, and test it here.

    No other user of this machine can read it: with some strategies no noise covers it. run: its name or id,
    or how it begins. out: a new folder; default, one of the owner's. Raises ``UmbelError`` if the owner has
    no such model, ``FileError`` if there is something at `out`.
    """
    from ..learning.export import export_adapter
    from ..learning.features import with_features
    from ..learning.loading import load_learner
    from ..learning.predict import load_adapter
    from ..learning.tasks import task_for
    from ..learning.trainer import test
    from ..planning.shaping import shaping_of

    if out is not None:
        refuse_existing(out)
    row = find(run, Approvals(home.jobs), home.decisions)
    job, policy = Job.build(row["job"], source=f"the job of {row['run']}"), Policy.read(home.policy)
    accepted, signed = tuple(policy.jobs.strategies), job.digest()
    if not leaves_own_model(job.strategy, accepted):
        raise UmbelError(
            f"{row['run']} has no model of the owner's own: its strategy is {job.strategy.name}, and its "
            "result is everybody's. See: umbel client models"
        )
    training = job.training.model_copy(update={"device": policy.resources.device})
    job = job.model_copy(update={"training": training})
    classes = len(job.data.labels or ())
    learner = load_learner(job, classes, shaping_of(job, accepted))
    shapes = state_of(job.strategy, learner.shape().everything, accepted)
    own, result = (
        home.own_models.current(row["run"], signed, shapes),
        place_of(home.models.folder, job, row["run"]),
    )
    if own is None or not result.is_dir():
        raise UmbelError(
            f"{home.name} has no model of its own from {row['run']}. It has one when the run's result has "
            "arrived, if its policy accepts results and keeps the model (results.accept, results.keep_own)"
        )
    shared = learner.initial
    if learner.personal:
        load_adapter(learner, result / "adapter")
        now = learner.network.arrays()
        shared = {name: now[name] for name in learner.initial}
    model = own_model(learner, shared, own.arrays)
    place = out or place_of(home.path / "own-models", job, row["run"])
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    export_adapter(learner, model, place, private=True)
    examples = with_features(learner, home.source.load(job).test)
    metrics: dict[str, Any] = {}
    if len(examples):
        metrics = test(learner, task_for(job, classes), model, examples).metrics(
            job.data.labels or []
        )
    return Written(row["run"], own.round, str(place), metrics)
