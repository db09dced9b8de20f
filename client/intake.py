"""What stands between the network and an owner's agent: whose job it is, and what the owner allows.

A request reaches data, model or keys only after its job was found to be the operator's, the owner's
policy to allow it, and, where the owner wants to be asked, after a person has approved it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..certificate.form import FILE, Certificate
from ..certificate.parcel import Expected, Parcel
from ..clock import Clock, SystemClock
from ..errors import (
    BudgetExceeded,
    ConsortiumError,
    MessageError,
    ModelError,
    PlanRefused,
    UmbelError,
)
from ..job import Job
from ..learning.base_model import checked, forget_digests
from ..learning.split import split_secret
from ..planning.padding import padding_refusals
from ..planning.refusals import deployment_refusals, refused
from ..privacy.ledger.ledger import Ledger
from ..privacy.randomness import SecretStream
from ..privacy.secagg.counted import Place, check_counted
from ..storage.files import write_durably
from ..strategies import leaves_own_model
from ..wire.packing import SECAGG, bytes_of
from ..wire.requests import EVALUATE, LEDGER, PREPARE, RESULT, SECOND, TRAIN, Assignment, counted_of
from .account import KeptSize, SeededSize, Size
from .agent import Agent
from .answers import answered, job_of, log_error
from .approvals import Approvals
from .audit_log import AuditLog, Event
from .child import Bench, WorkInChild
from .data import DataSource
from .echo import Echo
from .home import Home
from .notices import Notices
from .policy import NotYet, Policy
from .run_notes import RunNotes
from .secure import TRIPS, participant_of, short_trip
from .signers import Signers
from .timing import Timing
from .work import OutOfTime
from .worker import Setup

if TYPE_CHECKING:
    from flwr.app import Message, RecordDict

_SPENDING = (PREPARE, TRAIN, SECOND, EVALUATE)
Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class _Desk:
    """A job in progress: its agent, and the state of the data files that it was made from."""

    job: str
    agent: Agent
    timing: Timing
    stamp: Stamp


class Intake:
    """Answers one owner's messages. Its child holds one loaded model, until another job needs another.

    `secrets` (of a job's seed and a purpose) replaces the operating system's generator: for rehearsals
    alone, because anyone who knows the seed removes the noise. `bench` is the child process in which
    records are worked on; after ``close`` there is none. `clock` is what answers wait by
    (``timing``); in a rehearsal none does. `watch` gives the seconds by which work is given up that takes
    longer than a whole run may, `now` those since 1970, by which orders and rosters end.
    """

    def __init__(
        self,
        home: Home,
        secrets: Callable[[int, str], SecretStream] | None = None,
        *,
        bench: Bench | None = None,
        clock: Clock | None = None,
        watch: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        if secrets is not None and not home.card.rehearsal:
            raise ConsortiumError(
                f"{home.card.name} is not a rehearsal's consortium: with --rehearsal the noise "
                "would follow from the job's seed, which the operator knows. Start the agent "
                "without it: umbel client run"
            )
        self.home = home
        # A rehearsal's noise is no secret, so its times need not be.
        self._clock = clock or (SystemClock() if secrets is None else None)
        self.audit = AuditLog(home.audit)
        self.notes = RunNotes(home.runs)
        self._notices = Notices(self.audit, home.decisions)
        self._echo = Echo(home.ledger, home.behind)
        self._policy = Policy.read(home.policy)
        self._signers = Signers(home, self._policy, self.audit, self.notes, now)
        self._bench = bench or Bench(environment=home.environment(hub=self._policy.jobs.hub))
        self._approvals = Approvals(home.jobs)
        self._secrets = secrets
        self._desk: _Desk | None = None
        self._watch, self._until, self._now = watch, 0.0, now
        self._loads = 0

    def handle(self, message: Message) -> Message:
        """The reply, or the reason why there is none."""
        return answered(self.home.name, message, self._policy, self._act)

    def _act(self, assignment: Assignment, message: Message) -> RecordDict:
        kind = message.metadata.message_type
        try:
            # Whose it is, before any of it is parsed.
            operator = self._signers.signer(assignment)
            job = job_of(assignment)
            self._admit(assignment, job, operator, message)
            self._notices.doing(assignment, message)
            if kind in TRIPS:
                content = short_trip(self.home.membership, self.home.name, assignment, message)
            elif kind in _SPENDING:
                content = self._answer(assignment, job, message)
            elif kind == RESULT:
                content = self._keep_result(assignment, job, message)
            else:
                raise MessageError(f"Unknown request {kind!r}")
        except NotYet as error:
            self._decided(assignment, "job waits", str(error))
            raise
        except (BudgetExceeded, PlanRefused) as error:
            refused: Event = "result refused" if kind == RESULT else "job refused"
            self._decided(assignment, refused, str(error))
            raise
        if kind in _SPENDING:
            self._decided(assignment, "job accepted", job.name)
        return content

    def _keep_result(self, assignment: Assignment, job: Job, message: Message) -> RecordDict:
        """Of a run that this owner took part in: its ledger or its notes know it."""
        from flwr.app import ConfigRecord, RecordDict

        rules, card = self._policy.results, self.home.card
        if not {"seconds", "over"} & self.notes.of(assignment.run).keys():
            raise PlanRefused(f"{self.home.name} did not take part in this run")
        expected = Expected(
            assignment.run,
            job.digest(),
            card.id,
            self._signers.signer(assignment),
            rules.most_megabytes * 10**6,
            self._now(),
        )
        parcel = Parcel(bytes_of(message.content, "listed"), bytes_of(message.content, "content"))
        place = self.home.models.keep(self.home.name, job, rules, expected, parcel)
        self._finished(assignment, job, place)
        self._end_state(assignment, job, message)
        return RecordDict({"receipt": ConfigRecord({"kept": True})})

    def _end_state(self, assignment: Assignment, job: Job, message: Message) -> None:
        """Keep what is the owner's own at a run's end, and delete or keep its state, by the policy.

        The result is kept by then. If what came with it does not show which state was counted last, that is
        logged, and the one before is kept.
        """
        home, rules, run = self.home, self._policy.results, assignment.run
        accepted = self._policy.jobs.strategies
        if rules.keep_own and leaves_own_model(job.strategy, accepted):
            counted, evidence = counted_of(message.content)

            def shown(places: tuple[Place, ...]) -> bool:
                if not job.encrypted:
                    return True
                try:
                    member = participant_of(home.membership, home.name, job, run).member
                    return check_counted(member.name, member.roster, evidence, places)
                except UmbelError as error:
                    log_error(home.name, error)
                    return False

            home.states.hand_over(run, job.digest(), counted, shown, home.own_models)
        if not rules.keep_states:
            home.states.close(run)

    def _finished(self, assignment: Assignment, job: Job, place: Path) -> None:
        """Note the end of a run, of which its certificate came."""
        certificate = Certificate.read(place / FILE)
        done = certificate.rounds
        text = f"after {done.done} of {done.planned} rounds; its model is in {place}"
        self._decided(assignment, "job finished", text)
        self.audit.write("result kept", run=assignment.run, job=job.digest(), path=str(place))

    def _answer(self, assignment: Assignment, job: Job, message: Message) -> RecordDict:
        """From model and records, where the account may spend."""
        self._check_account(message)
        self._until = self._watch() + self._policy.jobs.max_hours * 3600
        try:
            desk = self._desk_for(assignment, job)
            begun, counted = time.monotonic(), desk.timing.counted
            content = desk.agent.act(assignment, message)
        except OutOfTime as error:
            self.notes.add(assignment.run, over=True)
            self._desk = None
            raise PlanRefused(f"{self.home.name}: {error}") from None
        finally:
            self._remember()
        if message.metadata.message_type == TRAIN:
            self._decided(assignment, "job accepted", job.name)
            self.home.decisions.planned(assignment.run, job, desk.agent.planned(assignment))
            took = time.monotonic() - begun
            if desk.timing.waits and job.private:
                # What it took follows from records, and jobs.max_hours must not tell of them.
                took = desk.timing.counted - counted
            self.notes.add(assignment.run, seconds=self.notes.seconds(assignment.run) + took)
        return content

    def _decided(self, assignment: Assignment, event: Event, why: str) -> None:
        operator = ""
        with contextlib.suppress(PlanRefused):
            operator = self._signers.signed(assignment)[0]
        self._notices.decided(assignment, operator, event, why)

    def _admit(self, assignment: Assignment, job: Job, operator: str, message: Message) -> None:
        """Refuse (``PlanRefused``) what this owner takes no part in."""
        home, kind = self.home, message.metadata.message_type
        if reasons := list(deployment_refusals(job)):
            raise refused(reasons)
        self._policy.check(home.name, job)
        self._policy.check_model(home.name, job.model.sha256)
        home.settings.data.check(home.name, job)
        if kind == PREPARE and SECAGG in message.content:
            home.membership.learn(bytes_of(message.content, "roster"), self._now())
        if job.encrypted:
            home.membership.check_lifetime(self._now())
        if self._policy.jobs.approval == "manual":
            self._approvals.ask(job, assignment.run, operator)
        if kind in _SPENDING and self.notes.of(assignment.run).get("over"):
            raise PlanRefused(
                f"{home.name} has ended this run: its work took longer than a whole run may take there "
                "(jobs.max_hours)"
            )
        if kind == TRAIN:
            self._policy.check_time(home.name, datetime.now(), self.notes.seconds(assignment.run))

    def _check_account(self, message: Message) -> None:
        """Refuse (``LedgerError``) to spend where another copy may, or where spending is missing."""
        home, told = self.home, message.content.config_records.get(LEDGER)
        if told is not None:
            self._echo.check(told.get("head"))
        home.account.check_place(home.ledger)
        home.account.check_ledger(home.ledger, home.seen_head)

    def _remember(self) -> None:
        """Note in memory how far the ledger has come, before the answer leaves."""
        home = self.home
        if home.seen_head is not None and Ledger.begun(home.ledger):
            with Ledger(home.ledger) as ledger:
                head = f"{ledger.identity} {ledger.head()}"
            write_durably(home.seen_head, head.encode(), secret=True)

    def _desk_for(self, assignment: Assignment, job: Job) -> _Desk:
        source = self.home.source
        stamp = source.stamp()
        desk = self._desk
        if desk is None or (desk.job, desk.stamp) != (assignment.job, stamp):
            desk = self._desk = self._opened(assignment, job, source, stamp)
        return desk

    def _opened(self, assignment: Assignment, job: Job, source: DataSource, stamp: Stamp) -> _Desk:
        """Have the worker load the model, unless the last job had the same; no record yet."""
        home, secrets = self.home, self._secrets
        self._check_base(job)
        rules = self._policy.resources
        setup = Setup(
            home.name,
            self._here(job),
            source,
            self._split_secret(job),
            rules.threads or os.cpu_count() or 1,
            rules.gpu_memory_share,
            waits=self._clock is not None and job.private,
            accepted=tuple(self._policy.jobs.strategies),
        )
        self._desk = None
        work = WorkInChild(self._bench, setup, lambda: self._watch() > self._until)
        self._policy.check_shapes(home.name, job, work.shapes)
        if reasons := padding_refusals(setup.job, work.model.verdict):
            raise PlanRefused(f"{home.name}: {reasons[0]}")
        if work.model.fresh:
            self._loads += 1
            base = work.base_model
            self.audit.write("model loaded", job=job.digest(), base=base, number=self._loads)
        named: dict[str, Any] = {}
        if secrets is not None:
            named = {"secrets": lambda what: secrets(job.seed, what), "replayable": True}
        timing = Timing(self._clock, work.model.pace, home.name)
        agent = Agent(
            home.name,
            work,
            source.account_of(self._size(job, work)),
            home.ledger,
            policy=self._policy,
            membership=home.membership,
            log=home.metrics,
            kept=home.kept,
            states=home.states,
            timing=timing,
            **named,
        )
        return _Desk(assignment.job, agent, timing, stamp)

    def _check_base(self, job: Job) -> None:
        """Refuse another base model than the one that was signed for, before it is parsed or loaded."""
        forget_digests()  # its files may have been put there since
        try:
            checked(job, hub=self._policy.jobs.hub)
        except ModelError as error:
            # What does lie there is nobody else's business.
            log_error(self.home.name, error)
            raise PlanRefused(
                f"{self.home.name} has no base model {job.model.base!r:.80} with the SHA-256 "
                f"{str(job.model.sha256)[:12]} that the job names; its own log says which models it has"
            ) from None

    def warm(self) -> None:
        """Start the process that will hold model and records: it takes seconds to be there."""
        self._bench.warm()

    def close(self) -> None:
        """End it."""
        self._bench.close()

    def _here(self, job: Job) -> Job:
        """The job on this owner's device."""
        training = job.training.model_copy(update={"device": self._policy.resources.device})
        return job.model_copy(update={"training": training})

    def _split_secret(self, job: Job) -> bytes | None:
        """A rehearsal splits records as a simulation of the same job does."""
        return None if self._secrets is None else split_secret(job.seed)

    def _size(self, job: Job, work: WorkInChild) -> Size:
        """How a size comes about: kept in the folder, or, in a rehearsal, drawn from the job's seed."""
        if self._secrets is not None:
            return SeededSize(job.seed, self.home.name, work.counts)
        apart = self.home.settings.data.test_path is not None
        return KeptSize(self.home.account, lambda: work.counts, apart)
