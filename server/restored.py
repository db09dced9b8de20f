"""A run whose folder came back from a backup: which rounds were done meanwhile, its owners know.

Their ledgers were charged for these rounds. Asked for them once more, they would be charged again; so the
run goes on with the round after the last one that they know, from the model that the backup holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .run import Run


def learn_rounds(run: Run, stated: Sequence[int]) -> None:
    """Go on after the last round that clients were charged for in this run, as they say.

    A coordinator that only died is at most in the middle of the next round, which is gone on with. As many
    as may collude could name any number, so theirs are left out: one honest client at least is believed.
    """
    if run.replayable or not run.plan.job.private or not stated:
        return
    liars = 0
    if run.sums is not None:
        roster = run.sums.roster
        liars = math.ceil(roster.limits.colluders * len(roster.members))
    believed = sorted(stated)[: max(1, len(stated) - liars)]
    reached = min(believed[-1], run.plan.job.training.rounds)
    if reached > run.round + 1:
        run.tell({"event": "restored", "round": run.round, "reached": reached})
        run.round = reached


def lost_rounds(events: Sequence[Mapping[str, Any]]) -> int:
    """How many rounds are in no model of a run, because its folder was set back."""
    return sum(e["reached"] - e["round"] for e in events if e["event"] == "restored")
