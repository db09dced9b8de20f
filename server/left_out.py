"""Groups that cannot be summed round after round: said once, as no single round shows that it is the same."""

from __future__ import annotations

from ..planning.facts import some
from ..run.events import GroupLeftOut, Round
from .run import Run

_OFTEN = 3
"""Rounds, one after another, of which a group may be missing before it is said."""


def warn_of_groups(run: Run, event: Round) -> None:
    """Say it when the same group has been left out of the last rounds that made a model.

    A member that spoils its group's sum cannot be told from the others, and the groups stay as they are dealt
    while the cohort does. So it can keep the whole group out of the model, until somebody looks into it.
    """
    if not event.left_out or not event.aggregated:
        return
    rounds = {each.round: each for each in run.folder.told(Round) if each.aggregated}
    last = [rounds[number] for number in sorted(rounds)[-_OFTEN:]]
    known = [each.members for each in run.folder.told(GroupLeftOut)]
    for group in event.left_out:
        again = len(last) == _OFTEN and all(group in each.left_out for each in last)
        if again and group not in known:
            reason = event.failed.get(group[0], "it cannot be summed").rstrip(".")
            text = (
                f"The group of {some(group)} has been left out of the last {_OFTEN} rounds ({reason}). If "
                "its members are connected, one of them spoils its sums, and the server cannot tell which: "
                "ask their owners to look at the agents' logs, and take out who stays broken (umbel "
                "consortium remove)."
            )
            run.tell(GroupLeftOut(event.round, list(group), text))
