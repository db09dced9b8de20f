"""The plan: what a job will run at every client, and what that guarantees.

``Plan.compile`` is where learning, privacy, strategy and cohort meet before anything runs. It
refuses what cannot be right (every reason at once), finds each client's noise for the target
epsilon over the whole job, and states the guarantee in one sentence. Server and agents derive
their numbers from the same functions here, so an agent never has to take one on trust.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import PlanRefused
from ..job import Job
from ..privacy.accounting.accountant import MechanismEvent
from ..privacy.accounting.odds import most_right
from ..privacy.secagg.roster import Limits
from ..strategies import Channels, build_strategy, channels_over, heard_of, second_of, state_of
from ..strategies.contract import Shapes
from .buffered import buffer_warnings
from .centring import centring_warnings
from .client_level import client_warnings
from .cohorts import attackers_of, participations_of
from .comparing import comparing_facts
from .encryption import encryption_facts, server_sees
from .evaluation import chosen_tests, deviation, evaluation_facts, evaluation_warnings
from .facts import ClientFacts, some
from .guarantee import guarantee_facts, plainly, sentence
from .losses import loss_warnings
from .noise import private_recipe
from .padding import padding_warnings
from .refusals import plan_refusals, refused
from .terms import Terms
from .vector import Content, further_of

if TYPE_CHECKING:
    from flwr.serverapp.strategy import Strategy

    from ..learning.model import ModelShape

_FLOAT32 = 4
_WORD = 4


@dataclass(frozen=True)
class ClientPlan:
    """One client's part in the job."""

    name: str
    size: int
    """The account's published size: always with noise."""
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
    """What the job spends of this client's privacy, by purpose: together they make its epsilon."""


@dataclass(frozen=True)
class UnderWay:
    """What a run in progress has fixed, when it continues with other clients under another roster."""

    tests: int
    participations: Mapping[str, int]
    """Number of rounds that each client's noise is made for."""
    left: Sequence[ClientFacts] = ()
    """Clients that took part before."""


@dataclass(frozen=True)
class Plan:
    """A job that can run, and what it guarantees."""

    terms: Terms
    model: ModelShape
    clients: tuple[ClientPlan, ...]
    warnings: tuple[str, ...]
    tests: int
    """How often the owners test the model (``schedule.rounds_tested``)."""
    blur: float | None
    """Standard deviation of the main figure of a test, from its noise."""
    left: tuple[ClientPlan, ...] = ()
    """Clients that no longer take part: what they were planned to spend still counts."""

    @classmethod
    def compile(
        cls,
        job: Job,
        facts: Sequence[ClientFacts],
        model: ModelShape,
        consortium: int | None = None,
        padding_cost: float | None = None,
        under_way: UnderWay | None = None,
        *,
        virtual: bool = True,
    ) -> Plan:
        """Check everything together; a ``PlanRefused`` lists all reasons.

        `consortium` is the number of the roster's members (default: the clients are all of them),
        `padding_cost` how many times the texts' own tokens are computed, if that is known. virtual: whether
        clients of an asynchronous job are ready when its virtual clock says so; between machines each client
        says itself when it is ready.
        """
        terms = Terms(job, len(facts) if consortium is None else consortium)
        tests = under_way.tests if under_way else chosen_tests(terms, facts)
        begun, names = under_way is not None, [client.name for client in facts]
        if reasons := plan_refusals(terms, facts, model, tests, begun=begun, virtual=virtual):
            raise refused(reasons)
        rounds = participations_of(job, names, virtual=virtual)
        rounds |= under_way.participations if under_way else {}
        clients, left = (
            tuple(_plan_client(terms, client, rounds[client.name], tests) for client in many)
            for many in (facts, under_way.left if under_way else ())
        )
        _check_limit(job, clients)
        blur = deviation(terms, facts, tests)
        warnings = (
            *buffer_warnings(job, names, virtual=virtual),
            *_warnings(job, facts),
            *evaluation_warnings(job, facts, tests, blur),
            *padding_warnings(job, model.verdict, padding_cost),
            *loss_warnings(job, clients),
            *centring_warnings(job),
            *(client_warnings(terms, facts) if job.per_client else ()),
        )
        return cls(terms, model, clients, warnings, tests, blur, left)

    @property
    def job(self) -> Job:
        return self.terms.job

    @property
    def consortium(self) -> int:
        """Members of the roster, whether they take part in this job or not."""
        return self.terms.consortium

    @cached_property
    def channels(self) -> list[tuple[Channels, int]]:
        """What the strategy has rounds add up, and how many rounds the very same."""
        spec, rounds = self.job.strategy, self.job.training.rounds
        return channels_over(spec, self.model.trained, rounds, clients=self.cohort_size)

    @property
    def _heard(self) -> Shapes:
        """What the strategy sends beside the model."""
        return heard_of(self.job.strategy, self.model.trained)

    @property
    def _kept(self) -> Shapes:
        """What it has each owner keep from round to round."""
        return state_of(self.job.strategy, self.model.everything)

    @property
    def minimum(self) -> int:
        """Fewest answers for a round to count, and clients in all its sums together."""
        return self.terms.fewest_answers(self.cohort_size)

    @property
    def limits(self) -> Limits:
        """What every member of the secure sums insists on."""
        return self.terms.limits

    @property
    def clip(self) -> float:
        """Largest magnitude of an entry of an update under secure aggregation, in any round."""
        return max(self.terms.clip(channels.parameters) for channels, _ in self.channels)

    @property
    def weight_cap(self) -> int:
        """No client may weigh more in a sum."""
        return max(client.weight for client in self.clients) * self.terms.weight_unit

    @property
    def cohort_size(self) -> int:
        return self.terms.cohort_size(len(self.clients))

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
            return sentence(self.terms, None, self.tests, self._further)
        promised = sentence(self.terms, self.epsilon, self.tests, self._further)
        return f"{promised} {self.server_sees}"

    @property
    def plainly(self) -> str:
        """The guarantee for the client that pays most, in plain words; empty without privacy."""
        if self.epsilon is None:
            return ""
        most = max(self.everybody, key=lambda client: client.epsilon or 0.0)
        return plainly(self.job, most_right(most.events.values(), self.job.privacy.delta))

    @property
    def server_sees(self) -> str:
        """What the server can read, in one sentence."""
        return server_sees(self.terms, self.cohort_size, self._further)

    @property
    def _further(self) -> list[str]:
        return further_of(self.job, self.model.trained)

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON values, as written to plan.json."""
        job, parameters = self.job, self.model.trained_parameters
        return {
            "name": job.name,
            "task": job.task,
            "recipe": job.recipe,
            "base": job.model.base,
            "base_sha256": self.model.base_digest,
            "padding": job.model.padding,
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
            "bytes_up_per_client_round": self.bytes_up,
            "bytes_down_per_client_round": self.bytes_down,
            "personal_tensors": len(self.model.personal),
            "owners_keep_bytes": _numbers(self._kept) * _FLOAT32,
            "sums": self._sums(),
            "privacy": job.privacy.model_dump(),
            "encryption": encryption_facts(
                self.terms, self.cohort_size, lambda: self.clip, self._further
            ),
            "compares": comparing_facts(self.terms, self.cohort_size),
            "evaluation": evaluation_facts(job, self.tests, self.blur),
            "guarantee": self.guarantee,
            "plainly": self.plainly,
            "proof": guarantee_facts(self.terms, self.epsilon),
            "warnings": list(self.warnings),
        }

    def _sums(self) -> list[dict[str, Any]]:
        """What each of two sums of a round adds up: each channel's numbers, and its least reach."""
        many = [channels for channels, _ in self.channels]
        if all(channels.trip == 1 for channels in many):
            return []
        return [
            {c.name: {"numbers": c.numbers, "reach": c.reach} for c in channels.all}
            for channels in many
        ]

    def _spares(self) -> dict[str, Any]:
        """How many rounds may be trained again, and how many times larger that makes all noise."""
        job = self.job
        if not job.private or not self.clients or not job.spare_rounds:
            return {"rounds": job.spare_rounds if job.private else 0, "noise": 1.0}
        one = self.clients[0]
        spec = job.privacy.model_copy(update={"spare_rounds": 0})
        without = job.model_copy(update={"privacy": spec})
        bare = private_recipe(without, one.training_size, one.rounds, self.tests).noise_multiplier
        return {"rounds": job.spare_rounds, "noise": (one.noise_multiplier or bare) / bare}

    @property
    def bytes_down(self) -> int:
        """Bytes of the model, and of what goes beside it, to each client in a round; of each of its sums."""
        once = _numbers(self.model.trained) + _numbers(self._heard)
        spec, cohort = self.job.strategy, self.cohort_size
        second = second_of(spec, self.model.trained, 1, clients=cohort)
        return (once if second is None else 2 * once + _numbers(second[1])) * _FLOAT32

    @property
    def bytes_up(self) -> int:
        """Bytes of what one client adds up, on average over the rounds, rounded up.

        Masked, the counts of a test travel in it as well.
        """
        total = 0
        for channels, rounds in self.channels:
            words = channels.numbers
            if self.job.encrypted:
                rides = self.tests > 1 and channels.trip == 1  # the last test travels alone
                words = Content(self.terms, channels, True, rides).layout.length
            total += rounds * words
        return math.ceil(_WORD * total / self.job.training.rounds)


def strategy_of(plan: Plan) -> Strategy:
    """The planned job's strategy, as Flower has them."""
    job, clip = plan.job, plan.clip if plan.job.encrypted else 1.0
    return build_strategy(job.strategy, plan.total_weight, job.training, plan.cohort_size, clip)


def _plan_client(terms: Terms, client: ClientFacts, participations: int, tests: int) -> ClientPlan:
    job, recipe = terms.job, None
    if job.private:
        recipe = terms.recipe(client.training_size, participations, tests)
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


def _numbers(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _check_limit(job: Job, clients: Sequence[ClientPlan]) -> None:
    planned = max((client.epsilon or 0.0 for client in clients), default=0.0)
    if job.private and planned > job.privacy.owner_limit:
        raise PlanRefused(
            f"This job is refused: its rounds cost epsilon {planned:.4g}, but each client's agent "
            f"would end its part at privacy.limit = {job.privacy.owner_limit:g}: raise it, or lower "
            f"privacy.epsilon (now {job.privacy.epsilon:g})"
        )


def _warnings(job: Job, facts: Sequence[ClientFacts]) -> list[str]:
    warnings = []
    if not job.private:
        warnings.append('privacy.unit = "none": nothing protects single records.')
    if not job.encrypted:
        warnings.append('encryption.mode = "none": THE SERVER READS EVERY CLIENT\'S OWN UPDATE.')
    if attackers := attackers_of([client.name for client in facts], job):
        warnings.append(
            f"simulation.attackers: {len(attackers)} of {len(facts)} clients attack "
            f'("{job.simulation.attack}").'
        )
    full = [c.name for c in facts if c.training_size <= job.training.batch_size]
    if job.noised_locally and full and not job.recipe:
        warnings.append(
            f"training.batch_size = {job.training.batch_size} takes the whole data of {some(full)} "
            "in every step: no amplification by sampling. A smaller batch needs less noise."
        )
    untested = [c.name for c in facts if not c.holds_out]
    if len(untested) == len(facts):
        where = "except on public records" if job.evaluation.public_path else "at all"
        warnings.append(f"No held-out records: the model will not be tested {where}.")
    elif untested:
        warnings.append(f"No held-out records at {some(untested)}.")
    return warnings
