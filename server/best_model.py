"""Keeping the best model of a run, and ending training early, as ``selection`` says.

The best model so far lies beside the checkpoints, which are only the last three.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError
from ..learning.model import arrays_digest
from ..run.events import Kept
from ..run.files import write_whole
from ..wire.arrays import Arrays
from .ending import end_early
from .run import Run


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
    end_early(run, "figures", reason)
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

    Raises ``CheckpointError`` if the best one is no longer on disk.
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
        # A metric without a value: the best was asked for, and no test told which it is.
        metric = choice.metric if job.evaluation.keep == "best" else None
        run.kept = Kept(run.round, early, choice.on, metric)
    run.tell(run.kept)


def kept_model(checkpoints: Path, round_: int, digest: str, like: Arrays) -> Arrays | None:
    """The model that was put aside after a round; None if it is missing or damaged."""
    from safetensors.numpy import load

    try:
        found = load(_place(checkpoints, round_, digest).read_bytes())
        arrays = {name: found[name] for name in like}
    except Exception:  # safetensors raises its own kinds for a damaged file
        return None
    return arrays if arrays_digest(arrays) == digest else None


def _place(checkpoints: Path, round_: int, digest: str) -> Path:
    return checkpoints / "best" / f"round-{round_:05d}-{digest[:16]}.safetensors"
