"""Where a round's slots stand: on the disk before each trip, so that another process asks the same.

Members answer an identical request with identical bytes. So a coordinator that died in the middle of a
slot continues with it: nobody trains again, and nothing is charged. An asynchronous job may have several sums
in progress (``OpenSums``).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..errors import RunFolderError
from ..privacy.secagg.aggregator import Aggregator
from ..run.run_folder import RunFolder

_FILE = "slots.json"
_SUMS = "sums.json"


@dataclass(frozen=True)
class OpenSlot:
    """One slot; each list is empty until its trip is over."""

    number: int
    cohort: list[str]
    members: list[str] = field(default_factory=list)
    """U1, whose prekeys are in the manifest."""
    survivors: list[str] = field(default_factory=list)
    """U2, whose uploads are in the request to confirm."""
    confirmed: list[str] = field(default_factory=list)
    """The members whose confirmations are in the requests to reveal."""

    def after(self, before: OpenSlot) -> OpenSlot:
        """The same slot, with what an earlier process knew of trips that are still to come."""
        return replace(
            self,
            survivors=self.survivors or before.survivors,
            confirmed=self.confirmed or before.confirmed,
        )


@dataclass(frozen=True)
class OpenRound:
    """The slots of one attempt at a round, or at a test."""

    kind: str
    round: int
    attempt: int
    test: bool
    slots: list[OpenSlot]
    roster: str = ""
    """Hash of the roster under which they are opened, in hexadecimal."""
    following: list[OpenSlot] = field(default_factory=list)
    """Slots whose prekeys were asked for with the reveals."""
    left_out: list[list[str]] = field(default_factory=list)
    """Groups of the same cohort that cannot be summed."""

    @property
    def groups(self) -> list[list[str]]:
        """Everybody who was asked, as they were dealt into groups."""
        return [*(slot.cohort for slot in self.slots), *self.left_out]

    @property
    def asked(self) -> list[str]:
        """Everybody who was asked, ascending."""
        return sorted(name for group in self.groups for name in group)

    def write(self, folder: RunFolder) -> None:
        """Durably, before the trip that it allows."""
        folder.write_json(_FILE, asdict(self))

    @classmethod
    def read(cls, folder: RunFolder) -> OpenRound | None:
        """What was written last; None if there is nothing that can be gone on with."""
        try:
            return cls.of(folder.read_json(_FILE))
        except (RunFolderError, TypeError, KeyError):
            return None

    @classmethod
    def of(cls, values: dict[str, Any]) -> OpenRound:
        """From JSON values; ``TypeError`` or ``KeyError`` if they are others."""
        slots, following = (
            [OpenSlot(**slot) for slot in values.pop(name)] for name in ("slots", "following")
        )
        return cls(**values, slots=slots, following=following)


@dataclass(frozen=True)
class OpenSum:
    """One of several sums in progress: its slot, and which version each of its members trained.

    A member trains another version once its update was summed. So what is left of a sum that a checkpoint
    already has is told from one that can be gone on with.
    """

    versions: dict[str, int]
    open: OpenRound


class OpenSums:
    """The sums in progress of an asynchronous job, in the order in which they began."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._now: dict[object, OpenSum] = {}

    def left(self) -> list[OpenSum]:
        """Those that an earlier process left; none if what it wrote is not whole."""
        try:
            values = self._folder.read_json(_SUMS)
            return [OpenSum(one["versions"], OpenRound.of(one["open"])) for one in values]
        except (RunFolderError, TypeError, KeyError, AttributeError):
            return []

    def take_up(self, of: object, now: OpenSum) -> None:
        """A sum that an earlier process left is that of `of` from now on. What is on the disk says so
        already, and so does whatever is written next."""
        self._now[of] = now

    def hold(self, of: object, now: OpenSum) -> None:
        """Write down, durably, where the sum `of` stands, before the trip that it allows."""
        self._now[of] = now
        self._write()

    def give_up(self, of: object) -> None:
        """Nothing came of the sum `of`, and its members may leave the slot: no process goes on with it."""
        if self._now.pop(of, None) is not None:
            self._write()

    def made(self, of: object) -> None:
        """A version was made of it. It stays on the disk until something else is written: a process that
        dies before the version is saved makes it again."""
        self._now.pop(of, None)

    def _write(self) -> None:
        self._folder.write_json(_SUMS, [asdict(one) for one in self._now.values()])


def as_it_stands(group: Aggregator) -> OpenSlot:
    """A slot after whichever trip was closed last."""
    confirmed = group.revealers if group.confirms else []
    return OpenSlot(
        group.slot.number, list(group.slot.cohort), group.members, group.survivors, confirmed
    )
