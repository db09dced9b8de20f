"""When an answer leaves: at a time that is computed from public numbers.

How long an owner computes follows the number and the length of the records that were drawn, so it
would tell of them. In a deployment every private answer therefore waits for its time: as long as the
most records that are likely to be drawn would take this machine, were each of the greatest length.

Guarantee: of the records, the time at which an answer leaves tells only whether their work was over in
time, and if not, the number of whole spans that it took. With texts of any length that fit the model,
and a machine as fast as it was measured, that is so unless more are drawn than ``most_drawn``,
which happens with a probability below 2**-30 for each answer.

Assumptions: the pace was measured on this machine under the load that it has; what happens after the
wait (encoding, masking) takes a time that does not depend on the numbers encoded. If the machine has
become slower than measured by more than the margin, spans are exceeded, and the owner's log says so. Its
speed is not felt during an answer: over how long it could be felt would tell how long the records took.
Records that a model fails on take longer, too: a few of them fit into the margin.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..clock import Clock
from ..job import Job
from ..learning.pace import Pace
from ..privacy.noise.sizes import SIZE_EPSILON

_OVERRUN = 2.0**-30
"""Probability that more records are drawn than an answer has time for."""
_MARGIN = 1.03
_READING = 5.0
"""Seconds for finding and opening files, however few records there are."""
_READ = 0.002
"""Seconds for a record to be read and tokenised."""
_LONG = 10.0
"""Seconds from which on an owner is told that its agent waits, lest it looks as if nothing went on."""
_UNKNOWN = 1000
"""Held-out records where no size is published: a span is as long as so many take."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Numbers:
    """All that an answer's time may depend on beside the machine's pace; all of it is public."""

    training_size: int
    """From the published size; 0 where none is published."""
    test_size: int
    sampling_rate: float
    """Of a record or group in a step; 0 where steps are not noised."""
    records_per_unit: int
    """Most records that one drawn unit brings."""


NOTHING_KNOWN = Numbers(0, 0, 0.0, 1)
"""Of an owner whose size was not published yet, and could not be."""


class Timing:
    """The times at which an owner's answers leave. Without a clock nothing waits: a simulation."""

    def __init__(self, clock: Clock | None, pace: Pace | None, name: str) -> None:
        self._clock, self._pace, self._name = clock, pace, name
        self.counted = 0.0
        """Seconds that all answers should have taken: public, whatever they took."""

    @property
    def waits(self) -> bool:
        return self._clock is not None and self._pace is not None

    def now(self) -> float:
        return self._clock.now() if self._clock else 0.0

    def leave(self, begun: float, seconds: float) -> None:
        """Wait until the first whole span of `seconds` since `begun` that is not over yet."""
        if self._clock is None or not seconds > 0:
            return
        self.counted += seconds
        spent = self._clock.now() - begun
        spans = max(1, math.ceil(spent / seconds))
        if spans > 1:
            _log.warning(
                "%s took %.1f s for what should take %.1f s, and its answer leaves after %d times "
                "that: whoever sees it knows that it took long. Give this machine less to do beside; "
                "if files have grown since their size was published: umbel client publish-size.",
                self._name, spent, seconds, spans,
            )  # fmt: skip
        left = spans * seconds - spent
        if left > _LONG:
            _log.info(
                "%s: done; its answer leaves in %.0f s, at a time that is public", self._name, left
            )
        self._clock.wait_until(begun + spans * seconds)

    def preparing(self, numbers: Numbers) -> float:
        """Seconds from a loaded model to records that can be trained on."""
        if self._pace is None:
            return 0.0
        pace = self._pace
        records = most_held(numbers.training_size) + most_held(numbers.test_size)
        if not numbers.training_size:
            records = 2 * _UNKNOWN
        # Of the records that are trained on, and of those held out.
        records = records * numbers.records_per_unit + 2 * pace.filling
        return _READING + _MARGIN * records * (pace.prepared + _READ)

    def answering(self, job: Job, numbers: Numbers, *, train: bool, test: bool) -> float:
        """Seconds for an answer that trains, tests, or both."""
        if self._pace is None:
            return 0.0
        pace, seconds = self._pace, 0.0
        steps = job.training.local_steps
        if train:
            if numbers.sampling_rate:
                units = most_drawn(numbers.training_size, numbers.sampling_rate, steps)
            else:
                units = steps * job.training.batch_size
            records = units * numbers.records_per_unit
            seconds += pace.start + steps * (pace.step + pace.alone) + records * pace.record
        if test:
            held = most_held(numbers.test_size) if numbers.test_size else _UNKNOWN
            records = held * numbers.records_per_unit + pace.filling
            seconds += pace.start + records * pace.tested
        return _MARGIN * seconds

    def whole(self, job: Job, numbers: Numbers, rounds: int, tests: int) -> float:
        """Seconds for all answers of a run: what `rounds` of training and `tests` should take."""
        if not self.waits:
            return 0.0
        trained = self.answering(job, numbers, train=True, test=False)
        tested = self.answering(job, numbers, train=False, test=True)
        return self.preparing(numbers) + rounds * trained + tests * tested


@lru_cache(maxsize=256)
def most_drawn(size: int, rate: float, steps: int) -> int:
    """A number of draws in all `steps` that is exceeded with probability below 2**-30.

    size: as published, so that the true one is `size` plus two-sided geometric noise of epsilon 0.1,
    the noise taken as likely as it was when it was drawn. Each of the true number is drawn in each
    step with probability `rate`. The cap is for time alone: whoever is drawn beyond it trains, so the
    mechanism, and what it is charged, stay the same.
    """
    from scipy.stats import binom

    noise = np.arange(-400, 401)
    weights = np.exp(-SIZE_EPSILON * np.abs(noise))
    weights /= weights.sum()
    trials = steps * np.maximum(0, size + noise)

    def exceeded(most: int) -> float:
        return float(weights @ binom.sf(most, trials, rate))

    low, high = 0, int(trials[-1])
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if exceeded(middle) < _OVERRUN else (middle + 1, high)
    return low


def most_held(size: int) -> int:
    """Most units of a data set, or of a part of it whose expected size this is."""
    tail = math.log(1 / _OVERRUN)
    # The size's own noise, and the split's, which is as a Poisson number's at most (Bernstein).
    return math.ceil(size + tail / SIZE_EPSILON + math.sqrt(2 * size * tail) + tail)
