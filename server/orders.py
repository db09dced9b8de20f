"""What an operator asks of its server: runs begun, watched, stopped and gone on with.

The operator's commands and the server meet in the consortium's folder, so whoever may write there
may start runs; data owners believe only what the operator's key has signed.
"""

from __future__ import annotations

import time
from pathlib import Path

from .. import __version__
from ..consortium.authority import Consortium
from ..consortium.card import Card
from ..consortium.lasting import refuse_longer
from ..consortium.packets import SignedJob
from ..consortium.rotation import follow
from ..consortium.warrants import joined, longest_seconds, parted
from ..errors import ConsortiumError, FileError, PlanRefused, RunFolderError
from ..foreign import typed
from ..job import Job
from ..planning.terms import Terms
from ..privacy.secagg.signed import Signed, day
from ..run.run_folder import RunFolder
from ..run.store import RunRow, Status, Store
from .rosters import Rosters
from .signing import checked_order, sign_order, signed_order

WAIT_SECONDS = 600.0
"""How long a run waits until it has as many members as it needs, and for owners that have not decided."""
GRACE_SECONDS = 60.0
"""How long it waits, once it has as many as it needs, for members that are not connected."""


def place(
    consortium: Consortium,
    job: Job,
    *,
    wait: float | None = None,
    reproducible: bool = False,
    name: str | None = None,
) -> RunFolder:
    """Sign a job and queue it; the folder of its run. Nothing is written for a job that cannot be.

    wait: seconds in which every member is waited for; by default those that are away only for a short
    time, once there are as many as the job needs.
    """
    consortium.check_serves()
    return begin(consortium, sign_order(consortium, job), wait, reproducible, name)


def begin(
    consortium: Consortium,
    order: SignedJob,
    wait: float | None = None,
    reproducible: bool = False,
    name: str | None = None,
) -> RunFolder:
    """Queue a run that the operator ordered, here or elsewhere; its folder.

    An order for a run that is here already takes the place of the one before it.
    """
    consortium.check_serves()
    follow(consortium, order.handovers)
    order = checked_order(consortium, order)
    job, store = order.built, Store(consortium.database)
    for run in store.runs():
        if run.id == order.run:
            folder = RunFolder.open(consortium.runs / run.name)
            if folder.job.to_json() != job.to_json():
                raise PlanRefused(f"{run.name} is a run of another job.")
            _check_later(folder, order, run.name)
            _go_by(folder, order, consortium.card)
            return folder
    refuse_longer(consortium, job)
    path = consortium.runs / name if name else _free_place(consortium.runs, order.run)
    folder = RunFolder.create(RunFolder.free_path(path, job, consortium.runs), job)
    folder.write_json(
        "run.json",
        {
            "id": order.run,
            "umbel_version": __version__,
            "reproducible": reproducible,
            "signature": joined(order.order, consortium.card.handovers),
            "delegation": order.delegation,
            "wait": WAIT_SECONDS if wait is None else wait,
            "grace": GRACE_SECONDS if wait is None else wait,
        },
    )
    store.add(folder.path.name, order.run, job.training.rounds)
    return folder


def _check_later(folder: RunFolder, order: SignedJob, name: str) -> None:
    """Refuse an order that its signer made before the one that is here: who carries it may have kept it."""
    before = Signed.from_hex(parted(folder.read_json("run.json")["signature"])[0])
    if Signed.from_hex(order.order).said.counter < before.said.counter:
        raise PlanRefused(f"{name} already has an order that was signed later than this one.")


def _free_place(runs: Path, id_: str) -> Path:
    """Where a run's folder goes: its name is the beginning of what owners know the run by."""
    short = runs / id_.rpartition("-")[0]
    return runs / id_ if short.exists() else short


def _go_by(folder: RunFolder, order: SignedJob, card: Card) -> None:
    signature = joined(order.order, card.handovers)
    signed = {"signature": signature, "delegation": order.delegation}
    folder.write_json("run.json", folder.read_json("run.json") | signed)


def renew_order(consortium: Consortium, run: RunRow) -> None:
    """Sign the order of a run again if it has ended, ends soon, or was signed with a replaced key.

    Raises ``PlanRefused`` if it does not hold any more, and the operator's key is elsewhere.
    """
    folder = RunFolder.open(consortium.runs / run.name)
    identity = folder.read_json("run.json")
    if not identity.get("signature"):
        return
    given, handovers = parted(identity["signature"])
    signed, card = Signed.from_hex(given), consortium.card
    ends, same = signed.said.expires, signed.is_by(card.operator_key_bytes)
    if same and time.time() + longest_seconds(folder.job) < ends:
        if handovers != card.handovers:
            folder.write_json("run.json", identity | {"signature": joined(given, card.handovers)})
        return
    try:
        order = signed_order(consortium, folder.job, run.id)
    except (ConsortiumError, FileError):
        if same and time.time() < ends:
            return
        why = f"ended on {day(ends)}" if same else "was signed with a replaced key"
        raise PlanRefused(
            f"The operator's order for {run.name} {why}. Sign it again on the machine with "
            "the operator's key, and take it here: umbel sign job FOLDER JOB.signed, umbel take JOB.signed"
        ) from None
    _go_by(folder, order, consortium.card)


def stop(consortium: Consortium, name: str, *, is_led: bool = True) -> RunRow:
    """Let a run end after the round in progress; at once, if no server runs that could lead one."""
    store = Store(consortium.database)
    run = store.run(name)
    after: Status = "stopping" if is_led else "stopped"
    if not store.change(run.name, ("queued", "running", *(() if is_led else ("stopping",))), after):
        raise RunFolderError(f"{run.name} is not running: it is {run.status}.")
    return store.run(run.name)


def finish(consortium: Consortium, name: str) -> RunRow:
    """Let the last summed model of a run be its result, after the round in progress."""
    store = Store(consortium.database)
    run = store.run(name)
    if run.status in ("finished", "delivering"):
        raise RunFolderError(f"{run.name} is finished: see {consortium.runs / run.name}")
    if not run.round:
        raise RunFolderError(
            f"{run.name} has no model yet: no round was summed. End it with: umbel stop {run.name}"
        )
    _check_version(consortium, run)
    renew_order(consortium, run)
    begun: tuple[Status, ...] = ("queued", "running", "stopping", "stopped", "failed")
    store.change(run.name, begun, "finishing")
    return store.run(run.name)


def deliver(consortium: Consortium, name: str) -> RunRow:
    """Send the result of a finished run to the owners that have not got it yet."""
    store = Store(consortium.database)
    run = store.run(name)
    if run.status != "finished":
        raise RunFolderError(f"{run.name} has no result to send: it is {run.standing}.")
    if not (consortium.runs / run.name / "certificate.json").is_file():
        raise RunFolderError(
            f"{run.name} has no certificate yet: umbel certify {typed(consortium.runs / run.name)} "
            f"--consortium {typed(consortium.path)}"
        )
    renew_order(consortium, run)
    store.set_status(run.name, "delivering", run.reason)
    return store.run(run.name)


def resume(consortium: Consortium, name: str) -> RunRow:
    """Queue a run that was stopped or has failed; it goes on after its last finished round."""
    store = Store(consortium.database)
    run = store.run(name)
    _check_version(consortium, run)
    if run.status in ("stopped", "failed"):
        renew_order(consortium, run)
    if not store.change(run.name, ("stopped", "failed"), "queued"):
        raise RunFolderError(f"{run.name} cannot be resumed: it is {run.status}.")
    return store.run(run.name)


def consequences(consortium: Consortium, name: str) -> list[str]:
    """What removing a member means for the runs that are not over: a sentence for each of them."""
    found = []
    members = len(consortium.members()) - 1
    for run in Store(consortium.database).runs():
        path = consortium.runs / run.name
        over = run.over or run.status == "delivering"
        if over or not (path / "job.toml").is_file():
            continue
        folder = RunFolder.open(path)
        periods = Rosters(folder, consortium).periods
        if periods and name not in periods[-1].clients:
            continue
        left = len(periods[-1].clients) - 1 if periods else members
        terms = Terms(folder.job, members)
        needed = terms.fewest_answers(terms.cohort_size(left))
        found.append(
            f"{run.name} (round {run.round} of {run.rounds}) " + _goes_on(run, left, needed)
        )
    return found


def _goes_on(run: RunRow, left: int, needed: int) -> str:
    if left < needed:
        return (
            f"cannot continue with the remaining {left} clients, because a round needs {needed}: "
            + ("it ends early, with its last summed model." if run.round else "it will fail.")
        )
    return (
        "continues without it, under a new roster, after the round in progress: then a round "
        f"needs {needed} of {left} clients. If the round in progress cannot be finished without "
        "it, the others train it again."
    )


def _check_version(consortium: Consortium, run: RunRow) -> None:
    version = RunFolder.open(consortium.runs / run.name).read_json("run.json")["umbel_version"]
    if version != __version__:
        raise RunFolderError(
            f"{run.name} was started with Umbel {version}, but this is {__version__}: finish it with "
            "that version, or start a new run."
        )
