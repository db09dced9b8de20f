"""The work in a child process, so that a record that kills it does not take the agent along.

A long text can be one too many for the memory, and the kernel then kills who asked for it; a native
library can fall over a character. Were the agent to die, whether it answers would tell of one record.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from multiprocessing import Pipe
from typing import Any

from ..errors import UmbelError
from ..job import Job
from ..learning.failures import NOBODY
from ..learning.metrics import Counts
from ..learning.steps import PrivateSteps
from ..learning.trainer import Outcome
from ..privacy.noise.sizes import Sizes
from ..storage.processes import start
from ..strategies import LocalRule
from ..wire.arrays import Arrays
from .work import LocalData, OutOfTime, Side
from .worker import ROW, Model, Setup, without_records

_MOST_UNEXPLAINED = 3
"""Deaths in a row that no record explains."""
_LOOK_SECONDS = 0.5
"""How often the time limit is checked."""
_log = logging.getLogger(__name__)


class Died(Exception):
    """The child's process ended in the midst of a request."""

    def __init__(self, status: int, row: int) -> None:
        super().__init__(f"the worker ended with status {status}")
        self.row = row
        """The row of the record in use, or ``NOBODY``."""


class WorkLost(UmbelError):
    """The child dies again and again, and no record is to blame."""


class Child:
    """One worker process. It ends with this one, however that happens."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self._mark = tempfile.TemporaryFile()  # noqa: SIM115
        self._pipe, theirs = Pipe()
        mark = self._mark.fileno()
        os.pwrite(mark, ROW.pack(NOBODY), 0)
        self.process = start(
            [*command, str(theirs.fileno()), str(mark)],
            pass_fds=[theirs.fileno(), mark],
            environment=environment,
        )
        theirs.close()

    def ask(
        self,
        what: str,
        *arguments: Any,
        careful: bool = False,
        over: Callable[[], bool] = lambda: False,
        **named: Any,
    ) -> Any:
        """Ask, and wait. Raises what was raised there, ``Died``, or, once it is `over`, ``OutOfTime``."""
        try:
            self._pipe.send((what, arguments, named, careful))
            while not self._pipe.poll(_LOOK_SECONDS):
                if over():
                    self.close()
                    raise OutOfTime(
                        "the work took longer than a whole run may take (jobs.max_hours)"
                    )
            worked, found = self._pipe.recv()
        except (EOFError, OSError):
            row = ROW.unpack(os.pread(self._mark.fileno(), ROW.size, 0))[0]
            self.close()
            raise Died(self.process.returncode, row) from None
        if not worked:
            raise found
        return found

    def close(self) -> None:
        """End it."""
        self._pipe.close()
        self.process.kill()
        self.process.wait()
        self._mark.close()


def command() -> list[str]:
    """What starts a worker: this Python."""
    return [sys.executable, "-c", "from umbel.client.worker import main; main()"]


class Bench:
    """The child, started again whenever it has died. `start`: its command; `environment`: what it has
    beside this process's own."""

    def __init__(
        self, start: Sequence[str] | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        self._start = start or command()
        self._environment = environment or {}
        self._child: Child | None = None
        self.holder: WorkInChild | None = None
        """The owner whose model and records the child holds."""

    def warm(self) -> None:
        """Start it, so that it is there when it is asked."""
        if self._child is None:
            self._child = Child(self._start, self._environment)

    def ask(self, what: str, *arguments: Any, **named: Any) -> Any:
        """Ask the child, as ``Child.ask``; it is started again after ``Died`` or ``OutOfTime``."""
        self.warm()
        assert self._child is not None
        try:
            return self._child.ask(what, *arguments, **named)
        except (Died, OutOfTime):
            self._child = self.holder = None
            raise

    def close(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = self.holder = None


class WorkInChild:
    """An owner's work, done by a child that may die of a record.

    Guarantee: a record that kills the child counts as zero, in this answer and in all later ones, also
    of an agent that starts again (``left_out``), and others count as they would without it, to the
    rounding of ``learning.trainer``. So it moves a sum by no more than any other record. The answer
    leaves.

    How: a child that died is started again, and goes through the same request record by record, noting
    in a shared file which one is next. If it dies again, that is the one, and is left out from then on.
    Each such death takes a record away, so they come to an end. Deaths at no record are counted, and
    after a few the work is lost: no record decides about those. (A record that is wrongly suspected,
    because the system killed the child for something else, is left out, too: that is within the bound.)

    Training without the record draws batches and noise again. Under the old key it would not be the
    mechanism: that the record was drawn is why there is a second try, and with one record fewer its
    uniform number, known to be small, would decide about another one, which would be drawn up to twice
    as often as it is charged. A fresh draw is independent of that, and the first one has left nothing.
    """

    def __init__(
        self, bench: Bench, setup: Setup, over: Callable[[], bool] = lambda: False
    ) -> None:
        """over: whether the time for what is being worked on is up, looked at now and then."""
        self._bench, self._setup, self._over = bench, setup, over
        self._left_out: set[int] = set()
        self._unexplained = 0
        self._data: LocalData | None = None
        self.interruptions = 0
        self.model: Model = self._persistently("load")
        """What was loaded, before any record is read."""
        # A child that a record ended is as fast as the one before: else all later answers would tell of it.
        self._setup = replace(self._setup, pace=self.model.pace)

    def open(self) -> LocalData:
        """Have the records read; what there is to know of them, without them.

        Guarantee under privacy: no record decides whether that works. What cannot be read at all is
        as good as none.
        """
        try:
            data: LocalData = self._persistently("open")
        except WorkLost as error:
            if not self._setup.job.private:
                raise
            _log.error("%s takes part as an owner without records: %s", self._setup.owner, error)
            self._setup = without_records(self._setup)
            data = self._persistently("open")
        self._data = data
        return data

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self.model.shapes

    @property
    def personal(self) -> Arrays:
        return self.model.personal

    @property
    def base_model(self) -> str:
        return self.model.base_model

    @property
    def fixed(self) -> str:
        return self.model.fixed

    @property
    def counts(self) -> Sizes:
        """What the owner's sizes are drawn around: for it, records are read if none were."""
        return (self._data or self.open()).counts

    @property
    def grouped(self) -> bool:
        return self._setup.job.per_group and self._setup.source.declared.unit == "group"

    @property
    def records_per_group(self) -> int | None:
        return self._setup.source.declared.records_per_group if self.grouped else None

    def prepare(self) -> None:
        self._persistently("prepare")

    def checked(self, arrays: Arrays, names: Collection[str] | None = None) -> None:
        self._persistently("checked", arrays, names)

    def tested(
        self, job: Job, arrays: Arrays, *, fill: int | None = None, side: Side = "test"
    ) -> Counts:
        found: Counts = self._persistently("tested", job, arrays, fill=fill, side=side)
        return found

    def trained(
        self,
        job: Job,
        round_: int,
        arrays: Arrays,
        private: PrivateSteps | None = None,
        local: LocalRule | None = None,
        *,
        names: Collection[str] | None = None,
        records: bool = True,
        fill: int | None = None,
    ) -> Outcome:
        found: Outcome = self._persistently(
            "trained",
            job,
            round_,
            arrays,
            private,
            local,
            names=names,
            records=records,
            fill=fill,
        )
        return found

    def trained_apart(
        self,
        job: Job,
        round_: int,
        own: Arrays,
        local: LocalRule,
        *,
        records: bool = True,
        fill: int | None = None,
    ) -> Outcome:
        found: Outcome = self._persistently(
            "trained_apart", job, round_, own, local, records=records, fill=fill
        )
        return found

    def _persistently(self, what: str, *arguments: Any, **named: Any) -> Any:
        """Ask until there is an answer; from the first death on, record by record.

        As long as nobody is blamed, it is the same request, with the same key: the same draws.
        """
        careful = False
        while True:
            try:
                left_out = frozenset(self._left_out)
                found = None
                if what == "load" or self._bench.holder is not self:
                    self.interruptions += what not in ("load", "open")
                    found = self._bench.ask("load", self._setup, over=self._over)
                    self._bench.holder = None
                if what == "open" or (what != "load" and self._bench.holder is not self):
                    found = self._bench.ask(
                        "open", self._setup, left_out, careful=careful, over=self._over
                    )
                    self._bench.holder = self
                if what not in ("load", "open"):
                    found = self._bench.ask(
                        what, *arguments, careful=careful, over=self._over, **named
                    )
            except OutOfTime:
                self.interruptions += 1
                raise
            except Died as death:
                self.interruptions += 1
                careful = True
                if self._blame(death):
                    arguments = tuple(map(_drawn_anew, arguments))
            else:
                self._unexplained = 0
                return found

    def _blame(self, death: Died) -> bool:
        """Whether a record is left out because of it."""
        if death.row != NOBODY and death.row not in self._left_out:
            self._left_out.add(death.row)
            _log.error("%s: record %d is left out: %s", self._setup.owner, death.row + 1, death)
            return True
        self._unexplained += 1
        _log.error("%s: %s and is started again", self._setup.owner, death)
        if self._unexplained >= _MOST_UNEXPLAINED:
            self._unexplained = 0
            raise WorkLost(f"{self._setup.owner}: {death}, {_MOST_UNEXPLAINED} times in a row")
        return False


def _drawn_anew(argument: Any) -> Any:
    return argument.drawn_anew() if isinstance(argument, PrivateSteps) else argument
