"""Where a round's slots stand: on the disk before each trip, so that another process asks the same.

Members answer an identical request with identical bytes. So a coordinator that died in the middle of a
slot continues with it: nobody trains again, and nothing is charged.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..errors import RunFolderError
from ..privacy.secagg.aggregator import Aggregator
from ..run.run_folder import RunFolder

_FILE = "slots.json"


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
            values: dict[str, Any] = folder.read_json(_FILE)
            slots, following = (
                [OpenSlot(**slot) for slot in values.pop(name)] for name in ("slots", "following")
            )
            return cls(**values, slots=slots, following=following)
        except (RunFolderError, TypeError, KeyError):
            return None


def as_it_stands(group: Aggregator) -> OpenSlot:
    """A slot after whichever trip was closed last."""
    confirmed = group.revealers if group.confirms else []
    return OpenSlot(
        group.slot.number, list(group.slot.cohort), group.members, group.survivors, confirmed
    )
