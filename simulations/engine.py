"""`umbel simulate`: the whole federation on this machine, with the deployment's own code.

The job becomes virtual owners, a plan, and a run over an in-process grid. What a simulation adds
to a deployment is the comparison with every client alone and with all data in one place.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flwr.serverapp import Grid

from .. import __version__
from ..errors import Interrupted, JobError, RunFolderError
from ..flower import quiet_logs
from ..job import Job
from ..learning.counts import counts_from_list, own_figures
from ..learning.metrics import Counts, exact_counts_from_list, total
from ..learning.model import ModelShape
from ..learning.probing.probe import shape_known
from ..planning.buffered import seconds_of
from ..planning.plan import Plan, strategy_of
from ..planning.shaping import shaping_of
from ..privacy.randomness import reproducible_stream
from ..run.events import Compared, Holdings, Prepared
from ..run.run_folder import ANSWERS, RunFolder
from ..server.buffered import buffered_round
from ..server.conclusion import conclude
from ..server.holdout import note_public, read_public
from ..server.result import summarise
from ..server.rounds import run_rounds
from ..server.run import Listener, Run, Silent
from ..server.sums import SecureSums
from .federation import Federation, federate
from .grid import InProcessGrid
from .issuer import run_key
from .membership import found
from .personal import compare_own
from .site import FIRST_NODE, SiteSettings, own_states, owner_log
from .workers import Workers, default_workers, start_workers

Engine = Literal["inprocess", "ray"]
"""Where virtual clients run: in Umbel's own workers, or in the actors of Flower's Ray simulation."""


@dataclass(frozen=True)
class Options:
    """How to simulate; none of it changes the result of a reproducible run."""

    run_dir: Path | None = None
    workers: int | None = None
    engine: Engine = "inprocess"
    reproducible: bool = False
    ledgers: Path | None = None
    """Folder of the owners' ledgers; default: the run's own. A shared one composes over runs."""
    stop: threading.Event | None = None
    """When it is set, the run ends after its round in progress, as with Ctrl-C."""


def plan_job(job: Job, listener: Listener | None = None) -> tuple[Plan, Federation]:
    """What `umbel plan` shows: everything but the training."""
    listener = listener or Silent()
    federation = federate(job, listener)
    read_public(federation.job)
    shape = shape_known(federation.job, shaping_of(federation.job))
    if shape is None:
        listener.started("model", 0)
        with start_workers(SiteSettings(federation, Path(), Path(), False), 1) as workers:
            shape, _ = workers.call("model")
    if _needs_padding(federation.job, shape):
        return plan_job(job.padded(), listener)
    return _compiled(federation, shape), federation


def _needs_padding(job: Job, shape: ModelShape) -> bool:
    """Whether the probe of the model found that its texts must all be padded alike."""
    needed = shape.verdict is not None and shape.verdict.padding == "max_length"
    return needed and job.model.padding == "longest"


def _compiled(federation: Federation, shape: ModelShape) -> Plan:
    return Plan.compile(
        federation.job, federation.facts, shape, padding_cost=federation.padding_cost()
    )


def simulate(job: Job, options: Options, listener: Listener | None = None) -> RunFolder:
    """Run a job to its result. Nothing is written before the plan stands."""
    path = RunFolder.free_path(options.run_dir, job)
    identity = {
        "id": uuid.uuid4().hex,
        "umbel_version": __version__,
        "reproducible": options.reproducible,
        "ledgers": str((options.ledgers or path / "ledgers").resolve()),
    }
    with _stopped(path):
        return _simulate(
            job, path, identity, options.workers, options.engine, listener or Silent(), options.stop
        )


def resume(
    path: Path,
    workers: int | None = None,
    listener: Listener | None = None,
    expected: Job | None = None,
    engine: Engine = "inprocess",
    stop: threading.Event | None = None,
) -> RunFolder:
    """Go on with a run that stopped, from its last whole checkpoint, to the same result.

    `expected` is the job that the user believes it to be; another one is refused.
    """
    if not path.exists():
        raise RunFolderError(
            f"{path} does not exist, so there is no run to resume. Name its folder with --run-dir, or start "
            "a new run without --resume."
        )
    folder = RunFolder.open(path)
    if expected is not None and not _same_job(expected, folder.job):
        raise RunFolderError(
            f"{path} has another job than the one given. Resume it without naming a job, or start "
            "a new run without --resume."
        )
    if (path / "result.json").exists():
        raise RunFolderError(f"{path} is finished; there is nothing to resume.")
    identity = folder.read_json("run.json")
    if identity["umbel_version"] != __version__:
        raise RunFolderError(
            f"{path} was started with Umbel {identity['umbel_version']}, but this is {__version__}: "
            "finish it with that version, or start a new run."
        )
    with _stopped(path):
        return _simulate(
            folder.job, path, identity, workers, engine, listener or Silent(), stop, again=True
        )


@contextmanager
def _stopped(path: Path) -> Iterator[None]:
    """Say of a run that the user stops, in whatever phase, how it goes on."""
    try:
        yield
    except (KeyboardInterrupt, Interrupted) as stopped:
        if not (path / "job.toml").exists():
            raise Interrupted("Stopped before the run began: nothing was written.") from None
        said = str(stopped) or "Stopped. The finished rounds are kept."
        raise Interrupted(
            f"{said} Resume it with --resume --run-dir {path}, or in Python with "
            f"umbel.Run.open({str(path)!r}).resume()"
        ) from None


def _simulate(
    job: Job,
    path: Path,
    identity: dict[str, Any],
    workers: int | None,
    engine: Engine,
    listener: Listener,
    stop: threading.Event | None = None,
    again: bool = False,
) -> RunFolder:
    quiet_logs()
    if workers is not None and workers < 1:
        raise JobError(f"--workers {workers}: at least one process must run the clients.")
    open_grid = _grid_opener(engine)
    begun = time.monotonic()
    federation = federate(job, listener)
    listener.event(Holdings(**federation.holdings()))
    owners = path.resolve() / "owners"
    public = read_public(federation.job)
    ledgers = Path(identity["ledgers"])
    settings = SiteSettings(federation, ledgers, owners, identity["reproducible"], public)
    count = default_workers(len(federation.shares)) if workers is None else workers
    listener.started("model", 0)
    with start_workers(settings, count) as pool:
        shape, initial = pool.call("model")
        if _needs_padding(federation.job, shape):
            # Workers hold the job as it was; nothing is written yet.
            pool.close()
            return _simulate(job.padded(), path, identity, workers, engine, listener, stop, again)
        plan = _compiled(federation, shape)
        strategy = strategy_of(plan)
        _compute_features(federation, pool, listener)
        if again:
            folder = RunFolder.open(path)
        else:
            folder = RunFolder.create(path, federation.job)
            folder.write_json("run.json", identity)
        if not (folder.path / "plan.json").exists():
            folder.write_json("plan.json", plan.to_dict())
        if not folder.read_events():
            folder.append(federation.partition_event())
        note_public(folder, public)
        settings.ledgers.mkdir(parents=True, exist_ok=True)
        with open_grid(settings, count, pool) as grid, _interruptible(stop) as should_stop:
            run = Run(identity["id"], plan, grid, strategy, folder, initial)
            run.listener, run.should_stop = listener, should_stop
            if isinstance(grid, InProcessGrid):
                # Who is asked is then told the rounds that its own noise is made for from the start.
                run.nodes = {s.name: FIRST_NODE + n for n, s in enumerate(federation.shares)}
            if job.simulation.timed or plan.terms.asynchronous:
                run.pace = seconds_of(job, plan.by_name)
            if identity["reproducible"]:
                run.secrets = lambda what: reproducible_stream(job.seed, what)
            if public is not None:
                run.public_test = lambda arrays: pool.call("public_test", arrays)
            if job.encrypted:
                names = [share.name for share in federation.shares]
                run.sums = SecureSums(found(owners, names, job.encryption))
                run.owners_metrics = lambda round_: {
                    name: line["metrics"] for name, line in _own_lines(run, owners, round_)
                }
            if job.tests_privately:
                run.exact_metrics = lambda round_: _exact_metrics(run, owners, round_)
            if again:
                run.restore()
            folder.append(Prepared(round(time.monotonic() - begun, 3)))
            try:
                counts = run_rounds(run, buffered_round if plan.terms.asynchronous else None)
            except (KeyboardInterrupt, Interrupted):
                if run.round or again:
                    raise
                folder.take_back_latest()
                raise
        own = compare_own(run, pool)
        apart = _compare_apart(run, federation, pool)
        pool.call("export", run.arrays, folder.path / "adapter")
        if federation.samples:
            said = pool.call("answers", initial, run.arrays)
            folder.write_json(ANSWERS, {"answers": said}, secret=True)
    result = summarise(run, counts, apart, identity)
    conclude(folder, result | ({"own": own} if own else {}), run_key(folder.path))
    # Not before: a run that is killed until then is resumed, and tests with them.
    for share in federation.shares:
        own_states(owners, share.name).close(run.id)
    return folder


def _compute_features(federation: Federation, pool: Workers, listener: Listener) -> None:
    """What a head reads of all records, before there is a run: the longest part of many, and it can be left.

    Whatever is done stays in the cache. Agents would compute it when they get ready.
    """
    if federation.job.adapter != "head":
        return
    parts = [
        (share.name, side, len(rows))
        for share in federation.shares
        for side, rows in (("train", share.train), ("test", federation.tested[share.name]))
    ]
    listener.started("features", sum(size for *_, size in parts))
    done = 0

    def heard(count: int) -> None:
        nonlocal done
        done += count
        listener.advanced(done)

    pool.hear(heard)
    for name, side, _ in sorted(parts, key=lambda part: -part[2]):
        pool.submit(f"features {name} {side}", "features", name, side)
    left = len(parts)
    while left:
        for _, result in pool.collect():
            if isinstance(result, BaseException):
                raise result
            left -= 1
    pool.hear(lambda count: None)


def _own_lines(run: Run, owners: Path, round_: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """What each owner noted of its own test: a simulation may look, a server never sees it."""
    for name in run.plan.by_name:
        log = owner_log(owners, name)
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        for line in map(json.loads, reversed(lines)):
            if (line["run"], line["round"]) == (run.id, round_):
                yield name, line
                break


def _exact_metrics(run: Run, owners: Path, round_: int) -> dict[str, Any]:
    """Figures of all owners' records without the noise, from their own logs."""
    lines = _own_lines(run, owners, round_)
    job = run.plan.job
    found = {name: counts_from_list(job, line["counts"]) for name, line in lines}
    return own_figures(job, total(found)) if found else {}


GridOpener = Callable[[SiteSettings, int, Workers], AbstractContextManager[Grid]]
"""Takes the sites' settings, the number of processes and the workers; opens a grid of all clients."""


def _grid_opener(engine: Engine) -> GridOpener:
    """The one place where engines differ; one that is not installed raises before anything is done."""
    if engine == "ray":
        from .ray import ray_grid, require_ray

        require_ray()
        return lambda settings, count, _: ray_grid(settings, count)
    return lambda settings, _, pool: nullcontext(
        InProcessGrid(pool, len(settings.federation.shares))
    )


def _same_job(given: Job, recorded: Job) -> bool:
    """Labels that were found in the data, and the padding that the model needs, are in the recorded
    job, though not in the given one."""
    labels = given.data.labels or recorded.data.labels
    data = given.data.model_copy(update={"labels": labels})
    model = given.model.model_copy(update={"padding": recorded.model.padding})
    return given.model_copy(update={"data": data, "model": model}) == recorded


def _compare_apart(run: Run, federation: Federation, pool: Workers) -> dict[str, dict[str, Counts]]:
    """Counts of the yardsticks: each client alone (by its name), all data pooled ("")."""
    job = run.plan.job
    names = [share.name for share in federation.shares]
    wanted = {name: [name] for name in names} if job.simulation.alone else {}
    if job.simulation.pooled:
        wanted[""] = names
    if not wanted:
        return {}
    run.listener.started("compare", len(wanted))
    pool.forget()
    # The pooled run is the longest: first in the queue, so that no worker waits for it at the end.
    for key in sorted(wanted, key=lambda key: -len(wanted[key])):
        pool.submit(key, "train_apart", wanted[key], noise=key != "")
    found: dict[str, dict[str, Counts]] = {}
    begun = time.monotonic()
    while len(found) < len(wanted):
        for key, result in pool.collect():
            if key not in wanted:  # an answer that came after its round's deadline
                continue
            if isinstance(result, BaseException):
                raise result
            found[key] = {
                n: exact_counts_from_list(job.task, numbers) for n, numbers in result.items()
            }
            run.listener.advanced(len(found))
            run.folder.append(Compared(key, round(time.monotonic() - begun, 3)))
    return {key: found[key] for key in wanted}


@contextmanager
def _interruptible(stop: threading.Event | None) -> Iterator[Callable[[], bool]]:
    """Ctrl-C, or `stop`, lets the round in progress finish; a second Ctrl-C stops at once."""
    asked = stop or threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    usual = signal.getsignal(signal.SIGINT)

    def ask(number: int, frame: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, usual)
        sys.stderr.write("\nStopping after this round; Ctrl-C again stops at once.\n")

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, usual)
