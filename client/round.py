"""One round at an owner, in the order that keeps its promise.

Reserve the budget, compute from the records, hide, encode, mask: each comes after the one before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MessageError, PlanRefused, WeightsRefused
from ..job import Job
from ..learning.counts import zero_counts
from ..learning.model import arrays_digest
from ..learning.private_counts import PrivateCounts
from ..learning.steps import PrivateSteps
from ..planning.losses import clip_of_loss
from ..planning.schedule import rounds_tested
from ..planning.vector import Content
from ..privacy.accounting.accountant import MechanismEvent
from ..privacy.ledger.chain import LOSS, TEST
from ..privacy.noise.client_noise import ClientPart
from ..privacy.noise.counts_noise import counts_noise
from ..privacy.noise.loss_noise import LossNoise
from ..privacy.randomness import SecretStream
from ..privacy.secagg.keys import hash_of
from ..wire.arrays import Arrays, to_arrays
from ..wire.packing import bytes_of
from ..wire.requests import (
    LEDGER,
    OWN_STATE,
    WEIGHT,
    Assignment,
    all_sent,
    only_arrays,
    request_digest,
    update_digest,
)
from .account import Account
from .answers import job_of
from .budget import Budget
from .computing import Computing
from .delivery import Metrics, in_the_clear, masked
from .kept import KeptRound, KeptUpdates, close_round, groups_to_name, note_told, told_once
from .norms import asked_norm, check_room
from .order import Answerable, Asked, Computed, Durable, Reserved
from .own_state import OwnStates
from .public_numbers import PublicNumbers
from .second import SecondSums, farthest_of, from_kept, kept_shapes, to_keep
from .secure import Membership, SecureUpload
from .strategy import StrategyHere
from .timing import Timing
from .work import Work

if TYPE_CHECKING:
    from flwr.app import Message, RecordDict

_log = logging.getLogger(__name__)


class Rounds:
    """An owner's answers to the requests to train or to test.

    Guarantee under privacy: an answer has the same form whatever the records are. What can depend
    on them is noised, or masked, or in the owner's own log; whether there is an answer, its fields
    and its charge follow from job and request.
    """

    def __init__(
        self,
        name: str,
        work: Work,
        account: Account,
        budget: Budget,
        membership: Membership | None,
        secrets: Callable[[str], SecretStream],
        log: Path | None,
        kept: KeptUpdates | None,
        timing: Timing,
        accepted: Collection[str] = (),
        states: OwnStates | None = None,
        rank: int = 0,
    ) -> None:
        """accepted: strategies whose own code the owner lets run here, by name. rank: as
        ``strategy.StrategyHere`` has it."""
        self.numbers = PublicNumbers(name, work, account, budget, membership, timing)
        self._name = name
        self._work = work
        self._account = account
        self._budget = budget
        self._secrets = secrets
        self._computing = Computing(name, work, log)
        self._kept = kept
        self._timing = timing
        self._strategy = StrategyHere(name, work, accepted, states, rank)
        self._second = SecondSums(name, work, self.numbers, self._strategy, kept, secrets)

    def check(self, assignment: Assignment, *, prepares: bool) -> None:
        """Refuse what public numbers forbid, also the budget if it `prepares`; it reads no record."""
        job = job_of(assignment)
        self._strategy.check_rank(job)
        rounds_tested(job, assignment.tests)  # refuses a number that no plan has
        if assignment.participations < 0:
            raise MessageError(
                f"{assignment.participations} rounds are planned for this client, "
                "which is impossible"
            )
        if not 0 <= assignment.round <= job.training.rounds or assignment.attempt < 0:
            raise MessageError(
                f"A request is for round {assignment.round}, attempt {assignment.attempt}, of a job of "
                f"{job.training.rounds}"
            )
        if prepares and job.encrypted:
            for channels in self._strategy.of_rounds(job, assignment):
                self.numbers.content(assignment, channels, train=True, test=False)
        if job.private and self._account.known:
            recipe = self.numbers.recipe(job, assignment)
            if prepares:
                self._budget.check(job, assignment, recipe)

    def answer(
        self, assignment: Assignment, message: Message, *, train: bool, test: bool
    ) -> RecordDict:
        """Test the model that came, train it further, and send what came of it, masked or not."""
        asked = self._asked(assignment, message, train=train, test=test)
        if asked.upload and asked.upload.known:
            sent = masked(*asked.upload.known, self._public(asked.job, assignment))
            return self._with_head(asked.job, assignment, sent)
        return self._sent(self._durable(self._computed(self._reserved(asked))))

    def second(self, assignment: Assignment, message: Message) -> RecordDict:
        """Answer for the second sum of a round, from the update that is in the first; it costs nothing."""
        job = job_of(assignment)
        metrics = self._public(job, assignment)
        return self._with_head(job, assignment, self._second.answer(assignment, message, metrics))

    def _asked(self, assignment: Assignment, message: Message, *, train: bool, test: bool) -> Asked:
        """What is asked, and what of it was answered before; refuses what public numbers forbid."""
        job = job_of(assignment)
        if train and not assignment.round:
            raise MessageError("A request to train is for round 0, but the first round is 1")
        if test and not rounds_tested(job, assignment.tests):
            raise PlanRefused(f"{self._name}: the job has no tests, but the server asks for one")
        arrays, here = self._global_model(message), self._strategy
        local, beside = here.asked(assignment, message) if train else (None, {})
        if train:
            here.check_reaches(assignment, message, arrays, self.numbers.terms(assignment))
        sent, channels = all_sent(arrays, beside), here.channels(job, assignment)
        begun, interruptions = self._timing.now(), self._work.interruptions
        two = train and here.second(job, assignment) is not None
        asked = Asked(
            job,
            assignment,
            arrays,
            train,
            test,
            local,
            channels,
            begun=begun,
            interruptions=interruptions,
            two_sums=two,
        )
        upload = content = None
        if job.encrypted:
            content = self.numbers.content(assignment, channels, train=train, test=test)
            upload = self._secure_upload(assignment, message, sent, content)
            asked = replace(asked, content=content, upload=upload)
            if upload.known:
                return asked
        asked = here.with_own(asked, message, upload)
        asked_for = update_digest(message.content, sent)
        asked_for = hash_of(asked_for, asked.own.digest) if asked.own else asked_for
        # What was computed before is sent again, if nothing new comes of it.
        kept = self._kept_round(assignment, asked_for, train)
        request = upload.request if upload else b""
        groups = groups_to_name(self._name, job, assignment, train=train, test=test)
        # Without noise it is the same again, however often it is trained.
        again = kept if job.noised_locally else None
        repeated = again.find(request, kept_shapes(channels, two), groups) if again else None
        if groups and repeated is None:
            raise PlanRefused(f"{self._name} has no update to name a group with")
        what, known = (kept.what, True) if kept and repeated is not None else (b"", False)
        if upload and test and not job.tests_privately and not what:
            what, known = told_once(upload, asked_for, kept)
        if job.noised_locally and (test or repeated is None):
            asked = self._with_checked_weights(asked)
        if job.per_client and upload and content:
            check_room(
                self._name, self.numbers.terms(assignment), content, assignment, upload.members
            )
        return replace(
            asked,
            kept=kept,
            repeated=repeated,
            groups=groups,
            what=what,
            again=known,
            asked_for=asked_for,
        )

    def _reserved(self, asked: Asked) -> Reserved:
        """Reserve: whatever comes of it, so that the server cannot tell by the charge."""
        job, assignment = asked.job, asked.assignment
        metrics, noise = self._public(job, assignment), None
        if asked.own:
            metrics[OWN_STATE] = asked.own.round
        if asked.test and job.tests_privately:
            noise = self._test_noise(job, assignment, metrics)
        elif asked.test and job.private:
            request = hash_of(bytes.fromhex(arrays_digest(asked.tested)), asked.asked_for).hex()
            self._budget.note_exact(
                job, assignment, request, last=not asked.train, again=asked.again
            )
        if asked.upload and asked.what and not asked.again:
            note_told(asked.upload, asked.what)
        loss = None
        if asked.trains and job.private:
            recipe = self.numbers.recipe(job, assignment)
            if recipe.loss_event:
                loss = self._loss_noise(job, assignment, recipe.loss_event)
            event = recipe.round_event
            metrics["epsilon"] = self._budget.reserve(job, assignment, str(assignment.round), event)
        return Reserved(asked, metrics, noise, loss)

    def _computed(self, reserved: Reserved) -> Answerable:
        """Compute from the records."""
        asked = reserved.asked
        job, assignment = asked.job, asked.assignment
        private = None
        if asked.trains and job.noised_locally:
            private = self._private_steps(job, assignment)
        found = self._worked(reserved, private)
        if asked.repeated is not None:
            found.outcome = from_kept(asked.repeated)
        if found.error is not None and not job.encrypted:
            raise found.error
        counts = found.counts or zero_counts(job) if asked.test else None
        if isinstance(counts, PrivateCounts):
            counts = counts.bounded(job)
            counts = counts.plus(reserved.noise) if reserved.noise is not None else counts
        return Answerable(reserved, found, counts)

    def _durable(self, answer: Answerable) -> Durable:
        """Keep durably, before anything leaves."""
        asked = answer.reserved.asked
        what, found, propose = asked.what, answer.found, self._strategy.propose
        # If states follow from no update, they come first: what is kept is not trained again.
        if asked.follows_more:
            propose(asked, found)
        if asked.kept and asked.repeated is None:
            what = asked.kept.keep(to_keep(found.outcome, asked.channels, asked.two_sums))
        if not asked.follows_more:
            propose(asked, found)
        return Durable(answer, what)

    def _sent(self, durable: Durable) -> RecordDict:
        """Under client-level privacy clip and add noise; encode and mask, or in the clear."""
        answer, reserved = durable.answer, durable.answer.reserved
        asked, outcome = reserved.asked, answer.found.outcome
        job, assignment = asked.job, asked.assignment
        if asked.upload and asked.content:
            part = self._client_part(job, assignment) if asked.train and job.per_client else None
            unable = answer.found.error is not None or outcome.diverged
            whole = asked.content.contribution(
                outcome.update,
                outcome.loss,
                answer.counts,
                self.numbers.weight(job),
                unable=unable,
                part=part,
                first=farthest_of(outcome) if asked.two_sums else None,
            )
            dither = self._secrets(f"{self._name}/{assignment.round}/dither")
            upload = asked.upload.send(whole, dither, durable.what, asked.groups)
            return self._with_head(job, assignment, masked(*upload, reserved.metrics))
        trained = outcome if asked.train else None
        clear = in_the_clear(job, trained, answer.counts, reserved.metrics)
        return self._with_head(job, assignment, clear)

    def _worked(self, reserved: Reserved, private: PrivateSteps | None) -> Computed:
        """What comes of the records, after as much work as public numbers say."""
        asked = reserved.asked
        timing, most, seconds, again = self._timing, None, 0.0, 0.0
        train, test = asked.trains, asked.test
        if timing.waits and asked.job.private and (train or test):
            numbers = self.numbers.of_answers(asked.job, asked.assignment)
            most, again = timing.most(asked.job, numbers), timing.preparing(numbers)
            seconds = timing.answering(asked.job, most, train=train, test=test)
            seconds += timing.apart(asked.job) if train and asked.apart else 0.0
        timing.counted += seconds
        try:
            return self._computing.computed(asked, private, most, reserved.loss)
        finally:
            if self._work.interruptions > asked.interruptions:
                timing.disturbed(asked.begun, seconds + again)

    def _kept_round(self, assignment: Assignment, what: bytes, train: bool) -> KeptRound | None:
        """Where this round's update lies, or will; None if each answer is drawn anew."""
        job = job_of(assignment)
        two = self._strategy.second(job, assignment) is not None
        if self._kept is None or not (job.noised_locally or two):
            return None
        participant = self.numbers.participant(assignment) if job.encrypted else None
        if not train:
            close_round(self._kept, assignment.run, participant, what)
            return None
        return KeptRound(self._kept, assignment.run, what, participant)

    def _public(self, job: Job, assignment: Assignment) -> Metrics:
        """What stands beside every answer: the planned weight, and what the run has spent so far."""
        found: Metrics = {WEIGHT: self.numbers.weight(job)}
        if job.private:
            found["epsilon"] = self._budget.spent(job, assignment.run)
        return found

    def _with_head(self, job: Job, assignment: Assignment, reply: RecordDict) -> RecordDict:
        """The reply, with what the run's certificate binds this owner's ledger by."""
        from flwr.app import ConfigRecord

        if job.private and (head := self._budget.head(assignment.run)):
            reply[LEDGER] = ConfigRecord({"head": head})
        return reply

    def _test_noise(self, job: Job, assignment: Assignment, metrics: Metrics) -> list[int]:
        """Reserve a test's budget; this client's noise, the whole or its share, that hides its records."""
        event = self.numbers.recipe(job, assignment).test_event
        assert event is not None
        # By the model, not by the request: a train request tests what the last round came to.
        what = f"{TEST}{assignment.round - assignment.test}"
        metrics["epsilon"] = self._budget.reserve(job, assignment, what, event)
        stream, terms = self._secrets(f"{self._name}/{what}"), self.numbers.terms(assignment)
        cells = len(zero_counts(job).to_list()) - terms.change.sums
        return counts_noise(cells, event, terms.counts_shares, stream, terms.change)

    def _loss_noise(self, job: Job, assignment: Assignment, event: MechanismEvent) -> LossNoise:
        """Reserve the release of this round's loss; the whole noise of it."""
        what = f"{LOSS}{assignment.round}"
        self._budget.reserve(job, assignment, what, event)
        stream = self._secrets(f"{self._name}/{what}")
        return LossNoise.draw(event, clip_of_loss(job), self.numbers.training_size(job), stream)

    def _client_part(self, job: Job, assignment: Assignment) -> ClientPart:
        """What clips this round's update, and hides it in the sum; nothing of the server's choosing."""
        stream = self._secrets(f"{self._name}/{assignment.round}/noise")
        norm = asked_norm(job, assignment)
        return self.numbers.terms(assignment).client_part(norm, stream)

    def _secure_upload(
        self, assignment: Assignment, message: Message, sent: Arrays, content: Content
    ) -> SecureUpload:
        request = bytes_of(message.content, "request")
        context = request_digest(message.metadata.message_type, message.content, sent)
        weight = self.numbers.weight(job_of(assignment))
        return SecureUpload(self.numbers.participant(assignment), request, context, content, weight)

    def _global_model(self, message: Message) -> Arrays:
        return to_arrays(only_arrays(message.content), like=self._work.shapes)

    def _with_checked_weights(self, asked: Asked) -> Asked:
        """Refuse weights that would let a record move what others add; nothing is charged.

        Guarantee: whether it is refused, and why, follows from what the server sent. Else a server could
        find out any number of this owner's state, by one refusal after the other. If that state alone leads
        to such weights, no record is trained on (``Asked.withheld``), and a test is of the strategy's first
        state, which is accepted: no message says so, and its figures are those of records.
        """
        here = self._strategy
        first = here.with_first(asked)
        if why := here.objection(first):
            raise WeightsRefused(f"{self._name}: {why}")
        why = here.objection(asked) if asked.own else ""
        if why:
            _log.error(
                "%s: an update is made without records. With this owner's own part: %s",
                self._name,
                why,
            )
        return replace(asked, withheld=bool(why), first=first.personal if why else {})

    def _private_steps(self, job: Job, assignment: Assignment) -> PrivateSteps:
        recipe = self.numbers.recipe(job, assignment)
        return PrivateSteps(
            sampling_rate=recipe.sampling_rate,
            expected_batch_size=recipe.expected_batch_size,
            noise_multiplier=recipe.noise_multiplier,
            clipping_norm=job.privacy.clipping_norm,
            key=self._secrets(f"{self._name}/{assignment.round}").key(),
            records_per_group=self._work.records_per_group if job.per_group else None,
        )
