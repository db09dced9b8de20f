"""Which of the tested models is the best so far, by the run's own events and in their order.

So a run that was killed decides as if it had never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..job import Job
from ..planning.evaluation import grounds

_KINDS = {
    "public hold-out": "holdout",
    "private counts": "evaluation",
    "exact counts": "evaluation",
}


@dataclass(frozen=True)
class Candidate:
    """A model that was tested: that after `round`, by the digest of its arrays."""

    round: int
    model: str
    value: float


@dataclass(frozen=True)
class Kept:
    """The model that is the result: the one after `round`, and the figure that spoke for it."""

    round: int
    ended_early: bool
    on: str | None = None
    metric: str | None = None
    value: float | None = None


class Choice:
    """The best model so far on the figures that the job may decide on; the first of equals.

    A second test of the same model, as after a crash, changes nothing: under private counts its noise
    would be another, and the model that was put aside must stay the one that was chosen.
    """

    def __init__(self, job: Job, events: Iterable[dict[str, Any]]) -> None:
        found = grounds(job) if job.evaluation.decides else None
        self.on = found
        self.metric, self._more, _ = job.kind.deciding
        self.best: Candidate | None = None
        self.cause = ""
        """Why training was ended early, for good: no later event takes that back."""
        self._kind = _KINDS[found] if found else None
        self._heard: set[tuple[str, int, str]] = set()
        self._worse: set[int] = set()
        for event in events:
            self.hear(event)

    def hear(self, event: dict[str, Any]) -> None:
        """Take in an event of the run."""
        kind, metrics = event["event"], event.get("metrics")
        if kind == "ended":
            self.cause = self.cause or event.get("cause", "figures")
        if kind not in ("holdout", "evaluation") or not metrics:
            return
        test = (kind, int(event["round"]), str(event["model"]))
        if test in self._heard:
            return
        self._heard.add(test)
        if kind == self._kind:
            self._weigh(test[1], test[2], metrics.get(self.metric))

    def heard(self, kind: str, round_: int, model: str) -> bool:
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
