"""The end of a run that does not come to its last planned round: its last summed model is the result.

What was summed was paid for by the owners' privacy, so it is never thrown away because a later round
fails. Under every rule the model after the last finished round is whole: a round counts once its sum is
folded into the next model and that is on the disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import CannotGoOn, OutOfRange, RoundFailed
from ..run.events import Ended, Event
from .restored import lost_rounds
from .run import Run


def ends_with(run: Run, error: RoundFailed) -> bool:
    """Whether a run that failed so is finished with its last summed model, by ``cohort.when_stuck``."""
    wanted = run.plan.job.cohort.when_stuck
    if run.round and isinstance(error, OutOfRange):
        return True  # no resumption could continue with these weights
    if run.round == 0 or wanted == "stop":
        return False
    return wanted == "finish" or isinstance(error, CannotGoOn) or run.should_finish()


def end_early(run: Run, cause: str, reason: str) -> None:
    """Say that no round follows. From then on so: another process finishes the run likewise."""
    if not run.choice.ended:
        run.tell(Ended(run.round, cause, reason))


def end_by(run: Run, error: RoundFailed, cause: str = "owners") -> None:
    """The same, because of an error. Owners would not test weights that they refuse to train, either."""
    if isinstance(error, OutOfRange):
        reason = (
            "with its weights, rounding would let a record change the contribution of others, so "
            "owners stop here"
        )
        end_early(run, "weights", reason)
    else:
        end_early(run, cause, error.why.rstrip("."))


def failure(run: Run, why: str, kind: type[RoundFailed] = RoundFailed) -> RoundFailed:
    """An error that says what is kept, and what can be done about it."""
    return kind(why, f"Round {run.round} is saved; {run.advice(run.round)}.")


def ended(events: Sequence[Event], done: int, planned: int) -> dict[str, Any] | None:
    """How a run ended that has fewer rounds than planned: its last round, the cause, and why."""
    event = next((event for event in events if isinstance(event, Ended)), None)
    if done >= planned:
        return None
    if event is None:
        lost = lost_rounds(events)
        reason = f"its folder was restored from a backup, so {lost} rounds are not in any model"
        return {"round": done, "cause": "restored", "reason": reason} if lost else None
    return {"round": event.round, "cause": event.cause or "figures", "reason": event.reason}


def ended_line(said: Mapping[str, Any]) -> str:
    """The same for people."""
    return f"Finished early, after round {said['round']}: {said['reason'].rstrip('.')}."
