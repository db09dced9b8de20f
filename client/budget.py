"""What one run may still spend of an owner's data, and its reservation before any record is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..certificate.seal import seal_head
from ..errors import BudgetExceeded, PlanRefused
from ..job import Job
from ..planning.noise import PrivateRecipe
from ..planning.schedule import rounds_tested
from ..privacy.accounting.accountant import MechanismEvent, epsilon
from ..privacy.ledger.chain import LOSS, SIZE_RUN, TEST, Entry
from ..privacy.ledger.ledger import Ledger
from ..privacy.noise.sizes import SIZE_EVENT
from ..wire.requests import Assignment
from .policy import Policy

_MORE = "The run can still end with its last summed model (umbel finish)."
_NOTHING = MechanismEvent(0.0, 1.0, 0, "concentrated")
"""The charge of a test with exact counts: no epsilon describes it, so the owner's policy decides on it."""


class RunSpent(BudgetExceeded):
    """A run that would pass its own promise: that is between it and this owner."""


@dataclass(frozen=True)
class Budget:
    """One account's ledger, as an agent asks it.

    `account` is the name of the owner's account. A `replayable` run draws the same noise for a
    repeated request, which is then charged once.
    """

    owner: str
    ledger: Path
    account: str
    policy: Policy
    replayable: bool

    def check(self, job: Job, assignment: Assignment, recipe: PrivateRecipe) -> None:
        """Refuse a job whose remaining rounds this data cannot pay, before it costs anything."""
        with Ledger(self.ledger) as ledger:
            mine = ledger.entries_of(assignment.run)
            trained = len({entry.what for entry in mine if entry.is_round})
            tested = len({entry.what for entry in mine if entry.is_test})
            rounds = max(0, assignment.participations - trained)
            tests = max(0, recipe.tests - tested)
            ledger.ensure_affordable(
                self.account,
                *recipe.spending(rounds, tests).values(),
                delta=job.privacy.delta,
                limit=self.policy.epsilon_limit_for(job),
            )

    def reserve(self, job: Job, assignment: Assignment, what: str, event: MechanismEvent) -> float:
        """Write a request's spending to disk before any record is read; what the run has spent then.

        What other jobs have spent here is nobody else's affair.
        """
        delta = job.privacy.delta
        key = f"{assignment.run}/{what}/{0 if self.replayable else assignment.attempt}"
        with Ledger(self.ledger) as ledger:
            mine = ledger.entries_of(assignment.run)
            events = [entry.event for entry in mine]
            if job.noised_locally:
                events.append(SIZE_EVENT)  # paid before, and noise and sampling are chosen from it
            self._check_schedule(what, event, mine)
            if not (self.replayable and any(entry.key == key for entry in mine)):
                self._check_repetitions(job, assignment, what, mine)
                events.append(event)
            after = epsilon(events, delta)
            if not after <= job.privacy.owner_limit:
                raise RunSpent(
                    f"With this round the run would cost epsilon {after:.4g}; the job promises at "
                    f"most {job.privacy.owner_limit:g}, and its rounds were repeated too often. {_MORE}"
                )
            ledger.reserve(
                self.account,
                event,
                job=job.digest(),
                key=key,
                delta=delta,
                limit=self.policy.epsilon_limit_for(job),
                replay=self.replayable,
            )
        return after

    def spent(self, job: Job, run: str) -> float:
        """What a run has spent here so far, with the published size that its noise is chosen by."""
        with Ledger(self.ledger) as ledger:
            events = [entry.event for entry in ledger.entries_of(run)]
        if job.noised_locally:
            events.append(SIZE_EVENT)
        return epsilon(events, job.privacy.delta)

    def last_round(self, run: str) -> int:
        """The highest round that was charged for in a run; 0 before the first."""
        with Ledger(self.ledger) as ledger:
            rows = ledger.entries_of(run)
            return max((int(row.what) for row in rows if row.is_round), default=0)

    def charge_size(self, which: str, *, replay: bool = False) -> None:
        """Charge a published size, which a key that tells it from others names, before it is drawn.

        `replay`: the same key is the same draw, and charged once.
        """
        rules = self.policy.privacy
        with Ledger(self.ledger) as ledger:
            ledger.reserve(
                self.account,
                SIZE_EVENT,
                job="",
                key=f"{SIZE_RUN}/{which}/0",
                delta=rules.delta_limit,
                limit=rules.epsilon_limit,
                replay=replay,
            )

    def note_exact(
        self, job: Job, assignment: Assignment, request: str, *, last: bool, again: bool
    ) -> None:
        """Write a test with exact counts to disk before any record is read: it costs nothing here.

        request: SHA-256 of the arrays to be tested and of all else that is asked with them. last: the
        request says that training is over. again: the journal knows in which slots these counts were, and
        they may enter this one. Raises ``PlanRefused`` for a round without a test in the plan, a second
        model or request in one round, a second time that is not such a repetition, or another plan than
        the run's first; and ``RunSpent`` beyond the planned tests and spare rounds.

        Guarantee: exact counts of a round are in no two opened sums, whatever a server asks. A request that
        differs is refused here, and so is the same one, unless the journal still has what was told and the
        rule of repeats permits it (``client.kept.told_once``): a journal that was lost, or has let go of
        it, costs the run this test.
        """
        round_ = assignment.round - assignment.test
        planned = f" of {assignment.tests}, exact: "
        what = f"{TEST}{round_}{planned}{request}"
        key = f"{assignment.run}/{what}/{0 if self.replayable else assignment.attempt}"
        rounds = rounds_tested(job, assignment.tests)
        with Ledger(self.ledger) as ledger:
            mine = [entry for entry in ledger.entries_of(assignment.run) if entry.is_test]
            if self.replayable and any(entry.key == key for entry in mine):
                return
            others = {entry.what for entry in mine}
            early = last and job.evaluation.patience is not None
            unplanned = {w for w in others if int(w.split()[1]) not in rounds} - {what}
            if round_ not in rounds and (not early or unplanned):
                raise PlanRefused(f"{self.owner}: no test is planned after round {round_}")
            if any(planned not in other for other in others):
                raise PlanRefused(f"{self.owner}: this run had another number of tests before")
            told = [other for other in others if other.startswith(f"{TEST}{round_} ")]
            if any(other != what for other in told) or (told and not again):
                raise PlanRefused(
                    f"{self.owner} has already sent exact counts of round {round_}"
                    f"{'' if what in told else ' in answer to another request'}; they are sent once"
                )
            if len(mine) >= assignment.tests + job.spare_rounds:
                raise RunSpent(
                    f"{self.owner} has answered all {assignment.tests} planned tests and "
                    f"{job.spare_rounds} spare ones (privacy.spare_rounds)"
                )
            ledger.reserve(
                self.account,
                _NOTHING,
                job=job.digest(),
                key=key,
                delta=job.privacy.delta,
                limit=self.policy.epsilon_limit_for(job),
                replay=self.replayable,
            )

    def head(self, run: str) -> str | None:
        """What the run's certificate binds this ledger by: the run's own last row, sealed.

        The very last one would tell whether other jobs ran here.
        """
        with Ledger(self.ledger) as ledger:
            rows = ledger.entries_of(run)
            return seal_head(ledger.identity, rows[-1].hash) if rows else None

    def _check_repetitions(
        self, job: Job, assignment: Assignment, what: str, mine: Sequence[Entry]
    ) -> None:
        """Refuse what an honest server has no need of, so that none burns an owner's budget.

        All numbers are public. One round, or one model's test, may be drawn again as often as the job
        retries, or its noise pays for; the tests of a run together as often as their noise pays for.
        Rounds together are bound by the run's epsilon.
        """
        spare = job.spare_rounds
        same = sum(entry.what == what for entry in mine)
        if same > max(job.cohort.retries, spare):
            raise RunSpent(
                f"{self.owner} has already drawn new noise for {_named(what)} {same} times: it was "
                f"repeated too often. {_MORE}"
            )
        tests = sum(entry.is_test for entry in mine)
        most = assignment.tests + spare
        if what.startswith(TEST) and tests >= most:
            raise RunSpent(
                f"{self.owner} has tested this run's models {tests} times, but the noise of its tests "
                f"is made for {most}: they were repeated too often. {_MORE}"
            )

    def _check_schedule(self, what: str, event: MechanismEvent, mine: Sequence[Entry]) -> None:
        """One run has one noise: the composition is proven for noise that nobody chose on the way."""
        for entry in mine:
            if _purpose(entry.what) == _purpose(what) and entry.event != event:
                raise PlanRefused(
                    f"{self.owner}: earlier rounds of this run had different noise. A run must keep "
                    "its job, its version, and the rounds and tests that were planned for this "
                    "client: start a new run"
                )


def _purpose(what: str) -> str:
    """Of a ledger key's middle part: the text before a number; nothing for a round of training."""
    return next((text for text in (TEST, LOSS) if what.startswith(text)), "")


def _named(what: str) -> str:
    """A ledger key's middle part, as people say it."""
    return f"the {what}" if _purpose(what) else f"round {what}"
