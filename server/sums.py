"""The slots of secure aggregation of a run, one after another."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..privacy.secagg.aggregator import Aggregator
from ..privacy.secagg.messages import Slot
from ..privacy.secagg.roster import Roster


@dataclass
class SecureSums:
    """The slots of a run: their numbers, and what is ready for the next one."""

    roster: Roster
    used: int = 0
    """The highest slot that any member ever entered."""
    upcoming: dict[tuple[str, ...], Aggregator] = field(default_factory=dict)
    """Slots whose prekeys came with the last reveal, by their members."""
    excluded: set[str] = field(default_factory=set)
    """Members whose secret could not be had back: they would spoil the next slot too."""

    def learn(self, entered: list[int]) -> None:
        """Go on after the slots that members say they entered, as after a restart.

        As many as may collude could name a number that leaves no room, so theirs are left out; should
        an honest one be ahead, its next slots are given up until the numbers have passed it.
        """
        liars = math.ceil(self.roster.limits.colluders * len(self.roster.members))
        believed = sorted(entered)[: max(1, len(entered) - liars)]
        self.used = max([self.used, *believed])

    def open_slot(self, run: str, members: Iterable[str], minimum: int = 0) -> Aggregator:
        """A new slot. Raises ``TooFewMembers`` for a cohort that no sum can be opened of."""
        self.used += 1
        slot = Slot(run, self.used, self.roster.hash, tuple(sorted(members)))
        return Aggregator(self.roster, slot, minimum=minimum)
