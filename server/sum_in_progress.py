"""One of several sums of kept updates that are in progress at once in an asynchronous job.

It has its own members, who are in no other sum meanwhile, its own slot and signed manifest, and its own
repeats: if too few of the members answer, those who still have their updates are summed in another slot, as
``privacy.secagg.repeats`` allows. How old an update is, and so its weight, is fixed when the sum begins: its
members apply the weight before they mask.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace

from ..learning.model import arrays_digest
from ..planning.buffered import Buffer
from ..run.events import Round
from ..strategies.fold import FixedPointSum
from ..wire.requests import TRAIN
from .attempts import Attempt, Attempts
from .buffered import PlainBuffer, SecureBuffer, requests_to_sum, total_of, version_of
from .collect import TooFew
from .exchange import Exchange, Stage
from .replies import scalars_check
from .rounds import round_event
from .run import Run
from .slots import OpenRound, OpenSum, OpenSums
from .trainings import FOR_GOOD, requests_to_train
from .turns import Aside, Turns


class SumInProgress:
    """A sum of the updates that these members keep, each of its own version."""

    def __init__(
        self,
        run: Run,
        buffer: Buffer,
        turns: Turns,
        notes: OpenSums,
        versions: Mapping[str, int],
        left: OpenRound | None = None,
    ) -> None:
        """versions: by member. left: where an earlier process left it."""
        assert run.trainings is not None, "clients train ahead"
        self._run, self._buffer, self._notes = run, buffer, notes
        self._trainings = run.trainings
        self.versions, self.members = dict(versions), sorted(versions)
        self._round = left.round if left else run.round + 1
        self._models = {v: arrays_digest(version_of(run, v)) for v in set(versions.values())}
        most = run.plan.job.cohort.retries + 1
        self._attempts = Attempts(run, TRAIN, self._round, most, left)
        self._since = run.clock.now()
        self.tried = 0
        """Attempts so far."""
        self.asked: list[str] = []
        """The members of the last attempt."""
        self.refused: set[str] = set()
        """Clients that train no more in this run."""
        self.collection: SecureBuffer | PlainBuffer
        """That of the last attempt."""
        self.stage = Stage(self._round)
        self.begun = 0.0
        self.spoiled: list[tuple[list[str], str]] = []
        """The members of an attempt whose opened sum was refused, and why."""
        self._vain: list[Round] = []
        self._aside = Aside(turns, self._added_up)

    @property
    def staleness(self) -> dict[str, int]:
        """By member of the last attempt, how old its update was when the sum began."""
        return {name: self._round - 1 - self.versions[name] for name in self.asked}

    @property
    def lacks(self) -> str:
        """Why nothing came of it, if that is no single client's doing."""
        return self.spoiled[-1][1] if self.spoiled else self.collection.lacks

    @property
    def seconds(self) -> float:
        """Since it began."""
        return self._run.clock.now() - self._since

    def go_on(self) -> list[Round]:
        """Go as far as the answers that are there let it; what is to be told of attempts in vain."""
        self._aside.go_on()
        told, self._vain = self._vain, []
        return told

    @property
    def done(self) -> bool:
        return self._aside.done

    @property
    def total(self) -> FixedPointSum | None:
        """Of the members that answered; None before it is done, and if nothing came of it."""
        return self._aside.result()

    def event(self, round_: int, *, made: bool) -> Round:
        """What its last attempt came to, and what trainings cost that no event says yet."""
        self.collection.with_trained(self._trainings.told())
        ages = {name: float(age) for name, age in self.staleness.items()}
        stage = replace(self.stage, round=round_)
        return round_event(self._run, self.collection, stage, self.begun, made, staleness=ages)

    def give_up(self) -> None:
        """Wait no more for anybody; its slot stays closed."""
        self._aside.give_up()

    def _added_up(self) -> FixedPointSum | None:
        for attempt in self._attempts:
            members = attempt.cohort if self.tried or attempt.groups else self.members
            self.begun, self.stage = time.monotonic(), Stage(self._round, attempt.number)
            if attempt.number and not attempt.again:
                members = self._kept_by(members)
            if not members or (attempt.number and not self._may_be_summed(members)):
                return None
            last = bool(self.spoiled)
            self.tried += not last
            self.asked = members
            self.collection = self._collected(attempt, members)
            with contextlib.suppress(TooFew):
                return total_of(self._run, self.collection)
            if last:  # that they refused is no failure of theirs
                self.collection.failed = {}
                self.collection.lacks = "the members let go of what was in the refused sum"
            self._attempts.groups = self.collection.groups
            self._trainings.masked |= {name: self.versions[name] for name in members}
            # Of the round that is due by now: other sums may have made versions since this one began.
            self._vain.append(self.event(self._run.round + 1, made=False))
            if last:
                return None
            if self.collection.spoiled:
                # Once more: honest members refuse, and let go of what was opened. So they train anew.
                self.spoiled.append((self.collection.spoiled[1], self.collection.lacks))
        return None

    def _may_be_summed(self, members: list[str]) -> bool:
        """Whether those who are left are enough."""
        sums, plan = self._run.sums, self._run.plan
        return sums is None or (len(members) >= plan.minimum and sums.can_open(members))

    def _collected(self, attempt: Attempt, members: list[str]) -> SecureBuffer | PlainBuffer:
        run = self._run
        listed = {name: (self.versions[name], self._model(name)) for name in members}
        requests = requests_to_sum(run, listed)
        if not run.plan.job.encrypted:
            minimum = run.plan.job.cohort.minimum or len(members)
            return PlainBuffer(run, self.stage, minimum, requests, self.staleness)

        def hold(now: OpenRound) -> None:
            if not self.spoiled:
                self._notes.hold(self, OpenSum({n: self.versions[n] for n in members}, now))

        minimum = run.plan.minimum
        masked = self._trainings.masked
        again = any(masked.get(name) == self.versions[name] for name in members)
        return SecureBuffer(
            run, self.stage, minimum, requests, attempt, self.staleness, hold, again
        )

    def _model(self, name: str) -> str:
        return self._models[self.versions[name]]

    def _kept_by(self, members: Iterable[str]) -> list[str]:
        """Those who say that the update is still kept. Who trains it again is in a later sum."""
        run, flights = self._run, self._buffer.flights
        versions = {
            name: self.versions[name]
            for name in members
            if name in flights and flights[name].version == self.versions[name]
        }
        messages = requests_to_train(run, versions)
        deadline, names = run.plan.job.encryption.deadline, run.names
        exchange = Exchange(
            run.grid, messages, names, deadline, scalars_check(run), clock=run.clock
        )
        for reply in exchange:
            self._trainings.collection.note(names[reply.metadata.src_node_id], reply)
        self._trainings.collection.absorb(exchange)
        self.refused |= {n for n in exchange.failed if exchange.codes.get(n) in FOR_GOOD}
        return sorted(exchange.answered)
