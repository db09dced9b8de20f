"""The agent: where an owner's data is touched, and where the owner's rules hold.

``Agent.handle`` answers one request at a time, in a simulation by a function call, in a deployment
through a service. Every request carries the whole job, so the agent remembers nothing but its
ledger. It derives its noise from the job and its published size; the server cannot ask for less.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..errors import MessageError, UmbelError
from ..job import Job
from ..messages import (
    COMMIT,
    CONFIRM,
    EVALUATE,
    NONCE,
    PREKEY,
    PREPARE,
    REVEAL,
    SECAGG,
    TRAIN,
    Assignment,
    Readiness,
    bytes_of,
    to_bytes_record,
)
from ..privacy.randomness import SecretStream
from ..privacy.secagg.participant import Participant, Trip
from .account import Account
from .answers import answered, job_of, log_error
from .budget import Budget
from .kept import KeptUpdates
from .policy import Policy
from .round import Rounds
from .secure import Membership, participant_of
from .timing import Timing
from .work import Work

if TYPE_CHECKING:
    from flwr.app import Message, RecordDict

_STRICT = Policy()
_TRIPS: dict[str, Trip] = {
    COMMIT: "commit",
    NONCE: "nonce",
    PREKEY: "prekey",
    CONFIRM: "confirm",
    REVEAL: "reveal",
}


class Agent:
    """One data owner in one process.

    `membership` is what secure sums need; without it, encrypted jobs are refused. `log` is the
    owner's own file of figures, which never leave. `secrets` gives the stream that batches and noise
    of a request are drawn from; only a reproducible simulation or rehearsal passes another than the
    operating system's, and `replayable` then says that a repeated request draws the very same noise.
    `kept` is where a noised update stays until its round is closed; without it, a repetition is
    trained anew and charged. `timing` says when answers leave; without it, as soon as they are there.
    `loaded` is when, by its clock, the model was there and nothing of the data had been read.
    """

    def __init__(
        self,
        name: str,
        work: Work,
        account: Account,
        ledger: Path,
        *,
        policy: Policy = _STRICT,
        membership: Membership | None = None,
        log: Path | None = None,
        secrets: Callable[[str], SecretStream] = lambda _: SecretStream.from_os(),
        replayable: bool = False,
        kept: KeptUpdates | None = None,
        timing: Timing | None = None,
        loaded: float | None = None,
    ) -> None:
        self.name = name
        self._policy = policy
        self._membership = membership
        self._work = work
        self._account = account
        self._budget = Budget(name, ledger, account.name, policy, replayable)
        self._timing = timing or Timing(None, None, name)
        self._loaded = loaded
        self._rounds = Rounds(
            name, work, account, self._budget, membership, secrets, log, kept, self._timing
        )

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

        job, account = job_of(assignment), self._account
        if job.private:
            self._budget.check(job, assignment, self._rounds.recipe(job, assignment))
        if job.encrypted:
            self._rounds.content(assignment, train=True, test=False)
        self._make_ready(job, assignment)
        readiness = Readiness(
            version=__version__,
            name=self.name,
            base_model=self._work.base_model,
            size=account.published(job, self._budget),
            training_share=account.training_share,
            holds_out=account.holds_out,
            slot=self._participant(assignment).slot if job.encrypted else 0,
        )
        return RecordDict({"readiness": readiness.to_record()})

    def _make_ready(self, job: Job, assignment: Assignment) -> None:
        """Compute what stays from round to round; the first time, until a time that is public."""
        try:
            self._work.prepare()
        except UmbelError as error:
            if not job.private:
                raise
            log_error(self.name, error)  # each round says what comes of it
        if self._loaded is not None and self._timing.waits and job.private:
            numbers = self._rounds.numbers(job, assignment)
            self._timing.leave(self._loaded, self._timing.preparing(numbers))
        self._loaded = None

    def _train(self, assignment: Assignment, message: Message) -> RecordDict:
        if self._loaded is not None:
            self._make_ready(job_of(assignment), assignment)
        return self._rounds.answer(assignment, message, train=True, test=assignment.test)

    def _evaluate(self, assignment: Assignment, message: Message) -> RecordDict:
        if self._loaded is not None:
            self._make_ready(job_of(assignment), assignment)
        return self._rounds.answer(assignment, message, train=False, test=True)

    def _short_trip(self, assignment: Assignment, message: Message) -> RecordDict:
        """A trip of secure aggregation that needs no data."""
        from flwr.app import RecordDict

        trip = _TRIPS[message.metadata.message_type]
        request = bytes_of(message.content, "request")
        reply = self._participant(assignment).answer(trip, request)
        return RecordDict({SECAGG: to_bytes_record(reply=reply)})

    def _participant(self, assignment: Assignment) -> Participant:
        return participant_of(self._membership, self.name, job_of(assignment), assignment.run)
