"""The agent: where an owner's data is touched, and where the owner's rules hold.

``Agent.handle`` answers one request at a time, in a simulation by a function call, in a deployment
through a service. Every request carries the whole job, so the agent remembers nothing but its
ledger. It derives its noise from the job and its published size; the server cannot ask for less.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import MessageError, PlanRefused, UmbelError
from ..job import Job
from ..learning.shaping import other_fixed
from ..privacy.randomness import SecretStream
from ..wire.requests import EVALUATE, PREPARE, SECOND, TRAIN, Assignment, Readiness
from .account import Account
from .answers import answered, job_of, log_error
from .budget import Budget
from .buffered import BufferedRounds
from .kept import KeptUpdates
from .own_state import OwnStates
from .planned import planned_here
from .policy import Policy
from .secure import TRIPS, Membership, participant_of, short_trip
from .timing import NOTHING_KNOWN, Timing
from .work import OutOfTime, Work

if TYPE_CHECKING:
    from flwr.app import Message, RecordDict

_STRICT = Policy()


class Agent:
    """One data owner in one process.

    `membership` is what secure sums need; without it, encrypted jobs are refused. `log` is the
    owner's own file of figures, which never leave. `secrets` gives the stream that batches and noise
    of a request are drawn from; only a reproducible simulation or rehearsal passes another than the
    operating system's, and `replayable` then says that a repeated request draws the same noise.
    `kept` is where a noised update stays until its round is closed; without it, a repetition is
    trained anew and charged. `states` is where the state lies that a strategy has an owner keep.
    `timing` says when answers leave; without it, as soon as they are there.

    Guarantee under privacy: what public numbers forbid is refused before a record is read, and short
    trips read none. The request for which records are read first is answered at a public time,
    whatever comes of it (``timing``).
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
        states: OwnStates | None = None,
        timing: Timing | None = None,
    ) -> None:
        self.name = name
        self._policy = policy
        self._membership = membership
        self._work = work
        self._account = account
        self._budget = Budget(name, ledger, account.name, policy, replayable)
        self._timing = timing or Timing(None, None, name)
        self._ready = False
        self._rounds = BufferedRounds(
            name,
            work,
            account,
            self._budget,
            membership,
            secrets,
            log,
            kept,
            self._timing,
            policy.jobs.strategies,
            states,
            policy.jobs.own_rank,
        )

    def handle(self, message: Message) -> Message:
        """Answer a request with a reply, or with an error that tells nothing of the data."""
        return answered(self.name, message, self._policy, self.act)

    def act(self, assignment: Assignment, message: Message) -> RecordDict:
        """The content of the reply to a request that may be answered."""
        kind, job = message.metadata.message_type, job_of(assignment)
        if kind not in (PREPARE, TRAIN, SECOND, EVALUATE, *TRIPS):
            raise MessageError(f"Unknown request {kind!r}")
        self._policy.check(self.name, job)
        if kind in TRIPS:
            return short_trip(self._membership, self.name, assignment, message)
        self._check(job, assignment, prepares=kind == PREPARE)
        if kind == PREPARE:
            return self._prepare(assignment)
        if self._timing.waits and not self._ready:
            self._make_ready(job, assignment)
        if kind == SECOND:
            return self._rounds.second(assignment, message)
        train = kind == TRAIN
        test = assignment.test or not train
        return self._rounds.answer(assignment, message, train=train, test=test)

    def planned(self, assignment: Assignment) -> dict[str, Any]:
        """What the run does here, by public numbers."""
        return planned_here(job_of(assignment), assignment, self._rounds.numbers)

    def _check(self, job: Job, assignment: Assignment, *, prepares: bool) -> None:
        """Refuse what public numbers forbid; a whole run that would take too long when it begins."""
        if assignment.fixed != self._work.fixed:
            raise PlanRefused(other_fixed(self.name, self._work.fixed, assignment.fixed))
        self._rounds.check(assignment, prepares=prepares)
        if prepares and job.private and self._account.known and self._timing.waits:
            self._policy.check_hours(self.name, self._rounds.numbers.seconds(job, assignment))

    def _prepare(self, assignment: Assignment) -> RecordDict:
        from flwr.app import RecordDict

        job, account = job_of(assignment), self._account
        known = account.known
        if not self._ready:  # other files would be another agent's
            self._make_ready(job, assignment)
        if not known:
            self._check(job, assignment, prepares=True)
        readiness = Readiness(
            version=__version__,
            name=self.name,
            base_model=self._work.base_model,
            fixed=self._work.fixed,
            size=account.published(job, self._budget),
            training_share=account.training_share,
            holds_out=account.holds_out,
            slot=self._slot(assignment) if job.encrypted else 0,
            round=self._budget.last_round(assignment.run),
        )
        return RecordDict({"readiness": readiness.to_record()})

    def _make_ready(self, job: Job, assignment: Assignment) -> None:
        """Have the records read, and compute what stays from round to round.

        Until a time that is public, whatever is raised.
        """
        waits = self._timing.waits and job.private
        known = NOTHING_KNOWN
        if waits and self._account.known:
            known = self._rounds.numbers.of_answers(job, assignment)
        begun = self._timing.now()
        try:
            self._work.open()
            if waits:
                known = self._rounds.numbers.of_answers(job, assignment)
            try:
                self._work.prepare()
            except OutOfTime:
                raise
            except UmbelError as error:
                if not job.private:
                    raise
                log_error(self.name, error)  # each round says what comes of it
        finally:
            if waits:
                seconds = self._timing.preparing(known)
                self._timing.counted += seconds
                self._timing.leave(begun, seconds)
        self._ready = True

    def _slot(self, assignment: Assignment) -> int:
        job = job_of(assignment)
        return participant_of(self._membership, self.name, job, assignment.run).slot
