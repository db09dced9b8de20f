"""Who is asked in each attempt at a round or a test, and in which slots.

First the same slots, if an earlier process left some: members give the same answers; and if it had
opened the first of two sums, the second one alone (``first_sum``). Then a new slot of the same groups, in
which owners send what they trained before if the rules let them (``privacy.secagg.repeats``). Only then the
lot falls on others, who train again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from ..privacy.secagg.messages import Slot
from ..privacy.secagg.parameters import smallest_sum
from ..wire.requests import SECOND, TRAIN
from .exchange import connected
from .first_sum import FirstSum, kept_first
from .run import Run
from .slots import OpenRound

_SAME = 2
"""Attempts at a round with the same clients, before others are drawn."""


@dataclass(frozen=True)
class Attempt:
    """One attempt. `groups` are those to ask again; none if the cohort is drawn."""

    number: int
    again: OpenRound | None
    groups: list[list[str]]
    refused: Slot | None = None
    """The slot whose sum was opened and refused, if a group must be named for it."""
    first: FirstSum | None = None
    """The first of two sums, if an earlier process opened it; `again` are then slots of the second."""

    @property
    def naming(self) -> str:
        """The groups as an assignment says them; nothing if none is named."""
        return json.dumps(self.groups) if self.refused else ""

    @property
    def cohort(self) -> list[str]:
        return sorted(name for group in self.groups for name in group)


class Attempts:
    """The attempts at one round. Tell it the groups of each, before the next is asked for."""

    def __init__(
        self, run: Run, kind: str, round_: int, most: int, left: OpenRound | None = None
    ) -> None:
        """left: where an earlier process left it, if not as ``SecureSums.stopped`` has it."""
        self._run, self._most = run, most
        self._opened = kept_first(run, round_) if kind == TRAIN else None
        stopped = left
        if run.sums and left is None:
            stopped = run.sums.stopped_in(SECOND if self._opened else kind, round_)
        self._again = stopped
        self.groups: list[list[str]] = stopped.groups if stopped else []
        self.first = stopped.attempt if stopped else 0
        self.refused: tuple[Slot, list[str]] | None = None
        """A slot whose opened sum was refused, and the members in it."""
        if stopped and run.sums and stopped.roster != run.sums.roster.hash.hex():
            # Begun under another roster, with other members: what was masked there is in no other sum.
            self._again, self.first, self.groups = None, stopped.attempt + 1, []
        elif stopped and not set(stopped.asked) <= set(run.candidates):
            self._again, self.first = None, stopped.attempt + 1
        if self._opened:
            self.first, self.groups = self._opened.stage.attempt, self._opened.groups

    def __iter__(self) -> Iterator[Attempt]:
        for number in range(self.first, self.first + self._most):
            again, self._again = self._again, None
            if self._opened:
                opened, self._opened = self._opened, None
                yield Attempt(number, again, opened.groups, first=opened)
                continue
            if self.refused:
                (slot, members), self.refused = self.refused, None
                if dealt := self._dealt(slot, members):
                    yield Attempt(number, None, dealt, slot)
                    continue
            same = again is not None or self._may_be_the_same(number)
            groups = self.groups if again else self._still_here() if same else []
            yield Attempt(number, again, groups)

    def _may_be_the_same(self, number: int) -> bool:
        job = self._run.plan.job
        return job.noised_locally and (number - self.first < _SAME or job.cohort.size is None)

    def _dealt(self, slot: Slot, members: list[str]) -> list[list[str]]:
        """As many groups of a refused sum's members as may be opened, by lot; none if not two.

        The lot is another one in each slot, so that rounds together may name one member.
        """
        run = self._run
        if run.sums is None or not run.plan.job.encryption.name_spoilers:
            return []
        least = smallest_sum(len(run.sums.roster.members), run.sums.roster.limits)
        count = len(members) // least

        def lot(name: str) -> bytes:
            return hashlib.sha256(f"{run.plan.job.seed}\n{slot.number}\n{name}".encode()).digest()

        dealt = sorted(members, key=lot)
        return [sorted(dealt[place::count]) for place in range(count)] if count > 1 else []

    def _still_here(self) -> list[list[str]]:
        """The groups without those who are away; none if these cannot be summed."""
        run = self._run
        if run.sums is None or not self.groups:
            return []
        here = set(present(run, run.plan.minimum))
        groups = [[name for name in group if name in here] for group in self.groups]
        enough = sum(map(len, groups)) >= run.plan.minimum
        return groups if enough and all(map(run.sums.can_open, groups)) else []


def present(run: Run, least: int) -> list[str]:
    """The clients that are connected; while they are fewer than `least`, others are waited for.

    Anyone who is away costs nobody time then, and comes back in a later round.
    """
    nodes = {name: run.nodes[name] for name in run.candidates}
    return connected(run.grid, nodes, least, run.patience, run.should_stop, run.clock) or list(
        nodes
    )
