"""When an answer leaves: once a machine has worked as much as public numbers say.

How long an owner computes follows the number and the length of the records that were drawn, so it
would tell of them. In a deployment every private answer therefore costs as much work as the most records that
are likely to be drawn would, were each of the greatest length: behind the records, the machine works on
invented ones (``learning.filling``). Two kinds of answers wait for a time instead: those for which
files are read, as when a run begins, and those before which the process that works had to be prepared
again, as after a record that ended it.

Guarantee: of the records, the time at which an answer leaves tells only whether their work was within what
was planned, and if not, the number of whole multiples that it took. With texts of any length that fit the
model that is so unless more are drawn than ``most_drawn``, which happens with a probability below 2**-30 for
each answer; two records that the model fails on, or one that ends the process, are such events, too. Under
client-level privacy no size is published, and a test is planned for 1,000 records.

Assumptions: those of ``learning.filling``; for the first answer, that the machine is as fast as it was
measured, within the margin; what happens behind (encoding, masking) takes a time that does not depend on the
numbers encoded.
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
from ..planning.losses import releases_loss
from ..privacy.noise.sizes import SIZE_EPSILON

_OVERRUN = 2.0**-30
"""Probability that more records are drawn than an answer has time for."""
_MARGIN = 1.03
_DISTURBED = 1.5
"""An answer takes at least this many times its due time if its process had to be prepared again."""
_READING = 5.0
"""Seconds for finding and opening files, however few records there are."""
_READ = 0.002
"""Seconds for a record to be read and tokenised; a picture takes ``Pace.read`` more."""
_LONG = 10.0
"""From this many seconds on, an owner is told that its agent waits, so that it does not seem to hang."""
_UNKNOWN = 1000
"""Held-out records where no size is published: a span is as long as so many take."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Numbers:
    """All that an answer's time may depend on beside the machine's pace; all of it is public."""

    training_size: int
    """From the published size; 0 if none is published."""
    test_size: int
    sampling_rate: float
    """Of a record or group in a step; 0 if steps are not noised."""
    records_per_unit: int
    """Most records that one drawn unit brings."""
    training_share: float = 1.0
    """Of all units, drawn for each; 1 if those held out are in a file of their own."""


@dataclass(frozen=True)
class Most:
    """The most records that an answer is likely to work on."""

    drawn: int
    """In all steps of its training."""
    held: int
    """In its test."""
    weighed: int = 0
    """In the loss on its training records, if the strategy weighs by it in a private job."""


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

    def disturbed(self, begun: float, seconds: float) -> None:
        """Wait, because an answer took another course than those that are filled, for long enough."""
        self.leave(begun, _DISTURBED * seconds)

    def leave(self, begun: float, seconds: float) -> None:
        """Wait until the first whole span of `seconds` since `begun` that is not over yet."""
        if self._clock is None or not seconds > 0:
            return
        spent = self._clock.now() - begun
        spans = max(1, math.ceil(spent / seconds))
        if spans > 1:
            _log.warning(
                "%s took %.1f s for what should take %.1f s, and its answer leaves after %d times "
                "that: an observer learns that it took long. Give this machine less other work; if "
                "files have grown since their size was published: umbel client publish-size.",
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
        records = records * numbers.records_per_unit + 2 * (pace.filling + pace.again)
        return _READING + _MARGIN * records * (pace.prepared + pace.read + _READ)

    def most(self, job: Job, numbers: Numbers) -> Most:
        """What an answer has time for, by public numbers."""
        if numbers.sampling_rate:
            steps, rate = job.training.local_steps, numbers.sampling_rate
            units = most_drawn(numbers.training_size, rate, steps, numbers.training_share)
        else:
            units = job.training.local_steps * job.training.batch_size
        held = most_held(numbers.test_size) if numbers.test_size else _UNKNOWN
        weighed = most_held(numbers.training_size) if releases_loss(job) else 0
        each = numbers.records_per_unit
        return Most(units * each, held * each, weighed * each)

    def apart(self, job: Job) -> float:
        """Seconds for the steps of an owner's own model (``Rule.apart``): their batches are of one size."""
        if not self.waits:
            return 0.0
        most = Most(job.training.local_steps * job.training.batch_size, 0)
        return self.answering(job, most, train=True, test=False)

    def answering(self, job: Job, most: Most, *, train: bool, test: bool) -> float:
        """Seconds that an answer should take which trains, tests, or both."""
        if self._pace is None:
            return 0.0
        pace, seconds = self._pace, 0.0
        again = 0 if pace.prepared else pace.again  # no record fails at its features
        if train:
            steps = job.training.local_steps
            seconds += pace.start + steps * (pace.step + pace.alone)
            seconds += (most.drawn + again) * pace.record
            if most.weighed:
                seconds += pace.start + (most.weighed + pace.filling + again) * pace.tested
        if test:
            seconds += pace.start + (most.held + pace.filling + again) * pace.tested
        return _MARGIN * seconds

    def whole(self, job: Job, numbers: Numbers, rounds: int, tests: int) -> float:
        """Seconds for all answers of a run: what `rounds` of training and `tests` should take."""
        if not self.waits:
            return 0.0
        most = self.most(job, numbers)
        trained = self.answering(job, most, train=True, test=False)
        tested = self.answering(job, most, train=False, test=True)
        return self.preparing(numbers) + rounds * trained + tests * tested


@lru_cache(maxsize=256)
def most_drawn(size: int, rate: float, steps: int, share: float = 1.0) -> int:
    """A number of draws in all `steps` that is exceeded with probability below 2**-30.

    size: as published, so that the true one is `size` plus two-sided geometric noise of epsilon 0.1,
    the noise taken as likely as it was when it was drawn, and what the split adds or takes, which puts each
    unit into the training part with probability `share`. Each of the true number is drawn in each
    step with probability `rate`. The cap is for time alone: anyone who is drawn beyond it trains, so the
    mechanism, and what it is charged, stay the same.
    """
    from scipy.stats import binom

    noise = np.exp(-SIZE_EPSILON * np.abs(np.arange(-400, 401)))
    whole = max(1, round(size / share))
    reach = math.ceil(9 * math.sqrt(whole * share * (1 - share)) + 40) if share < 1 else 0
    split = binom.pmf(round(whole * share) + np.arange(-reach, reach + 1), whole, share)
    weights = np.convolve(noise / noise.sum(), split / split.sum())
    trials = steps * np.maximum(0, size + np.arange(-400 - reach, 401 + reach))
    likely = weights > 0
    weights, trials = weights[likely], trials[likely]

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
