"""The plan: what a job will run at every client, and what that guarantees.

``Plan.compile`` is where learning, privacy, strategy and cohort meet before anything runs. It
refuses what cannot be right (every reason at once), finds each client's noise for the target
epsilon over the whole job, and states the guarantee in one sentence. Server and agents derive
their numbers from the same functions here, so an agent never has to take one on trust.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import PlanRefused
from ..job import Job
from ..privacy.accounting.accountant import MechanismEvent
from ..privacy.secagg.parameters import Thresholds
from ..privacy.secagg.roster import Limits
from .client_level import client_refusals, client_warnings
from .encryption import (
    encryption_facts,
    encryption_refusals,
    fewest_answers,
    group_thresholds,
    server_sees,
)
from .evaluation import (
    chosen_tests,
    deviation,
    evaluation_facts,
    evaluation_refusals,
    evaluation_warnings,
)
from .facts import ClientFacts, some
from .guarantee import guarantee_facts, sentence
from .limits import clip_of, secure_limits
from .noise import delta_fits, delta_refusal, private_recipe
from .padding import padding_refusals, padding_warnings
from .refusals import job_refusals, refused
from .vector import Content

if TYPE_CHECKING:
    from ..learning.model import ModelShape

_FLOAT32 = 4
_WORD = 4


def sample_cohort(names: Sequence[str], job: Job, round_: int, attempt: int = 0) -> list[str]:
    """The clients asked in a round, sorted: the same for everybody who knows the seed."""
    if job.cohort.size is None or job.cohort.size >= len(names):
        return sorted(names)

    def lot(name: str) -> bytes:
        return hashlib.sha256(f"{job.seed}\n{round_}\n{attempt}\n{name}".encode()).digest()

    return sorted(sorted(names, key=lot)[: job.cohort.size])


@dataclass(frozen=True)
class ClientPlan:
    """One client's part in the job."""

    name: str
    size: int
    """The account's published size: with noise, never what there is."""
    training_share: float
    holds_out: bool
    training_size: int
    rounds: int
    steps: int
    """Steps of training; under client-level privacy, releases with noise."""
    weight: int
    sampling_rate: float | None
    noise_multiplier: float | None
    epsilon: float | None
    events: dict[str, MechanismEvent]
    """What the job spends of this client's privacy, by what for: all of them make its epsilon."""


@dataclass(frozen=True)
class UnderWay:
    """What a run in progress has fixed, when it goes on with other clients under another roster."""

    tests: int
    participations: Mapping[str, int]
    """Rounds that each client's noise is made for."""
    left: Sequence[ClientFacts] = ()
    """Clients that took part before."""


@dataclass(frozen=True)
class Plan:
    """A job that can run, and what it guarantees."""

    job: Job
    model: ModelShape
    clients: tuple[ClientPlan, ...]
    warnings: tuple[str, ...]
    consortium: int
    """Members of the roster, whether they take part in this job or not."""
    tests: int
    """How often the owners test the model (``schedule.rounds_tested``)."""
    blur: float | None
    """Standard deviation that noise gives the main figure of a test."""
    left: tuple[ClientPlan, ...] = ()
    """Clients that take part no longer: what they were planned to spend still counts."""

    @classmethod
    def compile(
        cls,
        job: Job,
        facts: Sequence[ClientFacts],
        model: ModelShape,
        consortium: int | None = None,
        padding_cost: float | None = None,
        under_way: UnderWay | None = None,
    ) -> Plan:
        """Check everything together; a ``PlanRefused`` lists all reasons.

        `consortium` is the number of the roster's members (default: the clients are all of them),
        `padding_cost` how many times the texts' own tokens are computed, where that is known.
        """
        consortium = len(facts) if consortium is None else consortium
        tests = under_way.tests if under_way else chosen_tests(job, facts, consortium)
        reasons = _refusals(job, facts, model, consortium, tests, begun=under_way is not None)
        if reasons:
            raise refused(reasons)
        rounds = participations_of(job, [client.name for client in facts])
        rounds |= under_way.participations if under_way else {}
        clients, left = (
            tuple(_plan_client(job, client, rounds[client.name], tests) for client in many)
            for many in (facts, under_way.left if under_way else ())
        )
        planned = max((client.epsilon or 0.0 for client in clients), default=0.0)
        if job.private and planned > job.privacy.owner_limit:
            raise PlanRefused(
                f"This job is refused: its rounds cost epsilon {planned:.4g}, and each client's agent "
                f"would end its part at privacy.limit = {job.privacy.owner_limit:g}: raise it, or lower "
                f"privacy.epsilon (now {job.privacy.epsilon:g})"
            )
        blur = deviation(job, facts, consortium, tests)
        warnings = _warnings(job, facts) + evaluation_warnings(job, facts, tests, blur)
        warnings += padding_warnings(job, model.verdict, padding_cost)
        if job.per_client:
            warnings += client_warnings(job, facts, consortium)
        return cls(job, model, clients, tuple(warnings), consortium, tests, blur, left)

    @property
    def minimum(self) -> int:
        """Fewest answers for a round to count, and clients in all its sums together."""
        return fewest_answers(self.job, self.cohort_size, self.consortium)

    @property
    def limits(self) -> Limits:
        """What every member of the secure sums insists on."""
        return secure_limits(self.job.encryption)

    @property
    def clip(self) -> float:
        """Largest magnitude of an entry of an update under secure aggregation."""
        return clip_of(self.job, self.model.trained_parameters, self.consortium)

    @property
    def weight_cap(self) -> int:
        """No client may weigh more in a sum."""
        return max(client.weight for client in self.clients)

    @cached_property
    def _thresholds(self) -> list[Thresholds]:
        """The numbers of each group of a full cohort."""
        return group_thresholds(self.job, self.cohort_size, self.consortium)

    @property
    def cohort_size(self) -> int:
        return min(self.job.cohort.size or len(self.clients), len(self.clients))

    @property
    def total_weight(self) -> int:
        """No round can weigh more than this: bounds the fixed-point sum."""
        return sum(client.weight for client in self.clients)

    @cached_property
    def by_name(self) -> dict[str, ClientPlan]:
        return {client.name: client for client in self.clients}

    @property
    def everybody(self) -> tuple[ClientPlan, ...]:
        """Those that take part, and those that did."""
        return tuple(sorted((*self.clients, *self.left), key=lambda client: client.name))

    @property
    def epsilon(self) -> float | None:
        """The largest planned epsilon of any client; clients hold disjoint data."""
        values = [client.epsilon for client in self.everybody if client.epsilon is not None]
        return max(values) if values else None

    @property
    def guarantee(self) -> str:
        """What is promised, to whom, and what is not, in one sentence."""
        if self.epsilon is None and not self.job.encrypted:
            return sentence(self.job, None, self.consortium, self.tests)
        promised = sentence(self.job, self.epsilon, self.consortium, self.tests)
        return f"{promised} {self.server_sees}"

    @property
    def server_sees(self) -> str:
        """What the server can read, in one sentence."""
        return server_sees(self.job, self._thresholds, self.consortium)

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON values, as written to plan.json."""
        job, parameters = self.job, self.model.trained_parameters
        return {
            "name": job.name,
            "task": job.task,
            "base": job.model.base,
            "base_sha256": self.model.base_digest,
            "padding": job.model.padding,
            "loader": self.model.loader,
            "adapter": job.adapter,
            "strategy": job.strategy.name,
            "weighting": job.weighting,
            "rounds": job.training.rounds,
            "local_steps": job.training.local_steps,
            "batch_size": job.training.batch_size,
            "cohort": {"size": self.cohort_size, "minimum": self.minimum},
            "spares": self._spares(),
            "clients": [asdict(client) for client in self.everybody],
            "left": [client.name for client in self.left],
            "tests": self.tests,
            "trainable_parameters": parameters,
            "total_parameters": self.model.total_parameters,
            "bytes_up_per_client_round": self._bytes_up,
            "bytes_down_per_client_round": parameters * _FLOAT32,
            "privacy": job.privacy.model_dump(),
            "encryption": encryption_facts(job, self._thresholds, self.consortium, parameters),
            "evaluation": evaluation_facts(job, self.tests, self.blur),
            "guarantee": self.guarantee,
            "proof": guarantee_facts(job, self.epsilon, self.consortium),
            "warnings": list(self.warnings),
        }

    def _spares(self) -> dict[str, Any]:
        """How many rounds may be trained anew, and how many times larger that makes all noise."""
        job = self.job
        if not job.private or not self.clients or not job.spare_rounds:
            return {"rounds": job.spare_rounds if job.private else 0, "noise": 1.0}
        one = self.clients[0]
        spec = job.privacy.model_copy(update={"spare_rounds": 0})
        without = job.model_copy(update={"privacy": spec})
        bare = private_recipe(without, one.training_size, one.rounds, self.tests).noise_multiplier
        return {"rounds": job.spare_rounds, "noise": (one.noise_multiplier or bare) / bare}

    @property
    def _bytes_up(self) -> int:
        """Bytes of one client's update; masked, the counts of a test travel in it as well."""
        if not self.job.encrypted:
            return self.model.trained_parameters * _FLOAT32
        rides = self.tests > 1  # the last test travels alone
        return (
            _WORD
            * Content(self.job, self.model.trained, True, rides, self.consortium).layout.length
        )


def participations_of(job: Job, names: Sequence[str]) -> dict[str, int]:
    """Rounds in which each client is asked, if all of them are there."""
    if job.cohort.size is None or job.cohort.size >= len(names):
        return dict.fromkeys(names, job.training.rounds)
    counts = dict.fromkeys(names, 0)
    for round_ in range(1, job.training.rounds + 1):
        for name in sample_cohort(names, job, round_):
            counts[name] += 1
    return counts


def _plan_client(job: Job, client: ClientFacts, participations: int, tests: int) -> ClientPlan:
    recipe = None
    if job.private:
        recipe = private_recipe(job, client.training_size, participations, tests)
    return ClientPlan(
        name=client.name,
        size=client.size,
        training_share=client.training_share,
        holds_out=client.holds_out,
        training_size=client.training_size,
        rounds=participations,
        steps=participations * (recipe.round_event.steps if recipe else job.training.local_steps),
        weight=client.training_size if job.weighting == "examples" else 1,
        sampling_rate=recipe.sampling_rate if recipe else None,
        noise_multiplier=recipe.noise_multiplier if recipe else None,
        epsilon=recipe.epsilon if recipe else None,
        events=recipe.planned if recipe else {},
    )


def _refusals(
    job: Job,
    facts: Sequence[ClientFacts],
    model: ModelShape,
    consortium: int,
    tests: int,
    begun: bool,
) -> list[str]:
    """Every reason why this job cannot be right; empty when it can.

    Raises ``StrategyError`` for a strategy that cannot be built.
    """
    from ..strategies import sees

    sees(job.strategy)
    reasons = []
    if not model.trained:
        reasons.append("nothing would be trained: model.lora.target leaves no tensor")
    if job.cohort.size and job.cohort.size > len(facts) and not begun:
        reasons.append(f"cohort.size is {job.cohort.size}, but there are only {len(facts)} clients")
    if job.cohort.minimum and job.cohort.minimum > len(facts):
        reasons.append(
            f"cohort.minimum is {job.cohort.minimum}, but there are only {len(facts)} clients"
        )
    reasons += job_refusals(job)
    if job.private:
        reasons += _private_refusals(job, facts)
    if job.per_client:
        asked = participations_of(job, [client.name for client in facts])
        reasons += client_refusals(job, facts, model, consortium, asked, tests)
    reasons += padding_refusals(job, model.verdict)
    reasons += evaluation_refusals(job, facts, tests)
    return reasons + encryption_refusals(job, facts, model, consortium, tests)


def _private_refusals(job: Job, facts: Sequence[ClientFacts]) -> list[str]:
    reasons = []
    if job.per_group and job.data.group_column is None:
        reasons.append(
            'privacy.unit = "group" without data.group_column: nothing says which records belong to '
            "one person; name the column that does"
        )
    small = [client.name for client in facts if not delta_fits(job, client.size)]
    if small:
        reasons.append(delta_refusal(job, some(small)))
    return reasons


def _warnings(job: Job, facts: Sequence[ClientFacts]) -> list[str]:
    warnings = []
    if not job.private:
        warnings.append('privacy.unit = "none": nothing protects single records.')
    if not job.encrypted:
        warnings.append('encryption.mode = "none": THE SERVER READS EVERY CLIENT\'S OWN UPDATE.')
    full = [c.name for c in facts if c.training_size <= job.training.batch_size]
    if job.noised_locally and full:
        warnings.append(
            f"training.batch_size = {job.training.batch_size} takes the whole data of {some(full)} "
            "in every step: no amplification by sampling. A smaller batch needs less noise."
        )
    untested = [c.name for c in facts if not c.holds_out]
    if len(untested) == len(facts):
        where = "but for the public ones" if job.evaluation.public_path else "at all"
        warnings.append(f"No held-out records: the model will not be tested {where}.")
    elif untested:
        warnings.append(f"No held-out records at {some(untested)}.")
    return warnings
