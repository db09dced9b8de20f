"""An owner's answer for the second sum of a round: from the update that it kept, and nothing else.

Guarantee: no record is read, and nothing is charged. Under example- and group-level privacy the update was
noised before it was kept, so whatever is computed from it is post-processing (Dwork and Roth 2014,
Prop. 2.1). Under client-level privacy the answer would be a second release: ``planning`` refuses such jobs,
and so does this. Encrypted, it leaves only into a sum over exactly the members of the first one, for one
question that it was asked of this update (``privacy.secagg.second``). Both sums are of the same f_k w_k, the
factor by which the first vector was scaled to the clip and the weight: an answer that does not fit the clip
with this factor is refused, never scaled by one of its own. The reaches follow from job, round, model and
question, so the server cannot have an answer refused by telling another.
Assumption: as for each local half, its code computes only from its arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..errors import MessageError, PlanRefused
from ..learning.trainer import Outcome
from ..privacy.randomness import SecretStream
from ..privacy.secagg.fixed_point import largest_magnitude
from ..strategies import Channels
from ..wire.arrays import Arrays, to_array_record, to_arrays
from ..wire.packing import bytes_of
from ..wire.requests import (
    ASKED,
    Assignment,
    all_sent,
    beside_of,
    only_arrays,
    question_digest,
    request_digest,
    update_digest,
)
from .answers import job_of
from .delivery import Metrics, masked
from .kept import KeptRound, KeptUpdates
from .public_numbers import PublicNumbers
from .secure import SecureUpload
from .strategy import StrategyHere
from .work import Work

if TYPE_CHECKING:
    from flwr.app import Message, RecordDict


_FINISHED = "/"
"""Before the names of the finished update, where it is kept beside what left."""


def kept_shapes(channels: Channels, two_sums: bool) -> dict[str, tuple[int, ...]]:
    """Of what is kept of a round: what left, and for a second sum the finished update, too."""
    finished = channels.trained.items() if two_sums else ()
    return {**channels.shapes, **{f"{_FINISHED}{name}": shape for name, shape in finished}}


def to_keep(outcome: Outcome, channels: Channels, two_sums: bool) -> Arrays:
    """What is kept of an outcome: zeros, if nothing could be trained."""
    shapes = kept_shapes(channels, two_sums)
    if not outcome.update:
        return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    finished = {f"{_FINISHED}{name}": array for name, array in outcome.finished.items()}
    found = {**outcome.update, **finished}
    return {name: found[name] for name in shapes}


def from_kept(kept: Arrays) -> Outcome:
    """The outcome that was kept."""
    finished = {n[len(_FINISHED) :]: a for n, a in kept.items() if n.startswith(_FINISHED)}
    update = {n: a for n, a in kept.items() if not n.startswith(_FINISHED)}
    return Outcome(update, 0.0, finished=finished)


def farthest_of(outcome: Outcome) -> float:
    """The largest magnitude in an update and in what leaves of it: what both sums are scaled by."""
    return largest_magnitude([*outcome.update.values(), *outcome.finished.values()])


class SecondSums:
    """One owner's."""

    def __init__(
        self,
        name: str,
        work: Work,
        numbers: PublicNumbers,
        here: StrategyHere,
        kept: KeptUpdates | None,
        secrets: Callable[[str], SecretStream],
    ) -> None:
        self._name, self._work, self._numbers = name, work, numbers
        self._here, self._kept, self._secrets = here, kept, secrets

    def answer(self, assignment: Assignment, message: Message, metrics: Metrics) -> RecordDict:
        """The reply, masked or in the clear; `metrics` go with it.

        Raises ``ProtocolError`` for another sum than the one that the round's second may be, and
        ``MessageError`` if the update of the round is not here, so that the round begins again.
        """
        from flwr.app import MetricRecord, RecordDict

        job, content = job_of(assignment), message.content
        declared = self._here.second(job, assignment) if assignment.round else None
        if declared is None or job.per_client:
            raise PlanRefused(f"{self._name}: the job's strategy has no second sum")
        channels, asks = declared
        arrays = to_arrays(only_arrays(content), like=self._work.shapes)
        local, beside = self._here.asked(assignment, message)
        asked = beside_of(content, asks, ASKED)
        what, question = (
            update_digest(content, all_sent(arrays, beside)),
            question_digest(content, asked),
        )
        upload = None
        if job.encrypted:
            layout = self._numbers.content(assignment, channels, train=True, test=False)
            context = request_digest(
                message.metadata.message_type, content, all_sent(arrays, beside, asked)
            )
            participant, weight = self._numbers.participant(assignment), self._numbers.weight(job)
            request = bytes_of(content, "request")
            upload = SecureUpload(participant, request, context, layout, weight)
            if upload.known:
                return masked(*upload.known, metrics)
        self._here.check_reaches(
            assignment, message, arrays, self._numbers.terms(assignment), asked
        )
        if upload is not None:
            upload.participant.bind_second(upload.request, what, question)
        first = self._here.channels(job, assignment)
        update = self._of_the_round(assignment, what, kept_shapes(first, True), upload)
        assert local is not None  # a second sum is declared only with a local half
        local.model = arrays
        try:
            found = local.second(update.finished, asked)
            vector = channels.scaled(local.told).vector({}, found)
            peak = farthest_of(update)
        except ValueError as error:
            raise MessageError(f"{self._name}: the second sum: {error}") from None
        if not peak:  # nothing could be trained, and nothing of it is in the first sum
            vector = {name: np.zeros_like(array) for name, array in vector.items()}
        if upload is None:
            record = MetricRecord(metrics)
            return RecordDict({"arrays": to_array_record(vector), "metrics": record})
        whole = layout.contribution(vector, 0.0, None, weight, first=peak)
        dither = self._secrets(f"{self._name}/{assignment.round}/second dither")
        return masked(*upload.send(whole, dither, what, (), question), metrics)

    def _of_the_round(
        self,
        assignment: Assignment,
        what: bytes,
        shapes: dict[str, tuple[int, ...]],
        upload: SecureUpload | None,
    ) -> Outcome:
        if self._kept is None:
            raise PlanRefused(f"{self._name} has no place to keep the update of a round in")
        participant = upload.participant if upload else None
        update = KeptRound(self._kept, assignment.run, what, participant).waiting(shapes)
        if update is None:
            raise MessageError(f"{self._name} does not have the update of this round")
        return from_kept(update)
