"""What rides in one secure sum: the strategy's channels, a loss, and the counts of a test, in a fixed order.

Clients and coordinator derive the layout from the job, so none has to take it on trust. Whole counts
are words of their own; losses are wide numbers (``privacy.secagg.fixed_point``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import MessageError
from ..job import Job
from ..learning.counts import counts_from_list, zero_counts
from ..learning.metrics import Counts, counts_of
from ..privacy.noise.client_noise import COUNT_STEPS, ClientPart, ServerNoise
from ..privacy.secagg.fixed_point import Contribution, Layout, Total, largest_magnitude
from ..strategies import channels_over
from ..strategies.contract import Channels, Shapes
from ..wire.arrays import Arrays
from .terms import Terms

OFFSET = 2**20
OFFSET_PER_CLIENT = 2**21
"""Added to each noised number by every client: noise never reaches this far below zero."""


def further_of(job: Job, shapes: Shapes) -> list[str]:
    """What rounds add up beside the update, for a model of these tensors, by the names of the channels."""
    many = channels_over(job.strategy, shapes, job.training.rounds)
    return list(dict.fromkeys(c.name for channels, _ in many for c in channels.further))


@dataclass(frozen=True)
class Content:
    """What the clients of one slot add up: an update, the counts of a test, or both; or a second sum."""

    terms: Terms
    channels: Channels
    """The strategy's part: the update, and its other channels."""
    train: bool
    test: bool

    @property
    def job(self) -> Job:
        return self.terms.job

    @property
    def shapes(self) -> Shapes:
        """Of the tensors that are added up, by the names that travel."""
        return self.channels.shapes

    @property
    def parameters(self) -> int:
        """Numbers of all channels."""
        return self.channels.numbers

    @property
    def clip(self) -> float:
        """Largest magnitude of an entry of an update, and of what rides with it in its scale."""
        return self.terms.clip(self.channels.parameters)

    @property
    def layout(self) -> Layout:
        counted = len(self._zero.to_list()) - self._reals if self.test else 0
        told = int(self._counts_within) if self.job.per_client else 1 + int(self.train)
        return Layout(
            parameters=self.parameters if self.train else 0,
            integers=told + counted,
            wides=int(self._tells_loss) + self._reals,
        )

    @property
    def _reals(self) -> int:
        """How many of the counts are not whole: none of a private job's."""
        return counts_of(self.job.kind).reals if self.test and not self.job.private else 0

    @property
    def _counts_within(self) -> bool:
        return self.train and self.job.per_client and self.job.privacy.clipping == "adaptive"

    @property
    def _offset(self) -> int:
        return OFFSET_PER_CLIENT if self.job.per_client else OFFSET

    @property
    def _tells_loss(self) -> bool:
        """The training loss of a private job would tell of the records that were drawn. It is told once."""
        return self.train and not self.job.private and self.channels.trip == 1

    @property
    def _zero(self) -> Counts:
        return zero_counts(self.job)

    def contribution(
        self,
        update: Arrays,
        loss: float,
        counts: Counts | None,
        weight: int,
        unable: bool = False,
        part: ClientPart | None = None,
        first: float | None = None,
    ) -> Contribution:
        """One client's part. `update` is empty if nothing was trained, `counts` None untested.

        A client that was `unable` to train or test says so in the sum alone, with zeros for the rest:
        a refusal would tell the server that its records, and nobody else's, are such. If `part`
        hides whole clients, not even the sum tells. first: as ``Contribution`` has it.
        """
        nothing = not update and self.train
        zeros = {n: np.zeros(s, np.float32) for n, s in self.shapes.items()} if nothing else {}
        arrays = [(update or zeros)[name] for name in self.shapes] if self.train else []
        integers: list[int] = []
        wides: list[float] = []
        if not self.job.per_client:
            integers.append(int(unable))
            if self.train:
                beyond = largest_magnitude(arrays) if first is None else first
                integers.append(int(beyond > self.clip))
        elif self._counts_within:
            assert part is not None
            integers.append(part.within(arrays) + self._offset)
        if self._tells_loss:
            wides.append(loss)
        if self.test and self.job.tests_privately:
            # Noise may be negative, and the words of a sum are not.
            counted = (counts or self._zero).to_list()
            integers += [int(number) + self._offset for number in counted]
        elif self.test and self.job.private:
            integers += [int(number) for number in (counts or self._zero).to_list()]
        elif self.test:
            numbers = (counts or self._zero).to_list()
            integral = len(numbers) - self._reals
            integers += [int(number) for number in numbers[:integral]]
            wides += numbers[integral:]
        noise = part.noise if part and self.train else None
        return Contribution(arrays, integers, wides, weight, noise, first)

    def read(self, total: Total, noise: ServerNoise | None = None) -> Reading:
        """What the opened sum says, with the server's `noise`, if it is to add any.

        Raises ``MessageError`` for counts that nobody can have counted.
        """
        integers, wides = list(total.integers), list(total.wides)
        unable = clipped = 0
        within = None
        if not self.job.per_client:
            unable = integers.pop(0)
            clipped = integers.pop(0) if self.train else 0
            if max(unable, clipped) > total.members:
                raise MessageError(
                    f"of {total.members} members {unable} were unable and {clipped} clipped, which "
                    "is impossible: one of them sent wrong numbers"
                )
        elif self._counts_within:
            inside = (integers.pop(0) - self._offset * total.members) / COUNT_STEPS
            within = (noise.hide_count(inside) if noise else inside) / total.members
        loss = wides.pop(0) / total.members if self._tells_loss else None
        if self.job.tests_privately:
            integers = [number - self._offset * total.members for number in integers]
        counts = counts_from_list(self.job, [*integers, *wides]) if self.test else None
        mean: Arrays = {}
        at = 0
        for name, shape in self.shapes.items() if self.train else ():
            size = math.prod(shape)
            part = total.part(at, size)
            if noise:
                noise.hide_mean(part, total.members)
            mean[name] = part.astype(np.float32).reshape(shape)
            at += size
        return Reading(mean, total.weight, loss, clipped, counts, total.members, unable, within)


@dataclass(frozen=True)
class Reading:
    """The sum of a cohort, as the job means it."""

    mean: Arrays
    """Weighted mean of the updates, float32."""
    weight: int
    loss: float | None
    """Mean training loss over the clients; None under privacy."""
    clipped: int
    """Clients whose update was scaled down to the clip."""
    counts: Counts | None
    members: int
    unable: int
    """Clients that could not train or test; zeros replace them. Not known under client-level privacy."""
    within: float | None = None
    """Noised share of clients within the clipping norm, if it is adaptive."""
