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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .. import __version__
from ..client_level import client_part
from ..encryption import noise_shares
from ..errors import (
    MessageError,
    PlanRefused,
    UmbelError,
)
from ..job import Job
from ..learning.counts import counting, zero_counts
from ..learning.examples import Examples
from ..learning.features import with_features
from ..learning.metrics import Counts
from ..learning.model import Learner
from ..learning.private_counts import PrivateCounts
from ..learning.tasks import Task
from ..learning.trainer import Outcome, PrivateSteps, StepRange, test, train
from ..messages import (
    COMMIT,
    CONFIRM,
    EVALUATE,
    LEDGER,
    NONCE,
    PREKEY,
    PREPARE,
    REVEAL,
    SECAGG,
    TRAIN,
    WEIGHT,
    Arrays,
    Assignment,
    Readiness,
    bytes_of,
    only_arrays,
    request_digest,
    to_array_record,
    to_arrays,
    to_bytes_record,
)
from ..privacy.accounting import size_class
from ..privacy.chain import TEST
from ..privacy.client_noise import ClientPart
from ..privacy.counts_noise import CLIENT, CLIENT_COUNTS, RECORD, counts_noise
from ..privacy.randomness import SecretStream
from ..privacy.secagg.participant import Participant, Trip
from ..recipe import PrivateRecipe, private_recipe
from ..vector import Content
from .answers import Unspoken, answered, job_of, log_error
from .budget import Budget
from .policy import Policy
from .secure import Membership, SecureUpload

if TYPE_CHECKING:
    from flwr.app import Message, RecordDict


Metrics = dict[str, int | float | list[int] | list[float]]

_STRICT = Policy()
_TRIPS: dict[str, Trip] = {
    COMMIT: "commit",
    NONCE: "nonce",
    PREKEY: "prekey",
    CONFIRM: "confirm",
    REVEAL: "reveal",
}


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

    `membership` is what secure sums need; without it, encrypted jobs are refused. `log` is the
    owner's own file of figures, which never leave. `secrets` gives the stream that batches and noise
    of a request are drawn from; only a reproducible simulation or rehearsal passes another than the
    operating system's, and `replayable` then says that a repeated request draws the very same noise.
    """

    def __init__(
        self,
        name: str,
        workplace: Workplace,
        data: LocalData,
        ledger: Path,
        *,
        policy: Policy = _STRICT,
        membership: Membership | None = None,
        log: Path | None = None,
        secrets: Callable[[str], SecretStream] = lambda _: SecretStream.from_os(),
        replayable: bool = False,
    ) -> None:
        self.name = name
        self._policy = policy
        self._membership = membership
        self._log = log
        self._workplace = workplace
        self._data = data
        self._secrets = secrets
        self._budget = Budget(name, ledger, data.fingerprint, policy, replayable)
        self._featured: dict[str, Examples] = {}

    @property
    def fingerprint(self) -> str:
        """What the ledger knows this owner's records by."""
        return self._data.fingerprint

    def handle(self, message: Message) -> Message:
        """Answer a request with a reply, or with an error that tells nothing of the data."""
        return answered(self.name, message, self.act)

    def act(self, assignment: Assignment, message: Message) -> RecordDict:
        """The content of the reply to a request that may be answered."""
        actions = {PREPARE: self._prepare, TRAIN: self._train, EVALUATE: self._evaluate}
        actions |= dict.fromkeys(_TRIPS, self._short_trip)
        action = actions.get(message.metadata.message_type)
        if action is None:
            raise MessageError(f"Unknown request {message.metadata.message_type!r}")
        self._policy.check(self.name, job_of(assignment))
        return action(assignment, message)

    def _prepare(self, assignment: Assignment, message: Message) -> RecordDict:
        from flwr.app import RecordDict

        job = job_of(assignment)
        if job.private:
            self._budget.check(job, assignment, self._recipe(job, assignment))
        self._examples("train"), self._examples("test")
        learner = self._workplace.learner
        readiness = Readiness(
            version=__version__,
            name=self.name,
            base_model=learner.shape().base_digest,
            size_class=size_class(len(self._data.train)),
            slot=self._participant(assignment).slot if job.encrypted else 0,
            test_class=size_class(len(self._data.test)),
        )
        return RecordDict({"readiness": readiness.to_record()})

    def _train(self, assignment: Assignment, message: Message) -> RecordDict:
        return self._answer(assignment, message, train=True, test=assignment.test)

    def _evaluate(self, assignment: Assignment, message: Message) -> RecordDict:
        return self._answer(assignment, message, train=False, test=True)

    def _answer(
        self, assignment: Assignment, message: Message, *, train: bool, test: bool
    ) -> RecordDict:
        """Test the model that came, train it further, and send what came of it, masked or not."""
        job = job_of(assignment)
        if test and job.counts == "off":
            raise PlanRefused(f"{self.name}: the job has no tests, and the server asks for one")
        arrays = self._global_model(message)
        upload = None
        if job.encrypted:
            content = Content(job, self._workplace.shapes, train, test)
            upload = self._secure_upload(assignment, message, arrays, content)
            if upload.known:
                known = self._masked(*upload.known, {WEIGHT: self._weight(job)})
                return self._with_head(job, assignment, known)
        metrics: Metrics = {WEIGHT: self._weight(job)}
        counts, outcome, unable = None, Outcome({}, 0.0), False
        noise = part = None
        if test and job.tests_privately:
            noise = self._test_noise(job, assignment, metrics)
        if train and job.private:
            # Whatever comes of the test and the training: the server must not tell by the charge.
            event = self._recipe(job, assignment).round_event
            metrics["epsilon"] = self._budget.reserve(job, assignment, str(assignment.round), event)
        if train and job.per_client:
            part = self._client_part(job, assignment)
        proximal_mu = _proximal_mu(message)
        try:
            counts = self._tested(assignment, arrays) if test else None
            if train:
                outcome = self._trained(job, assignment, arrays, proximal_mu)
        except Exception as error:
            # Also one long record too many for the memory: that is the data's secret, too.
            if not upload:
                raise
            if isinstance(error, UmbelError):
                log_error(self.name, error)
            else:
                logging.getLogger(__name__).exception("%s could not train or test", self.name)
            unable = True
        if noise is not None:
            # Also of a client that has nothing to count: the others rely on its share.
            found = counts or zero_counts(job)
            assert isinstance(found, PrivateCounts)
            counts = (found.scaled(CLIENT_COUNTS) if job.per_client else found).plus(noise)
        if upload:
            weight = self._weight(job)
            whole = content.contribution(
                outcome.update, outcome.loss, counts, weight, unable=unable, part=part
            )
            dither = self._secrets(f"{self.name}/{assignment.round}/dither")
            masked = self._masked(*upload.send(whole, dither), metrics)
            return self._with_head(job, assignment, masked)
        clear = _in_the_clear(job, outcome if train else None, counts, metrics)
        return self._with_head(job, assignment, clear)

    def _with_head(self, job: Job, assignment: Assignment, reply: RecordDict) -> RecordDict:
        """The reply, with what the run's certificate binds this owner's ledger by."""
        from flwr.app import ConfigRecord

        if job.private and (head := self._budget.head(assignment.run)):
            reply[LEDGER] = ConfigRecord({"head": head})
        return reply

    def _weight(self, job: Job) -> int:
        """Public: what the plan computes for this client too."""
        return size_class(len(self._data.train)) if job.weighting == "examples" else 1

    def _tested(self, assignment: Assignment, arrays: Arrays) -> Counts:
        """Counts of the model on the held-out records, and a line in the owner's own log."""
        job, workplace = job_of(assignment), self._workplace
        task = counting(job, workplace.task)
        counts = test(workplace.learner, task, arrays, self._examples("test"))
        if self._log is not None:
            line = {"run": assignment.run, "round": assignment.round - assignment.test}
            line["metrics"] = counts.metrics(job.data.labels or [])
            append_line(self._log, line)
        return counts

    def _test_noise(self, job: Job, assignment: Assignment, metrics: Metrics) -> list[int]:
        """Reserve a test's budget; this client's share of the noise that hides its records."""
        event = self._recipe(job, assignment).test_event
        assert event is not None
        # By the model, not by the request: a train request tests what the last round came to.
        what = f"{TEST}{assignment.round - assignment.test}"
        metrics["epsilon"] = self._budget.reserve(job, assignment, what, event)
        cells = len(zero_counts(job).to_list()) - 1
        stream = self._secrets(f"{self.name}/{what}")
        shares = noise_shares(job, self._consortium(assignment)) if job.encrypted else 1
        change = CLIENT if job.per_client else RECORD
        return counts_noise(cells, event, shares, stream, change)

    def _client_part(self, job: Job, assignment: Assignment) -> ClientPart:
        """What clips this round's update, and hides it in the sum; nothing of the server's choosing."""
        norm = assignment.clipping_norm or job.privacy.clipping_norm
        if not 0 < norm < math.inf:
            raise MessageError(f"a clipping norm of {norm!r} is none")
        if job.privacy.clipping == "fixed" and norm != job.privacy.clipping_norm:
            raise MessageError("the job's clipping norm is fixed, and the server asks for another")
        stream = self._secrets(f"{self.name}/{assignment.round}/noise")
        return client_part(job, norm, self._consortium(assignment), stream)

    def _consortium(self, assignment: Assignment) -> int:
        """Members of the roster that this client holds."""
        return len(self._participant(assignment).member.roster.members)

    def _trained(
        self, job: Job, assignment: Assignment, arrays: Arrays, proximal_mu: float
    ) -> Outcome:
        """Take a round's steps, whose budget is reserved."""
        steps = StepRange(
            first=(assignment.round - 1) * job.training.local_steps,
            count=job.training.local_steps,
            total=job.training.rounds * job.training.local_steps,
        )
        private = self._private_steps(job, assignment) if job.per_example else None
        try:
            return train(
                self._workplace.learner,
                self._workplace.task,
                arrays,
                self._examples("train"),
                steps,
                seed=job.seed,
                who=self.name,
                private=private,
                proximal_mu=proximal_mu,
            )
        except UmbelError as error:
            # What went wrong inside a private step depends on the records that were drawn.
            raise (Unspoken(str(error)) if job.private else error) from error

    def _short_trip(self, assignment: Assignment, message: Message) -> RecordDict:
        """A trip of secure aggregation that needs no data."""
        from flwr.app import RecordDict

        trip = _TRIPS[message.metadata.message_type]
        request = bytes_of(message.content, "request")
        reply = self._participant(assignment).answer(trip, request)
        return RecordDict({SECAGG: to_bytes_record(reply=reply)})

    def _participant(self, assignment: Assignment) -> Participant:
        if self._membership is None:
            raise PlanRefused(f"{self.name} has no keys for secure aggregation")
        self._membership.check(job_of(assignment).encryption)
        return self._membership.participant(assignment.run)

    def _secure_upload(
        self, assignment: Assignment, message: Message, arrays: Arrays, content: Content
    ) -> SecureUpload:
        request = bytes_of(message.content, "request")
        context = request_digest(message.metadata.message_type, message.content, arrays)
        weight = self._weight(job_of(assignment))
        return SecureUpload(self._participant(assignment), request, context, content, weight)

    def _masked(self, reply: bytes, vector: bytes, metrics: Metrics) -> RecordDict:
        from flwr.app import MetricRecord, RecordDict

        return RecordDict(
            {
                SECAGG: to_bytes_record(reply=reply, vector=vector),
                "metrics": MetricRecord(metrics),
            }
        )

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


def _in_the_clear(
    job: Job, outcome: Outcome | None, counts: Counts | None, metrics: Metrics
) -> RecordDict:
    """A reply that the server can read: only where the job and the owner's policy say so."""
    from flwr.app import MetricRecord, RecordDict

    content = RecordDict()
    if outcome is not None:
        content["arrays"] = to_array_record(outcome.update)
        if not job.private:
            metrics["loss"] = outcome.loss
    if counts is not None:
        metrics["counts"] = [float(number) for number in counts.to_list()]
    content["metrics"] = MetricRecord(metrics)
    return content


def _proximal_mu(message: Message) -> float:
    """How strongly a strategy wants steps pulled to the global model; 0 where it does not say."""
    for record in message.content.config_records.values():
        mu = record.get("proximal-mu", 0.0)
        if not isinstance(mu, int | float) or not 0 <= mu < math.inf:
            raise MessageError(f"proximal-mu = {mu!r} is not a number of 0 or more")
        if mu:
            return float(mu)
    return 0.0


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Add a line of JSON to a log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
