"""The slots of secure aggregation of a run, one after another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..privacy.secagg.aggregator import Aggregator
from ..privacy.secagg.messages import Naming, Slot
from ..privacy.secagg.parameters import fewest, thresholds
from ..privacy.secagg.roster import Roster
from ..run.run_folder import RunFolder
from .restored import agreed
from .slots import OpenRound

_SPOILERS = "spoilers.json"


@dataclass
class SecureSums:
    """The slots of a run: their numbers, and what is ready for the next one."""

    roster: Roster
    used: int = 0
    """The highest slot that any member ever entered."""
    entered: dict[str, int] = field(default_factory=dict)
    """The slot that each member last reported."""
    upcoming: dict[tuple[str, ...], Aggregator] = field(default_factory=dict)
    """Slots whose prekeys came with the last reveal, by their members."""
    stopped: OpenRound | None = None
    """Where an earlier process stopped, until the round continues."""
    suspects: set[str] = field(default_factory=set)
    """Members of every group that was named for a spoiled sum."""
    excluded: set[str] = field(default_factory=set)
    """Members whose secret could not be reconstructed: they would spoil the next slot too."""
    folder: RunFolder | None = None
    """Where it is written who is left out."""

    def learn(self, entered: Mapping[str, int]) -> None:
        """Go on after the slots that members say they entered, as after a restart.

        One that comes back alone is held against what the others said before (``restored.agreed``). Should
        an honest one be ahead, its next slots are given up until the numbers have passed it.
        """
        self.entered.update(entered)
        self.used = max(self.used, agreed(list(self.entered.values()), self.roster))

    def resume(self, folder: RunFolder) -> None:
        """Learn where an earlier process stopped in the middle of a slot, and whom it left out."""
        self.folder = folder
        if (folder.path / _SPOILERS).exists():
            found = folder.read_json(_SPOILERS)
            self.suspects, self.excluded = set(found["suspects"]), set(found["excluded"])
        self.stopped = OpenRound.read(folder)
        if self.stopped:
            slots = [*self.stopped.slots, *self.stopped.following]
            self.used = max([self.used, *(slot.number for slot in slots)])

    def stopped_in(self, kind: str, round_: int) -> OpenRound | None:
        """The slots that an earlier process left, if it was in this round or test. Told once."""
        stopped, self.stopped = self.stopped, None
        here = stopped is not None and (stopped.kind, stopped.round) == (kind, round_)
        return stopped if here else None

    def is_open(self, kind: str, round_: int) -> bool:
        """Whether an earlier process left slots of this round or test under this roster."""
        left = self.stopped
        here = left is not None and (left.kind, left.round) == (kind, round_)
        return here and left is not None and left.roster == self.roster.hash.hex()

    def reopen(self, run: str, number: int, members: Iterable[str], minimum: int = 0) -> Aggregator:
        """The slot of this number again, as another process opened it."""
        slot = Slot(run, number, self.roster.hash, tuple(sorted(members)))
        return Aggregator(self.roster, slot, minimum=minimum)

    def can_open(self, members: Sequence[str]) -> bool:
        """Whether a sum of these, and no more, may be opened."""
        limits, consortium = self.roster.limits, len(self.roster.members)
        numbers = thresholds(len(members), limits.colluders, limits.confirm, consortium)
        return fewest(numbers, limits) <= len(members)

    def suspect(self, group: Iterable[str]) -> None:
        """Who is in every group that was named; a single one is left out from now on."""
        named = set(group)
        self.suspects = self.suspects & named or named
        self.exclude(self.suspects if len(self.suspects) == 1 else ())

    def exclude(self, names: Iterable[str]) -> None:
        """Leave these out for the rest of the run, also under another process or roster."""
        self.excluded |= set(names)
        if self.folder is not None and (self.excluded or self.suspects):
            found = {"suspects": sorted(self.suspects), "excluded": sorted(self.excluded)}
            self.folder.write_json(_SPOILERS, found)

    def open_slot(
        self, run: str, members: Iterable[str], minimum: int = 0, naming: Naming | None = None
    ) -> Aggregator:
        """A new slot. Raises ``TooFewMembers`` for a cohort that no sum can be opened of."""
        self.used += 1
        slot = Slot(run, self.used, self.roster.hash, tuple(sorted(members)))
        return Aggregator(self.roster, slot, minimum=minimum, naming=naming)
