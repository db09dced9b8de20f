"""Sums of an asynchronous job that were opened and refused: who was in them, over the whole run.

One flipped word spoils a sum, and masks hide whose word it was (``secagg``). Each such sum costs its
members a training, as what was opened is masked in no other sum. So a run warns of each, keeps the members of
one apart in later sums while there are others, and stops once somebody was in more of them than
``cohort.retries``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..planning.facts import some
from ..run.events import SumRefused
from .run import Run


class RefusedSums:
    """Those that the run's events tell of, also of earlier processes."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.groups = [frozenset(event.members) for event in run.folder.told(SumRefused)]
        """The members of each, oldest first."""
        self.stops = ""
        """Why the run cannot go on so; empty while it can."""

    def tell(self, members: Sequence[str], reason: str) -> None:
        """Warn of one more: of its members, and of who was in the others, too."""
        self.groups.append(frozenset(members))
        counts = Counter(name for group in self.groups for name in group)
        most = max(counts[name] for name in members)
        often = [name for name in sorted(members) if counts[name] == most]
        many = f"{some(often)} {'was' if len(often) == 1 else 'were'} in {most} such sums"
        text = (
            f"The sum of {some(sorted(members))} was opened and cannot be used ({reason.rstrip('.')}). One "
            f"of them spoiled it, and the server cannot tell which{f'; {many}' if most > 1 else ''}: ask the "
            "owners to look at the agents' logs, and take out who stays broken (umbel consortium remove)."
        )
        self._run.tell(SumRefused(self._run.round + 1, sorted(members), text))
        if most > self._run.plan.job.cohort.retries:
            self.stops = f"{len(self.groups)} sums were opened and cannot be used; {many}"
