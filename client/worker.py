"""The worker: a process that holds an owner's model and records, and nothing else.

The agent starts it and asks it over a pipe. It has to do with no ledger, no key of the consortium and
no server, so when a record kills it, the agent lives on and starts it again (``child``).
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import struct
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UmbelError
from ..job import Job
from ..learning.base_model import forget_digests
from ..learning.failures import NOBODY, Touch
from ..learning.pace import Pace, measured
from ..learning.probing.verdict import Verdict
from ..planning.padding import padding_refusals
from ..planning.shaping import shaping_of
from .data import DataSource
from .work import LocalData, WorkHere, Workplace

_log = logging.getLogger(__name__)
ROW = struct.Struct("<q")
"""Format of the row in use in the file that agent and worker share."""


@dataclass(frozen=True)
class Setup:
    """What a worker needs to become ready for a job."""

    owner: str
    job: Job
    """On this owner's device."""
    source: DataSource
    split_secret: bytes | None
    """In the place of the owner's, in a rehearsal."""
    threads: int
    gpu_memory_share: float
    waits: bool = False
    """Whether answers leave at public times, for which the model's pace is measured."""
    pace: Pace | None = None
    """As it was measured for the same model before."""
    records: bool = True
    """Whether to read records; without them it works for an owner that has none."""
    accepted: tuple[str, ...] = ()
    """Strategies whose own code the owner lets run here, by name."""


@dataclass(frozen=True)
class Model:
    """What the agent has to know of the model that the worker has loaded; no record takes part."""

    shapes: dict[str, tuple[int, ...]]
    base_model: str
    verdict: Verdict | None
    """What the probe of it found."""
    fresh: bool
    """Whether it is new."""
    pace: Pace | None
    """How fast this machine is with it; None if nobody waits."""
    fixed: str = ""
    """SHA-256 of the adapter's tensors that do not travel, as they begin."""
    personal: dict[str, np.ndarray] = field(default_factory=dict)
    """Those that each owner trains for itself, as they begin."""


class Worker:
    """What the agent may ask for, one request at a time."""

    def __init__(self) -> None:
        self._workplace: Workplace | None = None
        self._pace: Pace | None = None
        self.work: WorkHere | None = None

    def load(self, setup: Setup) -> Model:
        """Load the model, unless it is there, and look whether its texts leave each other alone."""
        import torch

        from ..learning.device import flush_denormals

        if setup.split_secret is None:  # a rehearsal computes as a simulation does, to the last bit
            flush_denormals()
        torch.set_num_threads(setup.threads)
        if torch.cuda.is_available() and setup.gpu_memory_share < 1:
            torch.cuda.set_per_process_memory_fraction(setup.gpu_memory_share)
        fresh = self._workplace is None or self._workplace.learner.job != setup.job
        if fresh:
            forget_digests()  # its files may have been put there since
            self.work = self._workplace = None  # lets go of the old model first
            self._workplace = workplace_of(setup.job, setup.accepted)
            self._pace = None
        assert self._workplace is not None
        learner = self._workplace.learner
        base = learner.shape().base_digest
        # A model that the agent refuses takes no private step, not even to see how fast it is.
        refused = padding_refusals(setup.job, learner.verdict)
        if setup.waits and self._pace is None and not refused:
            declared = setup.source.declared
            self._pace = setup.pace or measured(
                learner, self._workplace.task, largest=declared.largest
            )
        fixed = learner.fixed_digest
        shapes, personal = self._workplace.shapes, learner.personal
        return Model(shapes, base, learner.verdict, fresh, self._pace, fixed, personal)

    def open(self, setup: Setup, left_out: frozenset[int], touch: Touch | None) -> LocalData:
        """Read the records but for the rows `left_out`; what came of it, without the records."""
        assert self._workplace is not None
        data = records_of(setup, left_out, touch)
        self.work = WorkHere(setup.owner, self._workplace, data, self._pace)
        return replace(data, train=data.train.none(), test=data.test.none())


def workplace_of(job: Job, accepted: Collection[str] = ()) -> Workplace:
    """The model of a job, loaded and probed; `accepted`: as in ``Setup``."""
    from ..learning.loading import load_learner
    from ..learning.probing.probe import probed
    from ..learning.tasks import task_for

    classes = len(job.data.labels or ())
    learner = load_learner(job, classes, shaping_of(job, accepted))
    return Workplace(probed(learner), task_for(job, classes))


def records_of(
    setup: Setup, left_out: frozenset[int] = frozenset(), touch: Touch | None = None
) -> LocalData:
    """An owner's records. Under privacy those that cannot be read are as good as none.

    A file or a column that is not there, which no record decides, is a ``DataError`` all the same.
    """
    source, job = setup.source, setup.job
    source.check()
    if not setup.records:
        return source.nothing(job)
    try:
        return source.load(job, setup.split_secret, left_out, touch)
    except Exception as error:
        if not job.private:
            raise
        _log.error("%s takes part as an owner without records: %s", setup.owner, error)
        return source.nothing(job)


def serve(connection: Connection, mark: int) -> None:
    """Answer the agent's requests until it closes the pipe.

    A request: what, its arguments, and whether to say in the file `mark` which row is in use.
    An answer: whether it worked, and what came of it, or why not.
    """
    worker = Worker()

    def touch(row: int) -> None:
        os.pwrite(mark, ROW.pack(row), 0)

    while True:
        try:
            what, arguments, named, careful = connection.recv()
        except EOFError:
            return
        touch(NOBODY)
        try:
            touching = touch if careful else None
            if what == "load":
                found: Any = worker.load(*arguments)
            elif what == "open":
                setup, left_out = arguments
                found = worker.open(setup, left_out, touching)
            else:
                assert worker.work is not None
                worker.work.touch = touching
                found = getattr(worker.work, what)(*arguments, **named)
            answer: tuple[bool, Any] = True, found
        except Exception as error:
            _log.info("a request to %s failed", what, exc_info=not isinstance(error, UmbelError))
            answer = False, _portable(error)
        touch(NOBODY)
        connection.send(answer)


def _portable(error: Exception) -> Exception:
    """An error that survives the pipe: itself, or one that says the same."""
    try:
        copy: Exception = pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return copy


def main(run: Callable[[Connection, int], None] = serve) -> None:
    """A worker in this process, which ends with the agent's."""
    from ..storage.processes import end_with_parent, log_to_stderr

    with contextlib.suppress(OSError):
        # When memory runs out, the system ends this process, and not the agent's.
        Path("/proc/self/oom_score_adj").write_text("1000")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the agent decides when it is over
    end_with_parent()
    log_to_stderr()
    pipe, mark = map(int, sys.argv[1:])
    run(Connection(pipe), mark)


def without_records(setup: Setup) -> Setup:
    """The same for an owner that has none."""
    return replace(setup, records=False)
