"""Which of the tested models is kept, and whether training ends early.

Both follow from the run's own events, in their order, so a run that was killed decides as if it had
never stopped. The best model so far lies beside the checkpoints, which are only the last three.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from ..evaluation import deciding_metric, grounds
from ..job import Job
from ..learning.model import arrays_digest
from ..messages import Arrays
from .files import write_whole

if TYPE_CHECKING:
    from .run import Run

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
        self.metric, self._more = deciding_metric(job)
        self.best: Candidate | None = None
        self.ended = False
        """Training was ended early, for good: no later test takes that back."""
        self._kind = _KINDS[found] if found else None
        self._heard: set[tuple[str, int, str]] = set()
        self._worse: set[int] = set()
        for event in events:
            self.hear(event)

    def hear(self, event: dict[str, Any]) -> None:
        """Take in an event of the run."""
        kind, metrics = event["event"], event.get("metrics")
        self.ended = self.ended or kind == "ended"
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
    def stale(self) -> int:
        """Tests since the best one, none of which was better."""
        return len(self._worse)

    def _weigh(self, round_: int, model: str, value: float | None) -> None:
        # A figure that is missing or no number is that of a model gone wrong: it is never the best.
        if value is not None and math.isfinite(value) and self._beats(value):
            self.best = Candidate(round_, model, float(value))
            self._worse = set()
        else:
            self._worse.add(round_)

    def _beats(self, value: float) -> bool:
        if self.best is None:
            return True
        return value > self.best.value if self._more else value < self.best.value


def ends_early(run: Run) -> bool:
    """Whether the job's patience is at its end; said once, and from then on so."""
    patience, choice = run.plan.job.evaluation.patience, run.choice
    if patience is None or choice.ended:
        return choice.ended
    if choice.stale < patience:
        return False
    best = f"round {choice.best.round}" if choice.best else "the beginning"
    tests = "1 test" if choice.stale == 1 else f"{choice.stale} tests"
    reason = f"no better {choice.metric} in {tests} since {best} ({choice.on})"
    run.tell({"event": "ended", "round": run.round, "reason": reason})
    return True


def keep_candidate(run: Run) -> None:
    """Put the current model aside where it is the best so far; what was best before goes."""
    best = run.choice.best
    if run.plan.job.evaluation.keep == "last" or best is None or best.round != run.round:
        return
    path = _place(run.checkpoints, best.round, best.model)
    if path.exists() or arrays_digest(run.arrays) != best.model:
        return
    from safetensors.numpy import save

    path.parent.parent.mkdir(exist_ok=True)
    write_whole(path, save(run.arrays))
    for other in path.parent.glob("*.safetensors"):
        if other != path:
            other.unlink(missing_ok=True)


def settle(run: Run) -> None:
    """Take the model that the job keeps for the result, and say which it is.

    Raises ``CheckpointError`` where the best one is no longer on disk.
    """
    job, choice = run.plan.job, run.choice
    early = run.round < job.training.rounds
    if not job.evaluation.decides:
        run.kept = Kept(run.round, early)
        return
    best = choice.best
    if job.evaluation.keep == "best" and best is not None:
        if arrays_digest(run.arrays) != best.model:
            kept = kept_model(run.checkpoints, best.round, best.model, run.arrays)
            if kept is None:
                path = _place(run.checkpoints, best.round, best.model)
                raise CheckpointError(
                    f"{path}, the best model of this run (round {best.round}), is missing or damaged. "
                    "Restore it from a backup, or start a new run."
                )
            run.arrays = kept
        run.kept = Kept(best.round, early, choice.on, choice.metric, best.value)
    else:
        run.kept = Kept(run.round, early, choice.on)
    run.tell({"event": "kept", **vars(run.kept)})


def kept_model(checkpoints: Path, round_: int, digest: str, like: Arrays) -> Arrays | None:
    """The model that was put aside after a round; None where it is missing or damaged."""
    from safetensors.numpy import load

    try:
        found = load(_place(checkpoints, round_, digest).read_bytes())
        arrays = {name: found[name] for name in like}
    except Exception:  # safetensors raises its own kinds for a damaged file
        return None
    return arrays if arrays_digest(arrays) == digest else None


def _place(checkpoints: Path, round_: int, digest: str) -> Path:
    return checkpoints / "best" / f"round-{round_:05d}-{digest[:16]}.safetensors"
