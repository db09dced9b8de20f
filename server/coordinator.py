"""One run between machines: the process that leads its rounds, from muster to result.

Started by the supervisor (`umbel server`) with its task on standard input. It may be killed at any
moment: what it needs to go on is in the run's folder and in the store, and the next one does.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid

from ..certificate.form import CertifiedRoster
from ..encryption import roster_refusals
from ..errors import ConsortiumError, Interrupted, UmbelError
from ..flower import end_with_parent
from ..flower.tasks import claim_run, grid_of
from ..job import Job
from ..learning.export import export_adapter
from ..learning.loading import load_learner
from ..learning.model import Learner, ModelShape
from ..learning.probe import probed
from ..limits import clip_of
from ..messages import to_array_record, to_arrays
from ..plan import Plan
from ..privacy.randomness import reproducible_stream
from ..privacy.secagg.keys import Identity
from ..privacy.secagg.roster import open_roster
from ..processes import log_to_stderr
from ..refusals import refused
from ..strategies import build_strategy
from .conclusion import conclude
from .consortium import Consortium
from .exchange import connected
from .holdout import PublicTest, note_public, read_public
from .muster import Muster, Order, muster
from .result import summarise
from .rounds import run_rounds
from .run import Run
from .run_folder import RunFolder
from .store import Store
from .sums import SecureSums

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """What the supervisor hands over."""

    consortium: str
    name: str
    address: str
    """Of the SuperLink, on loopback."""
    flower_run: int
    secret: str
    """File with what lets this process take the run's work."""
    nodes: dict[str, int]
    """Members and their nodes, as Flower knows them by the keys that were admitted."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class Narrator:
    """Tells the store and the log how a run goes (a ``run.Listener``)."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name

    def started(self, what: str, total: int) -> None:
        _log.info("%s: %d asked" if total else "%s", what, *([total] if total else []))

    def advanced(self, done: int) -> None:
        _log.info("  %d answered", done)

    def event(self, event: dict[str, Any]) -> None:
        self._store.tell(self._name, event)
        for doubt in event.get("doubted", {}).values():
            _log.warning("%s", doubt)
        if event["event"] == "round":
            came = "summed" if event["aggregated"] else "given up"
            _log.info(
                "round %d %s after %.1f s: %d clients%s",
                event["round"],
                came,
                event["seconds"],
                len(event["clients"]),
                "".join(f"; {name}: {reason}" for name, reason in event["failed"].items()),
            )


def coordinate(task: Task) -> None:
    """Lead a run to its end, and leave its status in the store."""
    consortium = Consortium.open(Path(task.consortium))
    store = Store(consortium.database)
    root = consortium.ca_certificate.read_bytes()
    try:
        # Late, because whoever has claimed the work has to show soon that it lives.
        claim = claim_run(task.address, root, Path(task.secret).read_bytes(), task.flower_run)
        with grid_of(task.address, root, claim) as grid:
            _lead(task, consortium, store, grid)
    except Interrupted as error:
        store.set_status(task.name, "stopped", str(error))
        _log.info("%s", error)
    except UmbelError as error:
        store.set_status(task.name, "failed", str(error))
        _log.error("%s", error)
    else:
        store.set_status(task.name, "finished")
        _log.info("finished: %s", consortium.runs / task.name / "result.json")


def _lead(task: Task, consortium: Consortium, store: Store, grid: Grid) -> None:
    folder = RunFolder.open(consortium.runs / task.name)
    identity, job = folder.read_json("run.json"), folder.job
    begun = time.monotonic()

    def should_stop() -> bool:
        return store.run(task.name).status == "stopping"

    if identity["reproducible"]:
        _use_one_thread()
    public = read_public(job)
    note_public(folder, public)
    roster = consortium.roster() or b""
    order = Order(identity["id"], job, identity["signature"], roster)
    learner = probed(_load(job))
    # Packed, so that it is in memory once when it travels.
    shape, initial = learner.shape(), to_arrays(to_array_record(learner.initial))
    public_test = PublicTest(learner, public) if public else None
    # Without public records the base model, which may be far larger, is let go of until the end.
    del learner
    members = len(consortium.members())
    _check_clip(job, shape, consortium, members)
    clients = _clients(folder, grid, order, task.nodes, identity["wait"], should_stop)
    if should_stop():
        raise Interrupted("Stopped before the first round.")
    plan = Plan.compile(job, clients.facts, shape, members)
    if not (folder.path / "plan.json").exists():
        folder.write_json("plan.json", plan.to_dict())
    run = Run(
        identity["id"],
        plan,
        grid,
        build_strategy(job.strategy, plan.total_weight),
        folder,
        initial,
    )
    del initial
    run.nodes, run.signature = clients.nodes, order.signature
    run.patience = identity["wait"]
    run.public_test = public_test
    run.listener, run.should_stop = Narrator(store, task.name), should_stop
    if identity["reproducible"]:
        run.secrets = lambda what: reproducible_stream(job.seed, what)
    if job.encrypted:
        run.roster = roster
        run.sums = SecureSums(open_roster(roster, consortium.card.consortium_key_bytes))
    run.restore()
    connected(grid, run.nodes, len(run.nodes), identity["wait"], should_stop)
    folder.append({"event": "prepared", "seconds": round(time.monotonic() - begun, 3)})
    counts = run_rounds(run)
    export_adapter(
        public_test.learner if public_test else _load(job), run.arrays, folder.path / "adapter"
    )
    _finish(run, counts, identity, consortium, roster)


def _use_one_thread() -> None:
    """As a simulation of the same job: the last bits of a sum depend on the number of threads."""
    import torch

    torch.set_num_threads(1)


def _check_clip(job: Job, shape: ModelShape, consortium: Consortium, members: int) -> None:
    """Refuse what every member would, before any of them is asked, and charges its published size."""
    if job.encrypted:
        clip = clip_of(job, shape.trained_parameters, members)
        if reasons := roster_refusals(clip, consortium.limits):
            raise refused(reasons)


def _load(job: Job) -> Learner:
    return load_learner(job, len(job.data.labels or ()))


def _clients(
    folder: RunFolder,
    grid: Grid,
    order: Order,
    nodes: dict[str, int],
    wait: float,
    should_stop: Any,
) -> Muster:
    """Those that take part: asked when the run begins, and the same ones when it goes on."""
    if (folder.path / "clients.json").exists():
        return Muster.from_json(folder.read_json("clients.json"), nodes)
    found = muster(grid, order, nodes, wait, _log.info, should_stop)
    if not should_stop():
        folder.write_json("clients.json", found.to_json())
    found.nodes = {name: nodes[name] for name in found.ready}
    return found


def _finish(
    run: Run, counts: Any, identity: dict[str, Any], consortium: Consortium, roster: bytes
) -> None:
    card = consortium.card
    members = CertifiedRoster.of(open_roster(roster, card.consortium_key_bytes), card.id)
    result = summarise(run, counts, {}, identity, members)
    conclude(run.folder, result, _signer(consortium))


def _signer(consortium: Consortium) -> Identity | None:
    """The operator, whose key may be kept elsewhere while the server runs."""
    try:
        return consortium.operator
    except ConsortiumError as error:
        _log.warning("no certificate yet: %s Then: umbel certify RUN --consortium FOLDER", error)
        return None


def main() -> None:
    end_with_parent()
    log_to_stderr()
    coordinate(Task(**json.loads(sys.stdin.readline())))


if __name__ == "__main__":
    main()
