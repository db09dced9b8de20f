"""Asynchronous rounds between machines: several sums are in progress at once, each of other owners.

If an owner falls silent in the middle of a sum, only the members of this sum wait for it: as soon as enough
others are ready, they begin the next sum. Whichever sum is whole first makes the next version, so versions
follow the order in which sums are opened. (If a virtual clock says who is ready, sums take no time on it, so
they never overlap: ``buffered``.)

Guarantee: an owner is in at most one sum at a time, by its own journal, too: to enter a slot it leaves the
one before for good. Sums in progress together have no member in common, so their difference is of no fewer
owners than either has. An update that was masked in a sum that came to nothing is masked again only as
``privacy.secagg.repeats`` allows. No update is more than ``max_staleness`` versions old when its sum makes a
version, whichever order the sums are whole in (``planning.buffered.Buffer``).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from ..errors import Interrupted
from ..learning.metrics import Counts
from ..learning.model import arrays_digest
from ..planning.buffered import Buffer
from ..planning.schedule import rounds_tested
from ..run.events import Evaluation
from ..wire.arrays import Arrays
from .buffered import next_model, no_sum, under_way
from .ending import failure
from .exchange import Stage
from .refused_sums import RefusedSums
from .rounds import evaluate, round_event, run_rounds
from .run import Run
from .slots import OpenSum, OpenSums
from .spares import warn_of_spares
from .sum_in_progress import SumInProgress
from .trainings import Trainings
from .turns import Turns

_POLL_SECONDS = 0.2


def overlapping_rounds(run: Run) -> dict[str, Counts]:
    """``rounds.run_rounds`` of an asynchronous job between machines."""
    with contextlib.closing(Overlap(run)) as overlap:
        return run_rounds(run, overlap.next_version)


class Overlap:
    """The sums in progress of a run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._turns = run.clock = Turns(run.clock)
        self._renew, run.renew = run.renew, self._renew_between
        self._notes = OpenSums(run.folder)
        self._left: list[OpenSum] = []
        if run.sums:
            noted, roster = self._notes.left(), run.sums.roster.hash.hex()
            self._left = [one for one in noted if one.open.roster == roster]
            numbers = [slot.number for one in noted for slot in one.open.slots]
            run.sums.used = max([run.sums.used, *numbers])
        self._sums: list[SumInProgress] = []
        self._refused = RefusedSums(run)

    def next_version(self, run: Run, round_: int, test: bool) -> Arrays:
        """The next model version, of the sum that is whole first.

        If it says `test`, all clients test the current model first, in a sum of its own. But if the sums that
        it waits for are opened meanwhile, their versions are made before it, and the last one is tested: an
        owner cannot answer again for the slot that it left, so another process could not open it. Raises
        ``RoundFailed`` if too few are left, or too few answer, and no sum is in progress; also if too
        many sums were opened and refused.
        """
        buffer, trainings = self._under_way()
        if self._test_is_due(test):
            self.finish()
            if run.sums and self._whole:
                return self._made(self._whole[0], round_)
            evaluate(run)
        begun, failed = time.monotonic(), dict[str, str]()
        lacks, tried, job = "", 0, run.plan.job
        end, last = run.clock.now() + job.cohort.deadline, False
        while True:
            buffer.apart = self._refused.groups if run.clock.now() < end else ()
            trainings.attend()
            self._begin()
            for one in self._go_on():
                tried += one.tried
                failed |= one.collection.failed if one.tried else {}
                lacks = one.lacks if one.tried else lacks
                end, last = run.clock.now() + job.cohort.deadline, False  # they are asked anew
            if self._whole:
                return self._made(self._whole[0], round_)
            if self._refused.stops:
                raise failure(run, f"Round {round_}: {self._refused.stops}.")
            if run.should_stop():
                raise Interrupted(run.stopped)
            left = sum(map(buffer.may_train, run.candidates))
            if not self._sums and (left < buffer.size or tried > job.cohort.retries):
                break
            waited_for = buffer.next_members(without=trainings.away)
            trainings.drop_late(waited_for, job.cohort.deadline)
            if not self._sums and run.clock.now() >= end:
                if last or not trainings.drop_late(waited_for):
                    break
                last = True  # those that are ready may be enough without them
            run.clock.wait_until(run.clock.now() + _POLL_SECONDS)
        ahead = trainings.told()
        failed = ahead.failed | failed
        if ahead.heard or ahead.failed:
            run.tell(round_event(run, ahead, Stage(round_), begun, False))
        raise no_sum(run, buffer, round_, failed, lacks)

    @property
    def _whole(self) -> list[SumInProgress]:
        """Sums that are opened, of which no version is made yet."""
        return [one for one in self._sums if one.total]

    def _test_is_due(self, test: bool) -> bool:
        """Whether the model is to be tested now, also if versions were made before a test that was due."""
        run, job = self._run, self._run.plan.job
        if test:
            return not run.choice.heard(Evaluation, run.round, arrays_digest(run.arrays))
        if not (run.sums and job.counts == "private"):
            return False
        due = [one for one in rounds_tested(job, run.plan.tests) if one <= run.round]
        return bool(due) and all(event.round < due[-1] for event in run.folder.told(Evaluation))

    def finish(self) -> None:
        """Before a test, for which everybody leaves the slot it is in: wait until no sum is in progress and
        nobody trains. Sums that no version will be made of are given up."""
        run, (_, trainings) = self._run, self._under_way()
        self._give_up_if_over()
        while not all(one.done for one in self._sums):
            if run.should_stop():
                raise Interrupted(run.stopped)
            trainings.attend()
            list(self._go_on())
            run.clock.wait_until(run.clock.now() + _POLL_SECONDS)
        trainings.finish()

    def close(self) -> None:
        """Give up what is in progress; another process may go on with it."""
        for one in self._sums:
            one.give_up()
        self._sums, self._left = [], []

    def _give_up_if_over(self) -> None:
        """No version will be made of what is in progress once the last one is made, or the run was ended."""
        if self._run.round >= self._run.plan.job.training.rounds or self._run.choice.ended:
            self.close()

    def _under_way(self) -> tuple[Buffer, Trainings]:
        buffer = under_way(self._run)
        assert self._run.trainings is not None, "clients train ahead"
        self._run.before_test = self.finish
        left, self._left = self._left, []
        for one in left:
            flights = {name: buffer.flights.get(name) for name in one.versions}
            same = all(
                flight and flight.version == one.versions[n] for n, flight in flights.items()
            )
            if same and not buffer.summing & one.versions.keys():
                buffer.open(one.versions)
                found = SumInProgress(
                    self._run, buffer, self._turns, self._notes, one.versions, one.open
                )
                self._notes.take_up(found, one)
                self._sums.append(found)
        return buffer, self._run.trainings

    def _begin(self) -> None:
        """Begin a sum of those who are ready, and another, as long as there are enough of them."""
        run, (buffer, trainings) = self._run, self._under_way()
        while self._has_use_of_more():
            members = buffer.next_members(without=trainings.away)
            if not members or not trainings.are_ready(members) or not self._may_begin():
                return
            versions = {name: buffer.flights[name].version for name in members}
            buffer.open(members)
            self._sums.append(SumInProgress(run, buffer, self._turns, self._notes, versions))

    def _has_use_of_more(self) -> bool:
        """Whether more versions are wanted than there are sums in progress, but for those that are slow."""
        job = self._run.plan.job
        if self._refused.stops:
            return False
        timely = [one for one in self._sums if one.seconds <= job.encryption.deadline]
        return self._run.round + len(timely) < job.training.rounds

    def _may_begin(self) -> bool:
        """Whether no roster waits, to which the run turns between two sums; leaves if it does then."""
        if self._run.roster_waits():
            if self._sums:
                return False
            self._renew(False)
        return True

    def _renew_between(self, failed: bool) -> None:
        """Turn to another roster only if no sum is in progress: its updates could be in no other one."""
        self._give_up_if_over()
        if failed or not (self._sums or self._left):
            self._renew(failed)

    def _go_on(self) -> Iterator[SumInProgress]:
        """Let each sum go on; those that came to nothing."""
        run, (buffer, trainings) = self._run, self._under_way()
        for one in list(self._sums):
            before = len(one.spoiled)
            for event in one.go_on():
                run.tell(event)
                warn_of_spares(run, event)
            for members, why in one.spoiled[before:]:
                self._notes.give_up(one)
                self._refused.tell(members, why)
            if one.done and not one.total:
                self._notes.give_up(one)
                self._end(one, buffer)
                trainings.summed(one.members)
                if one.spoiled:  # they train the newest version
                    buffer.leave(one.members)
                    buffer.begin(one.members)
                buffer.leave(one.refused, for_good=True)
                yield one

    def _made(self, one: SumInProgress, round_: int) -> Arrays:
        """The version that a whole sum makes of the newest one."""
        run, (buffer, trainings) = self._run, self._under_way()
        assert one.total, "it is whole"
        model = next_model(run, round_, one.total)
        event = one.event(round_, made=True)
        run.tell(event)
        warn_of_spares(run, event)
        self._notes.made(one)
        self._end(one, buffer)
        trainings.summed(one.members)
        run.versions[run.round] = run.arrays
        buffer.summed(one.asked)
        run.versions = {v: run.versions[v] for v in buffer.versions if v <= run.round}
        return model

    def _end(self, one: SumInProgress, buffer: Buffer) -> None:
        self._sums.remove(one)
        buffer.close(one.members)
