"""The second sum of a round, with a strategy that has two: over exactly the clients of the first.

It is asked for when the first sum is known, and answered from the updates that are in that. If one of
these clients is missing now, nothing of the round counts, and it begins again: the difference of two sums
over different clients would show one client's own. A coordinator that dies has kept the first sum
(``first_sum``), and the next one asks for the second again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message

from ..wire.arrays import to_array_record
from .attempts import Attempt
from .collect import Collection, TooFew
from .exchange import CohortGrid, Stage
from .first_sum import keep_first, let_go_of_first
from .run import Run

Collecting = Callable[[Stage, int, Iterable[Message], Attempt], Collection]
"""How the replies of the second sum are collected: its stage, fewest clients, requests and attempt."""


def aggregated(
    run: Run, stage: Stage, first: Collection, attempt: Attempt, collecting: Collecting
) -> ArrayRecord | None:
    """What follows from a round's replies, and from a second sum if the strategy has one.

    Raises ``TooFew`` if either brought too little. What the second sum cost is added to `first`.
    """
    strategy, round_ = run.strategy, stage.round
    if not getattr(strategy, "two_sums", False):
        record, _ = strategy.aggregate_train(round_, first)
        return record
    replies: Iterable[Message] = first
    if run.sums is not None and attempt.first is None:
        replies = keep_first(first)
    strategy.aggregate_train(round_, replies)
    cohort = first.answered
    groups = [[n for n in group if n in cohort] for group in first.groups]
    groups = [group for group in groups if group]  # one that was left out has nobody
    view = CohortGrid(run.grid, [run.nodes[name] for name in cohort])
    requests = strategy.configure_second(round_, to_array_record(run.arrays), ConfigRecord(), view)  # type: ignore[attr-defined]
    again = Attempt(attempt.number, attempt.again if attempt.first else None, groups)
    second = collecting(Stage(round_, stage.attempt), len(cohort), requests, again)
    try:
        found: ArrayRecord = strategy.aggregate_second(round_, second)  # type: ignore[attr-defined]
        if sorted(second.answered) != sorted(cohort):
            raise TooFew
    except TooFew:
        let_go_of_first(run)
        raise
    finally:
        _add(first, second)
    return found


def _add(first: Collection, second: Collection) -> None:
    """What the second sum cost, and who failed in it, beside the first."""
    first.failed |= second.failed
    first.heard |= second.heard
    first.refused += second.refused
    first.out_of_range += second.out_of_range
    first.bytes_up += second.bytes_up
    first.bytes_down += second.bytes_down
    first.clipped = max(first.clipped, second.clipped)
    first.doubted |= second.doubted
    first.lacks = first.lacks or second.lacks
    for trip, seconds in second.seconds.items():
        first.seconds[trip] = round(first.seconds.get(trip, 0.0) + seconds, 3)
