"""Which of the tested models is the best so far, by the run's own events and in their order.

So a run that was killed decides as if it had never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..job import Job
from ..planning.evaluation import grounds
from ..run.events import Ended, Evaluation, Event, Holdout

HEARD = (Evaluation, Holdout, Ended)
"""Events that decide."""
_GROUNDS = {"public hold-out": Holdout, "private counts": Evaluation, "exact counts": Evaluation}


@dataclass(frozen=True)
class Candidate:
    """A model that was tested: that after `round`, by the digest of its arrays."""

    round: int
    model: str
    value: float


class Choice:
    """The best model so far on the figures that the job may decide on; the first of equals.

    A second test of the same model, as after a crash, changes nothing: under private counts its noise
    would be another, and the model that was put aside must stay the one that was chosen.
    """

    def __init__(self, job: Job, events: Iterable[Event]) -> None:
        found = grounds(job) if job.evaluation.decides else None
        self.on = found
        self.metric, self._more = job.kind.deciding[:2]
        self.best: Candidate | None = None
        self.cause = ""
        """Why training was ended early, finally: no later event changes that."""
        self._tests = _GROUNDS[found] if found else None
        self._heard: set[tuple[type[Event], int, str]] = set()
        self._worse: set[int] = set()
        for event in events:
            self.hear(event)

    def hear(self, event: Event) -> None:
        """Take in an event of the run."""
        if isinstance(event, Ended):
            self.cause = self.cause or event.cause or "figures"
        if not isinstance(event, Evaluation | Holdout) or not event.metrics:
            return
        test = (type(event), event.round, event.model)
        if test in self._heard:
            return
        self._heard.add(test)
        if type(event) is self._tests:
            self._weigh(event.round, event.model, event.metrics.get(self.metric))

    def heard(self, kind: type[Event], round_: int, model: str) -> bool:
        """Whether this model was tested already."""
        return (kind, round_, model) in self._heard

    @property
    def ended(self) -> bool:
        return bool(self.cause)

    @property
    def stale(self) -> int:
        """Tests since the best one, none of which was better."""
        return len(self._worse)

    def _weigh(self, round_: int, model: str, value: float | None) -> None:
        # A figure that is missing or no number is that of a model gone wrong, or of counts that noise
        # outweighs: such a model is never the best.
        if value is not None and math.isfinite(value) and self._beats(value):
            self.best = Candidate(round_, model, float(value))
            self._worse = set()
        else:
            self._worse.add(round_)

    def _beats(self, value: float) -> bool:
        if self.best is None:
            return True
        return value > self.best.value if self._more else value < self.best.value
