"""One run between machines: the process that leads its rounds, from muster to result.

Started by the supervisor (`umbel server`) with its task on standard input. It may be killed at any
moment: what it needs to go on is in the run's folder and in the store, and the next one does.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

from flwr.serverapp import Grid

from ..consortium.authority import Consortium
from ..errors import ConsortiumError, Interrupted, UmbelError
from ..flower.tasks import claim_run, grid_of
from ..job import Job
from ..learning.export import export_adapter
from ..learning.loading import load_learner
from ..learning.model import Learner
from ..learning.probing.probe import probed
from ..planning.shaping import shaping_of
from ..privacy.randomness import reproducible_stream
from ..privacy.secagg.keys import Identity
from ..run.events import (
    Evaluation,
    Event,
    Prepared,
    Round,
    Said,
    Warned,
    heads_of,
)
from ..run.run_folder import RunFolder
from ..run.store import Store
from ..storage.processes import end_with_parent, log_to_stderr
from ..wire.arrays import to_array_record, to_arrays
from .buffered import buffered_round
from .conclusion import conclude, signer_of
from .ending import ended_line
from .exchange import connected
from .handout import awaiting, hand_out
from .holdout import PublicTest, note_public, read_public
from .muster import TAKES_PART
from .orders import renew_order
from .overlapping import overlapping_rounds
from .renewal import Company, took_part
from .result import summarise
from .rosters import RosterChanged
from .rounds import run_rounds
from .run_to_lead import RunToLead

_COME_BACK = 60.0
"""Seconds."""
_log = logging.getLogger(__name__)


class Narrator:
    """Tells the store and the log how a run goes (a ``run.Listener``)."""

    def __init__(self, store: Store, name: str, consortium: Consortium) -> None:
        self._store, self._name = store, name
        # By key, not by name: a member that came back under the same one has another ledger.
        self._members = consortium.admitted_with()

    def heads(self) -> dict[str, str]:
        """What each member last sent of its ledger, in any run."""
        kept = self._store.heads()
        return {name: kept[key] for name, key in self._members.items() if key in kept}

    def started(self, what: str, total: int) -> None:
        _log.info("%s: %d asked" if total else "%s", what, *([total] if total else []))

    def advanced(self, done: int) -> None:
        _log.info("  %d answered", done)

    def member(self, name: str, said: str) -> None:
        """What a member that was asked says, or why it says nothing."""
        self._store.tell(
            self._name,
            Said(name, said, takes_part=said == TAKES_PART),
        )
        _log.info("%s: %s", name, said)

    def event(self, event: Event) -> None:
        self._store.tell(self._name, event)
        heads = heads_of(event)
        self._store.keep_heads(
            {self._members[n]: heads[n] for n in heads.keys() & self._members.keys()}
        )
        if isinstance(event, Round | Evaluation):
            for doubt in event.doubted.values():
                _log.warning("%s", doubt)
        if isinstance(event, Round):
            came = "summed" if event.aggregated else "given up"
            ages = ", ".join(str(int(age)) for age in sorted(event.staleness.values()))
            _log.info(
                "round %d %s after %.1f s: %d clients%s%s",
                event.round,
                came,
                event.seconds,
                len(event.clients),
                f" (versions behind: {ages})" if ages else "",
                "".join(f"; {name}: {reason}" for name, reason in event.failed.items())
                + (f"; {event.lacks}" if event.lacks else ""),
            )
        elif isinstance(event, Evaluation) and event.lacks:
            _log.info("test of round %d: %s", event.round, event.lacks)
        elif isinstance(event, Warned):
            _log.warning("%s", event.text)


def coordinate(task: RunToLead) -> None:
    """Lead a run to its end, and leave its status in the store."""
    consortium = Consortium.open(Path(task.consortium))
    store = Store(consortium.database)
    root = consortium.ca_certificate.read_bytes()
    try:
        # Late, because anyone who has claimed the work has to show soon that it lives.
        claim = claim_run(task.address, root, Path(task.secret).read_bytes(), task.flower_run)
        with grid_of(task.address, root, claim) as grid:
            row = store.run(task.name)
            ended = row.reason
            if row.status != "delivering":
                ended = _lead(task, consortium, store, grid)
                # From here on it ends as finished, whatever becomes of the rest: who dies now sends again.
                store.set_status(task.name, "delivering", ended)
            _hand_out(task, consortium, store, grid)
    except RosterChanged:
        _log.info("the roster has changed: the run continues under the next one")
    except Interrupted as error:
        store.set_status(task.name, "stopped", str(error))
        _log.info("%s", error)
    except UmbelError as error:
        store.fail(task.name, str(error))
        _log.error("%s", error)
    else:
        store.set_status(task.name, "finished", ended)
        _log.info("finished: %s", consortium.runs / task.name / "result.json")


def _hand_out(task: RunToLead, consortium: Consortium, store: Store, grid: Grid) -> None:
    """Send the result to the owners that took part, are members still, and have not got it."""
    # Owners take a result by the key that signed the order: that may have been replaced during the run.
    with contextlib.suppress(UmbelError):
        renew_order(consortium, store.run(task.name))
    folder = RunFolder.open(consortium.runs / task.name)
    clients = {name: node for name, node in task.nodes.items() if name in took_part(folder)}
    signer, delegation = _signer(consortium, folder)
    missing = awaiting(folder, clients)
    if signer is None or not missing:
        return
    try:
        event = hand_out(grid, folder, missing, signer, delegation)
    except UmbelError as error:
        _log.warning("the result was not sent: %s", error)
        return
    folder.append(event)
    store.tell(task.name, event)
    _log.info("these owners have the result: %s", ", ".join(event.clients) or "nobody")
    for name, reason in sorted(event.failed.items()):
        _log.warning("%s did not receive the result: %s", name, reason)


def _lead(task: RunToLead, consortium: Consortium, store: Store, grid: Grid) -> str:
    """Why the run has fewer rounds than planned; nothing if it has all."""
    folder = RunFolder.open(consortium.runs / task.name)
    identity, job = folder.read_json("run.json"), folder.job
    begun = time.monotonic()

    def should_stop() -> bool:
        return store.run(task.name).status == "stopping"

    def should_finish() -> bool:
        return store.run(task.name).status == "finishing"

    if identity["reproducible"]:
        _use_one_thread()
    _log.info("loading the base model %s", job.model.base)
    public = read_public(job)
    note_public(folder, public)
    learner = probed(_load(job))
    # Packed, so that it is in memory once when it travels.
    shape, initial = learner.shape(), to_arrays(to_array_record(learner.initial))
    public_test = PublicTest(learner, public) if public else None
    # Without public records the base model, which may be far larger, is let go of until the end.
    del learner
    narrator = Narrator(store, task.name, consortium)
    _log.info("asking %s", ", ".join(sorted(task.nodes)))
    company = Company.gather(
        folder, consortium, shape, grid, task.nodes, should_stop, narrator.member, narrator.heads()
    )
    if should_stop():
        raise Interrupted("Stopped before the first round.")
    run = company.take_up(grid, initial)
    del initial
    run.public_test = public_test
    run.listener, run.should_stop = narrator, should_stop
    run.heads = narrator.heads()
    run.should_finish = should_finish
    run.advice = lambda round_: _advice(task.name, round_)
    if identity["reproducible"]:
        run.secrets = lambda what: reproducible_stream(job.seed, what)
    interrupted = _either(should_stop, should_finish)
    connected(grid, run.nodes, run.plan.minimum, identity["wait"], interrupted, run.clock)
    # Nodes that were here a moment ago come back soon, if they do.
    soon = min(identity["wait"], _COME_BACK)
    connected(grid, run.nodes, len(run.nodes), soon, interrupted, run.clock)
    folder.append(Prepared(round(time.monotonic() - begun, 3)))
    if run.plan.terms.asynchronous:
        run.ahead = "virtual" if identity["reproducible"] else "arrival"
    if run.ahead == "arrival":
        counts = overlapping_rounds(run)
    else:
        counts = run_rounds(run, buffered_round if run.ahead else None)
    export_adapter(
        public_test.learner if public_test else _load(job), run.arrays, folder.path / "adapter"
    )
    result = summarise(run, counts, {}, identity, company.statement())
    conclude(run.folder, result, *_signer(consortium, folder))
    return ended_line(result["ended"]) if result["ended"] else ""


def _advice(name: str, round_: int) -> str:
    resume = f"fix the cause, then: umbel resume {name}"
    return (
        f"{resume}; or accept its last summed model as the result: umbel finish {name}"
        if round_
        else resume
    )


def _either(one: Callable[[], bool], other: Callable[[], bool]) -> Callable[[], bool]:
    return lambda: one() or other()


def _use_one_thread() -> None:
    """As a simulation of the same job: the last bits of a sum depend on the number of threads."""
    import torch

    torch.set_num_threads(1)


def _load(job: Job) -> Learner:
    return load_learner(job, len(job.data.labels or ()), shaping_of(job))


def _signer(consortium: Consortium, folder: RunFolder) -> tuple[Identity | None, str | None]:
    """Who certifies, if anybody can here: the keys may be elsewhere while the server runs."""
    try:
        return signer_of(consortium, folder)
    except ConsortiumError as error:
        _log.warning("no certificate yet: %s Then: umbel certify RUN --consortium FOLDER", error)
        return None, None


def main() -> None:
    end_with_parent()
    log_to_stderr()
    coordinate(RunToLead.from_json(sys.stdin.readline()))


if __name__ == "__main__":
    main()
