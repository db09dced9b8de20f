"""Rounds that were trained again beyond the planned ones: found by what owners say they have spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..planning.plan import ClientPlan
from ..privacy.accounting.accountant import epsilon
from ..run.events import Round, Spare
from ..strategies import buffered
from .run import Run

_SLACK = 1e-9
_MOST = 50
"""Larger numbers are not distinguished."""


def used(run: Run, name: str, told: float, events: Sequence[Round]) -> int:
    """Spare rounds that a client has used, if `told` is the epsilon that the run has cost it so far.

    Every round and test that it was asked for so far counts as planned; whatever is spent beyond those
    was drawn again.
    """
    client = run.plan.by_name[name]
    if not client.rounds:
        return 0  # by the virtual clock it is in no sum, so what one costs it is not planned
    asked = [e for e in events if name in e.clients or name in e.failed]
    rounds = len({event.round for event in asked})
    if buffered(run.plan.job.strategy):
        rounds = _updates(name, events)
    tests = sum(event.tested for event in asked)
    for spares in range(_MOST):
        if told <= _spent(client, run, rounds + spares, tests) * (1 + _SLACK):
            return spares
    return _MOST


def warn_of_spares(run: Run, event: Round) -> None:
    """Say it when a client has used a spare round for the first time, or one more."""
    if not run.plan.job.private or not event.epsilon:
        return
    events = run.folder.told(Round)
    if sum(each.round == event.round for each in events) < 2:
        return
    most = max(used(run, name, told, events) for name, told in event.epsilon.items())
    told = [each.spares for each in run.folder.told(Spare)]
    if most <= max(told, default=0):
        return
    paid = run.plan.job.spare_rounds
    text = f"Round {event.round} was trained again: {_rounds(most)} so far, and the noise covers {paid}. "
    if most < paid:
        text += f"{_rounds(paid - most)} may still be lost."
    elif most == paid:
        text += (
            "If one more is lost, the budgets do not reach the last round, and the run ends early."
        )
    else:
        text += f"The budgets do not reach the last {_rounds(most - paid)}: the run ends early."
    run.tell(Spare(event.round, most, text))


def _updates(name: str, events: Sequence[Round]) -> int:
    """How many updates a client of an asynchronous job had to train so far: one for each version made of a
    sum that it was in, and one that waits, unless it was in the newest version.

    A sum may come to nothing long after others made versions; its updates then wait for another one.
    """
    made = {event.round for event in events if event.aggregated and name in event.staleness}
    return len(made) + (events[-1].round not in made)


def _spent(client: ClientPlan, run: Run, rounds: int, tests: int) -> float:
    """What so many rounds and tests cost a client, with its published size."""
    job, planned = run.plan.job, client.events
    per_round = planned["training"].steps // client.rounds
    events = [replace(planned["training"], steps=per_round * rounds)]
    if "losses" in planned:
        events.append(replace(planned["losses"], steps=rounds))
    if "tests" in planned:
        events.append(replace(planned["tests"], steps=tests))
    if "size" in planned:
        events.append(planned["size"])
    return epsilon(events, job.privacy.delta)


def _rounds(count: int) -> str:
    return f"{count} round{'s' if count > 1 else ''}"
