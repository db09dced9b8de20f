"""An owner in an asynchronous job: it trains when a model comes, and adds its update up when it is asked.

Both are requests to train. The first brings a model: reserve, compute, keep; the answer says that an update
waits on the owner's disk. The second lists the members of a sum with their versions
(``wire.buffered``), and brings no model: what is kept for this owner's version is weighted by its staleness,
which is public, and masked. A test asks for neither, and leaves what waits where it is.

Guarantee: as in a synchronous round nothing is computed that is not in the ledger, and nothing leaves that
is not on the disk. An update enters a sum only under the version and model that it was trained from, with the
weight that everybody in that sum can compute; twice only if ``privacy.secagg.repeats`` allows it. A
request that names another version leaves it as it is. In a private job no version is trained that is older
than the newest trained one. Why a weight needs no more noise: ``strategies.fedbuff``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import FileError, MessageError, PlanRefused
from ..job import Job
from ..learning.model import arrays_digest
from ..learning.trainer import Outcome
from ..strategies import Channels, buffered
from ..strategies.fedbuff import FedBuff, staleness_weight
from ..wire.arrays import Arrays
from ..wire.buffered import Listed, version_digest
from ..wire.packing import bytes_of
from ..wire.requests import TRAIN, Assignment, all_sent, request_digest
from .answers import job_of
from .delivery import in_the_clear, masked
from .kept import KeptRound, close_round
from .order import Asked
from .round import Rounds
from .secure import SecureUpload

if TYPE_CHECKING:
    from flwr.app import Message, RecordDict

_SAID = "kept/said"
"""Beside a kept update, in its file: the loss, and whether nothing could be trained."""


class BufferedRounds(Rounds):
    """An owner's answers, also to the requests of an asynchronous job."""

    def answer(
        self, assignment: Assignment, message: Message, *, train: bool, test: bool
    ) -> RecordDict:
        job = job_of(assignment)
        rule = buffered(job.strategy)
        if rule is None or not train:
            return super().answer(assignment, message, train=train, test=test)
        if not assignment.round or test:
            raise MessageError(
                "A request to train in an asynchronous job is for round 0, or asks for a test too. Such a "
                "job trains from round 1 on, and tests in sums of their own."
            )
        listed = Listed.of(message.content)
        if listed is None:
            return self._trained_ahead(job, assignment, message)
        return self._added_up(job, assignment, message, rule, listed)

    def _trained_ahead(self, job: Job, assignment: Assignment, message: Message) -> RecordDict:
        """Train the version that came, keep the update, and say no more than that."""
        from flwr.app import MetricRecord, RecordDict

        asked, kept = self._asked_ahead(job, assignment, message)
        metrics = self._public(job, assignment)
        if kept.waiting(_shapes(asked.channels)) is None:
            self._check_newest(job, assignment)
            if job.noised_locally:
                asked = self._with_checked_weights(asked)
            reserved = self._reserved(asked)
            found = self._computed(reserved).found
            metrics = reserved.metrics
            unable = found.error is not None or found.outcome.diverged
            if not kept.keep(_with_said(found.outcome, asked.channels, unable)):
                raise FileError(f"{self._name} could not keep its update until a sum asks for it")
        return self._with_head(job, assignment, RecordDict({"metrics": MetricRecord(metrics)}))

    def _asked_ahead(
        self, job: Job, assignment: Assignment, message: Message
    ) -> tuple[Asked, KeptRound]:
        """What is asked of a version before any sum asks for its update, and where that is kept."""
        arrays = self._global_model(message)
        local, beside = self._strategy.asked(assignment, message)
        channels = self._strategy.channels(job, assignment)
        model = arrays_digest(all_sent(arrays, beside))
        kept = self._kept_of(
            job, assignment, version_digest(assignment, assignment.round - 1, model)
        )
        begun, interruptions = self._timing.now(), self._work.interruptions
        asked = Asked(
            job,
            assignment,
            arrays,
            train=True,
            test=False,
            local=local,
            channels=channels,
            begun=begun,
            interruptions=interruptions,
            kept=kept,
            asked_for=kept.what,
        )
        return asked, kept

    def _added_up(
        self, job: Job, assignment: Assignment, message: Message, rule: FedBuff, listed: Listed
    ) -> RecordDict:
        """Weight the kept update of this owner's version, and send it: masked, if the job is encrypted."""
        if self._name not in listed.members:
            raise MessageError(f"A request lists the members of a sum without {self._name}")
        version, model = listed.members[self._name]
        ages = [assignment.round - 1 - one for one, _ in listed.members.values()]
        stalest = max(ages)
        if min(ages) < 0:
            raise MessageError("A request sums updates of versions that do not exist yet")
        if stalest > rule.max_staleness:
            raise PlanRefused(
                f"{self._name}: an update is {stalest} versions old, and the job allows {rule.max_staleness}"
            )
        weight = staleness_weight(assignment.round - 1 - version)
        channels = self._strategy.channels(job, assignment)
        kept = self._kept_of(job, assignment, version_digest(assignment, version, model))
        metrics = self._public(job, assignment)
        if not job.encrypted:
            update, loss, _ = self._kept_update(kept, b"", channels)
            clear = in_the_clear(job, Outcome(update, loss), None, metrics)
            return self._with_head(job, assignment, clear)
        content = self.numbers.content(assignment, channels, train=True, test=False)
        request = bytes_of(message.content, "request")
        context = request_digest(TRAIN, message.content, {})
        own = self.numbers.weight(job) * weight
        participant = self.numbers.participant(assignment)
        upload = SecureUpload(participant, request, context, content, own)
        if upload.known:
            return self._with_head(job, assignment, masked(*upload.known, metrics))
        if upload.cohort != tuple(sorted(listed.members)):
            raise MessageError("A request lists other members than those of its sum")
        update, loss, unable = self._kept_update(kept, request, channels)
        whole = content.contribution(update, loss, None, own, unable=unable)
        dither = self._secrets(f"{self._name}/{assignment.round}/dither")
        sent = upload.send(whole, dither, kept.what)
        return self._with_head(job, assignment, masked(*sent, metrics))

    def _check_newest(self, job: Job, assignment: Assignment) -> None:
        """Refuse to train an older version than this owner has trained: no honest server has use for it.

        Only in a private job: without privacy no ledger holds the rounds that were trained.
        """
        trained = self._budget.last_round(assignment.run) if job.private else 0
        if assignment.round < trained:
            raise PlanRefused(
                f"{self._name} has trained model version {trained - 1} of this run, and is asked to train "
                f"version {assignment.round - 1}, which is older"
            )

    def _kept_round(self, assignment: Assignment, what: bytes, train: bool) -> KeptRound | None:
        """As of synchronous jobs; but a test does not end the training of an update that waits."""
        job = job_of(assignment)
        if buffered(job.strategy) is not None and assignment.round < job.training.rounds:
            return None
        return super()._kept_round(assignment, what, train)

    def _kept_of(self, job: Job, assignment: Assignment, what: bytes) -> KeptRound:
        if self._kept is None:
            raise PlanRefused(
                f"{self._name} has no place for updates that wait for a sum (the agent was started without "
                "a folder for kept updates)"
            )
        participant = self.numbers.participant(assignment) if job.encrypted else None
        return KeptRound(self._kept, assignment.run, what, participant)

    def _kept_update(
        self, kept: KeptRound, request: bytes, channels: Channels
    ) -> tuple[Arrays, float, bool]:
        """Update, loss, and whether nothing could be trained; a ``MessageError`` if nothing is kept of this
        version, or it may not be masked again. Then it is let go of, so that it is trained again."""
        shapes = _shapes(channels)
        if kept.waiting(shapes) is None:
            raise MessageError(f"{self._name} keeps no update of this version")
        found = kept.find(request, shapes)
        if found is None:
            close_round(kept.store, kept.run, kept.participant, b"")
            raise MessageError(f"{self._name} keeps no update of this version that a sum may have")
        loss, unable = found.pop(_SAID).tolist()
        return found, loss, bool(unable)


def _shapes(channels: Channels) -> dict[str, tuple[int, ...]]:
    return {**channels.shapes, _SAID: (2,)}


def _with_said(outcome: Outcome, channels: Channels, unable: bool) -> Arrays:
    """What is kept: zeros, if nothing could be trained."""
    zeros = {name: np.zeros(shape, np.float32) for name, shape in channels.shapes.items()}
    said = np.array([outcome.loss, unable], np.float32)
    return {**(outcome.update or zeros), _SAID: said}
