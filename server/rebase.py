"""What a run says of the base, with a strategy that moves it: an event per round, and one figure of all.

The event is written before the checkpoint with the residual itself, so each checkpoint has its event.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..run.events import Event, Rebase
from ..strategies.factors import squared_norm
from ..strategies.residual import pairs_of_residual, residual_digest
from .run import Run


def tell_rebase(run: Run) -> None:
    """Of the model after the last round; nothing with a strategy that leaves the base alone."""
    pairs = list(pairs_of_residual(run.arrays))
    if not pairs:
        return
    squares = math.fsum(
        squared_norm(b.astype(np.float64), a.astype(np.float64)) for _, b, a in pairs
    )
    dropped = float(getattr(getattr(run.strategy, "inner", None), "dropped", 0.0))
    ranks = (int(np.any(b != 0, axis=0).sum()) for _, b, _ in pairs)
    norm = math.sqrt(max(0.0, squares))
    run.tell(Rebase(run.round, residual_digest(pairs), max(ranks), norm, dropped))


def rebased(events: Sequence[Event], kept: int) -> dict[str, Any] | None:
    """How the base of the kept model differs from the job's; None if it does not."""
    each = {e.round: e for e in events if isinstance(e, Rebase) and e.round <= kept}
    if kept not in each:
        return None
    last = each[kept]
    lost = math.fsum(event.dropped for event in each.values())
    share = lost / last.norm if last.norm else 0.0
    return {
        "round": kept,
        "sha256": last.sha256,
        "rank": last.rank,
        "norm": last.norm,
        "dropped": share,
    }
