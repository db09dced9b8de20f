"""One process of a simulation: a loaded model, and every virtual owner that it may speak for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..client.agent import Agent
from ..client.kept import KeptUpdates
from ..client.own_model import own_model
from ..client.own_state import OwnStates
from ..client.policy import Policy
from ..client.work import WorkHere, Workplace
from ..job import Job
from ..learning.alone import train_alone
from ..learning.examples import Examples
from ..learning.export import export_adapter
from ..learning.features import with_features
from ..learning.loading import load_learner
from ..learning.model import ModelShape
from ..learning.probing.probe import probed
from ..learning.sample_answers import sample_answers
from ..learning.steps import PrivateSteps
from ..learning.tasks import task_for
from ..learning.trainer import test
from ..planning.cohorts import attackers_of
from ..planning.noise import private_recipe
from ..planning.shaping import shaping_of
from ..privacy.randomness import SecretStream, reproducible_stream
from ..server.holdout import PublicRecords, PublicTest
from ..strategies import state_of
from ..wire.arrays import Arrays
from .attackers import Attackers, Attacking
from .federation import Federation
from .membership import membership
from .partition import Share

if TYPE_CHECKING:
    from flwr.app import Message


@dataclass(frozen=True)
class SiteSettings:
    """What a process needs to become a site."""

    federation: Federation
    ledgers: Path
    owners: Path
    """Folder with a folder for each owner: keys, journals, and its own log."""
    reproducible: bool
    public: PublicRecords | None = None
    """The records on which the server itself tests; in a simulation a worker holds the model for it."""
    threads: int = 1


class Site:
    """Loads the model once; agents differ in data, ledger and secrets only."""

    def __init__(self, settings: SiteSettings) -> None:
        import torch

        # One fixed number of threads everywhere: sums inside a matrix product depend on it.
        torch.set_num_threads(settings.threads)
        self._settings = settings
        self._federation = settings.federation
        self._agents: dict[int, Agent] = {}

    @cached_property
    def workplace(self) -> Workplace:
        job, classes = self._federation.job, self._federation.classes
        return Workplace(
            probed(load_learner(job, classes, shaping_of(job))), task_for(job, classes)
        )

    def handle(self, node: int, message: Message) -> Message:
        """Let the owner behind a node answer."""
        if node not in self._agents:
            self._agents[node] = self._agent(node)
        return self._agents[node].handle(message)

    def model(self) -> tuple[ModelShape, Arrays]:
        """Shape and initial tensors of the model."""
        return self.workplace.learner.shape(), self.workplace.learner.initial

    def features(self, name: str, side: str) -> None:
        """Compute what a head reads of a client's records, unless that is in the cache."""
        self._featured(name, side)

    def public_test(self, arrays: Arrays) -> dict[str, Any]:
        """Figures of a model on the public hold-out."""
        return self._public_test(arrays)

    @cached_property
    def _public_test(self) -> PublicTest:
        records = self._settings.public
        assert records is not None
        return PublicTest(self.workplace.learner, records)

    def export(self, arrays: Arrays, folder: Path) -> None:
        export_adapter(self.workplace.learner, arrays, folder)

    def answers(self, before: Arrays, after: Arrays) -> list[dict[str, Any]]:
        """What answers.json says of held-out dialogues; the last that is asked of a process."""
        return sample_answers(self.workplace.learner, self._federation.samples, before, after)

    def own_model(
        self, name: str, run: str, counted: int, shared: Arrays, place: Path | None
    ) -> tuple[int, dict[str, list[float]]]:
        """An owner's own model at the end of a run, and the shared one: counts on the owner's held-out
        records, and the round that its state is of. The own one is exported to `place`."""
        learner, task, job = self.workplace.learner, self.workplace.task, self._federation.job
        shapes = state_of(job.strategy, learner.shape().everything)
        states = own_states(self._settings.owners, name)
        # A simulation believes itself.
        own = states.begin(run, job.digest(), shapes, counted, lambda _: True)
        model = own_model(learner, shared, own.arrays)
        if place is not None:
            place.parent.mkdir(exist_ok=True)
            export_adapter(learner, model, place)
        examples = self._featured(name, "test")
        if not len(examples):
            return own.round, {}
        models = {"own": model, "shared": shared}
        return own.round, {k: test(learner, task, m, examples).to_list() for k, m in models.items()}

    def train_apart(self, names: list[str], *, noise: bool) -> dict[str, list[float]]:
        """What these clients reach with their data together but without the rest.

        The same rounds and local steps as the federation, each step on as many examples as all of
        `names` would use in one; a private job's clipping stays, its noise only if `noise`. Gives
        counts on everybody's held-out records, by client. It exists for comparison in a simulation
        and charges no ledger.
        """
        job, workplace = self._federation.job, self.workplace
        chosen = [share for share in self._federation.shares if share.name in names]
        size = job.training.batch_size * len(chosen)
        job = job.model_copy(
            update={"training": job.training.model_copy(update={"batch_size": size})}
        )
        learner = replace(workplace.learner, job=job)
        examples = Examples.concatenate([self._featured(share.name, "train") for share in chosen])

        def private(round_: int) -> PrivateSteps | None:
            if not job.noised_locally:
                return None
            sizes = sum(self._federation.training_size(share) for share in chosen)
            return self._private_steps(job, sizes, f"apart/{names}/{round_}", noise)

        arrays = train_alone(
            learner,
            workplace.task,
            examples,
            job.training.rounds,
            job.training.local_steps,
            who="+".join(names),
            private=private,
        )
        return {
            share.name: test(
                learner, workplace.task, arrays, self._featured(share.name, "test")
            ).to_list()
            for share in self._federation.shares
            if len(share.test)
        }

    def _private_steps(self, job: Job, size: int, what: str, noise: bool) -> PrivateSteps:
        recipe = private_recipe(job, size, job.training.rounds)
        return PrivateSteps(
            recipe.sampling_rate,
            recipe.sampling_rate * size,
            recipe.noise_multiplier if noise else 0.0,
            job.privacy.clipping_norm,
            self._secrets(what).key(),
            job.data.records_per_group if job.per_group else None,
        )

    @cached_property
    def _attackers(self) -> Attackers:
        """Those that attack, by the job's seed."""
        job, federation = self._federation.job, self._federation
        shares = {share.name: share for share in federation.shares}
        names = attackers_of(list(shares), job)

        def steps(name: str, round_: int) -> PrivateSteps | None:
            if not job.noised_locally:
                return None
            # Nobody's privacy rests on it: that of the attackers' records in a simulation.
            key = reproducible_stream(job.seed, f"attackers/{name}/{round_}").key()
            size = federation.training_size(shares[name])
            return replace(self._private_steps(job, size, "", noise=True), key=key)

        members = {name: federation.data(shares[name]) for name in names}
        return Attackers(job, len(shares), members, lambda: self.workplace, steps)

    def _work(self, share: Share) -> WorkHere:
        data = self._federation.data(share)
        if share.name in self._attackers.members:
            return Attacking(share.name, self.workplace, data, self._attackers)
        return WorkHere(share.name, self.workplace, data)

    def _agent(self, node: int) -> Agent:
        share = self._federation.shares[node - FIRST_NODE]
        settings, job = self._settings, self._federation.job
        return Agent(
            share.name,
            self._work(share),
            self._federation.account(share),
            settings.ledgers / f"{share.name}.sqlite",
            policy=Policy.simulated(job, job.simulation.rank_of(node - FIRST_NODE)),
            membership=membership(settings.owners, share.name) if job.encrypted else None,
            log=owner_log(settings.owners, share.name),
            secrets=self._secrets,
            replayable=settings.reproducible,
            kept=KeptUpdates(settings.owners / share.name / "kept"),
            states=own_states(settings.owners, share.name),
        )

    def _featured(self, name: str, side: str) -> Examples:
        share = next(share for share in self._federation.shares if share.name == name)
        return with_features(self.workplace.learner, getattr(self._federation.data(share), side))

    @property
    def _secrets(self) -> Callable[[str], SecretStream]:
        if not self._settings.reproducible:
            return lambda _: SecretStream.from_os()
        seed = self._federation.job.seed
        return lambda what: reproducible_stream(seed, what)


def own_states(owners: Path, name: str) -> OwnStates:
    """Where an owner keeps what its strategy has it keep: on the disk, however many owners there are."""
    return OwnStates(owners / name / "states")


def owner_log(owners: Path, name: str) -> Path:
    """An owner's own figures, one line of JSON for each test of a model."""
    return owners / name / "metrics.jsonl"


FIRST_NODE = 2
"""Node ids of clients start here; the server is node 1."""
