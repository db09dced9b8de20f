"""A run whose folder came back from a backup: which rounds were done meanwhile, its owners know.

Their ledgers were charged for these rounds. Asked for them once more, they would be charged again; so the
run continues with the round after the last one that they know, from the model that the backup holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..privacy.secagg.roster import Roster
from ..run.events import Event, Restored

if TYPE_CHECKING:
    from .run import Run


def learn_rounds(run: Run, stated: Sequence[int]) -> None:
    """Go on after the last round that clients were charged for in this run, as they say.

    A coordinator that only died is at most in the middle of the next round, which is gone on with.
    """
    if run.replayable or not run.plan.job.private or not stated:
        return
    roster = run.sums.roster if run.sums is not None else None
    reached = min(agreed(stated, roster), run.plan.job.training.rounds)
    if reached > run.round + 1:
        run.tell(Restored(run.round, reached))
        run.round = reached


def agreed(stated: Sequence[int], roster: Roster | None) -> int:
    """The highest of the numbers that clients say they came to which an honest one has said, or was past.

    Any client could name a number that leaves no room for more. So as many of the highest are left out as
    may collude under the roster, and one at least.
    """
    liars = math.ceil(roster.limits.colluders * len(roster.members)) if roster else 0
    believed = sorted(stated)[: max(1, len(stated) - max(1, liars))]
    return believed[-1] if believed else 0


def lost_rounds(events: Sequence[Event]) -> int:
    """How many rounds are in no model of a run, because its folder was set back."""
    return sum(e.reached - e.round for e in events if isinstance(e, Restored))
