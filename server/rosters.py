"""The rosters that a run goes by, one after another.

A run keeps to one roster until a member that takes part in it is removed, one joins, or it is about to end.
Then, between two rounds, it turns to the newest: who is asked, who may be summed, thresholds and shares of
noise are computed again from it by all sides. A round in progress is finished under the roster that it was
begun with; if that fails it is trained again under the next one.

Guarantee: no update is summed both with and without a member. Slots name their roster, a slot is reopened
under its own roster alone, and no owner masks an update under two (``privacy.secagg.repeats``, rule 2).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from ..consortium.authority import Consortium
from ..errors import RunFolderError
from ..job import Job
from ..planning.cohorts import participations_of
from ..privacy.secagg.roster import Roster, SignedRoster, open_kept
from ..run.run_folder import RunFolder

_FILE = "rosters.json"
_SOON = 24 * 3600
"""Seconds before its end at which a roster is left for a newer one with the same clients."""


class RosterChanged(Exception):
    """The run goes on under another roster, which another process leads it by."""


@dataclass(frozen=True)
class Period:
    """Rounds under one roster."""

    epoch: int
    first: int
    """The round that it begins with."""
    clients: list[str]
    """Members that may be asked in it, ascending."""
    asked: list[str] = field(default_factory=list)
    """New members to ask whether they join."""
    joining: bool = False
    """Whether they have not been asked yet."""


class Rosters:
    """The periods of a run, as its folder says. Every change is on the disk before it counts."""

    def __init__(self, folder: RunFolder, consortium: Consortium) -> None:
        self._folder, self._consortium = folder, consortium
        self.periods = _read(folder)
        """Empty before the run's members are known."""
        self.epoch = self.periods[-1].epoch if self.periods else consortium.epoch

    @property
    def signed(self) -> bytes:
        """The ``SignedRoster`` that the run goes by now, as it was signed last."""
        return self._consortium.roster_of(self.epoch) if self.epoch else b""

    @cached_property
    def roster(self) -> Roster:
        return self._open(self.epoch)

    @property
    def last(self) -> Period:
        return self.periods[-1]

    @property
    def everybody(self) -> list[str]:
        """Who was ever asked, ascending."""
        return sorted({name for period in self.periods for name in period.clients})

    def begin(self, clients: Sequence[str]) -> None:
        """The first period, with those that take part."""
        self._write([Period(self.epoch, 1, sorted(clients))])

    def pending(self, joins: bool) -> Period | None:
        """What the newest roster means for the run: who remains, and who is to be asked; None if nothing.

        One that changes nobody is turned to when the run's own is about to end: only the newest is prolonged.
        """
        if not self.periods or self._consortium.epoch <= self.epoch:
            return None
        newest, last = self._open(self._consortium.epoch), self.last
        known = self.roster.by_name
        stay = [n for n in last.clients if newest.by_name.get(n) == known.get(n)]
        asked = sorted(newest.by_name.keys() - set(stay)) if joins else []
        if len(stay) == len(last.clients) and not asked and not self._ends_soon():
            return None
        return Period(newest.epoch, 0, stay, asked, bool(asked))

    def turn(self, period: Period, first: int) -> None:
        """Go by another roster from the round `first` on."""
        self._write([*self.periods, replace(period, first=first)])

    def joined(self, names: Sequence[str]) -> None:
        """Who of those that were asked takes part from now on."""
        clients = sorted({*self.last.clients, *names})
        self._write([*self.periods[:-1], replace(self.last, clients=clients, joining=False)])

    @property
    def virtual(self) -> bool:
        """Whether clients go by a virtual clock: a rehearsal comes to what a simulation comes to."""
        return bool(self._folder.read_json("run.json")["reproducible"])

    def participations(self, job: Job) -> dict[str, int]:
        """Rounds that each client is planned in: who joins later, in all that are left then."""
        found = participations_of(job, self.periods[0].clients, virtual=self.virtual)
        for period in self.periods:
            for name in (*period.clients, *period.asked):
                found.setdefault(name, max(1, job.training.rounds - period.first + 1))
        return found

    def members_of(self, period: Period) -> int:
        return len(self._open(period.epoch).members)

    def of(self, period: Period) -> Roster:
        return self._open(period.epoch)

    def _ends_soon(self) -> bool:
        ends = SignedRoster.from_bytes(self.signed).roster.said.expires
        return ends - time.time() < _SOON

    def _open(self, epoch: int) -> Roster:
        return open_kept(self._consortium.roster_of(epoch), self._consortium.card.consortium_keys)

    def _write(self, periods: list[Period]) -> None:
        self._folder.write_json(_FILE, [asdict(period) for period in periods])
        self.periods = periods


def awaits_turn(folder: RunFolder, consortium: Consortium) -> bool:
    """Whether a member that was removed may be needed for the round that a run is in."""
    rosters = Rosters(folder, consortium)
    turn = rosters.pending(joins=False)
    return turn is not None and len(turn.clients) < len(rosters.last.clients)


def _read(folder: RunFolder) -> list[Period]:
    if not (folder.path / _FILE).exists():
        return []
    values: Any = folder.read_json(_FILE)
    try:
        return [Period(**period) for period in values]
    except TypeError as error:
        raise RunFolderError(f"{folder.path / _FILE} is damaged: {error}") from None
