"""What a request means at one owner by public numbers: weight, terms, noise, time. No record is read for it.

Server and owner both derive them, each for itself; what an owner computes here is all that it goes by.
"""

from __future__ import annotations

import math

from ..errors import PlanRefused
from ..job import Job
from ..planning.encryption import roster_refusals
from ..planning.noise import PrivateRecipe, check_delta, private_recipe
from ..planning.schedule import most_tests, rounds_tested
from ..planning.terms import Terms
from ..planning.vector import Content
from ..privacy.secagg.participant import Participant
from ..strategies import Channels, trains_apart
from ..wire.requests import Assignment
from .account import Account
from .answers import job_of
from .budget import Budget
from .secure import Membership, participant_of
from .timing import Numbers, Timing
from .work import Work


class PublicNumbers:
    """Of one owner, for each request."""

    def __init__(
        self,
        name: str,
        work: Work,
        account: Account,
        budget: Budget,
        membership: Membership | None,
        timing: Timing,
    ) -> None:
        self._name, self._work = name, work
        self._account, self._budget = account, budget
        self._membership, self._timing = membership, timing

    def of_answers(self, job: Job, assignment: Assignment) -> Numbers:
        """What the time of an answer is computed from."""
        account, rate = self._account, 0.0
        size = account.published(job, self._budget)
        training = account.training_size(job, self._budget) if size else 0
        if job.noised_locally:
            rate = self.recipe(job, assignment).sampling_rate
        held = account.test_size(job, self._budget)
        per_unit = (self._work.records_per_group or 1) if job.per_group else 1
        return Numbers(training, held, rate, per_unit, account.training_share)

    def seconds(self, job: Job, assignment: Assignment) -> float:
        """How long all answers of a run should take here, by public numbers; 0 if none waits."""
        rounds = job.training.rounds
        if job.encrypted and job.cohort.size:
            # The plan draws cohorts, and does not stand yet: as many as fall to each member.
            rounds = math.ceil(
                rounds * min(1.0, job.cohort.size / self.terms(assignment).consortium)
            )
        tests = most_tests(job) if job.evaluation.every is not None else assignment.tests
        apart = 0.0
        if trains_apart(job.strategy, self._budget.policy.jobs.strategies):
            apart = rounds * self._timing.apart(job)
        return self._timing.whole(job, self.of_answers(job, assignment), rounds, tests) + apart

    def weight(self, job: Job) -> int:
        """Public: what the plan computes for this client too."""
        return self.training_size(job) if job.weighting == "examples" else 1

    def training_size(self, job: Job) -> int:
        return self._account.training_size(job, self._budget)

    def content(
        self, assignment: Assignment, channels: Channels, *, train: bool, test: bool
    ) -> Content:
        """What an encrypted answer holds. ``PlanRefused`` for entries beyond what the roster allows."""
        content = Content(self.terms(assignment), channels, train, test)
        limits = self.participant(assignment).member.roster.limits
        if reasons := roster_refusals(content.clip, limits):
            raise PlanRefused(f"{self._name}: {reasons[0]}")
        return content

    def terms(self, assignment: Assignment) -> Terms:
        """The job's terms among the members of the roster that this client holds."""
        job = job_of(assignment)
        if not job.encrypted:
            return Terms(job, 1)
        return Terms(job, len(self.participant(assignment).member.roster.members))

    def participant(self, assignment: Assignment) -> Participant:
        job = job_of(assignment)
        return participant_of(self._membership, self._name, job, assignment.run)

    def recipe(self, job: Job, assignment: Assignment) -> PrivateRecipe:
        """Noise and sampling of a private job. ``PlanRefused`` for groups that the data do not have."""
        if job.per_group and (self._work.records_per_group is None or not self._work.grouped):
            # Each record would pass for a group of its own, and the promise would be empty.
            raise PlanRefused(
                f"{self._name} declares no groups, but the job protects groups "
                "(client.toml: group_column)"
            )
        rounds_tested(job, assignment.tests)  # refuses a number that no plan has
        check_delta(job, self._account.published(job, self._budget), self._name)
        size = self.training_size(job)
        return private_recipe(job, size, assignment.participations, assignment.tests)
