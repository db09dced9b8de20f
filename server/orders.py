"""What an operator asks of its server: runs begun, watched, stopped and gone on with.

The operator's commands and the server meet in the consortium's folder, so whoever may write there
may start runs; data owners believe only what the operator's key has signed.
"""

from __future__ import annotations

import uuid

from .. import __version__
from ..consortium import sign_job
from ..errors import JobError, PlanRefused, RunFolderError
from ..job import Job
from ..limits import keeps_to
from ..refusals import job_refusals, refused
from .consortium import Consortium
from .holdout import public_corpus
from .run_folder import RunFolder
from .store import RunRow, Store

WAIT_SECONDS = 600.0
"""How long a run waits for members that are away or have not decided, before it goes without them."""


def place(
    consortium: Consortium,
    job: Job,
    *,
    wait: float = WAIT_SECONDS,
    reproducible: bool = False,
    name: str | None = None,
) -> RunFolder:
    """Sign a job and queue it; the folder of its run. Nothing is written for a job that cannot be."""
    if job.task == "text-classification" and not job.data.labels:
        raise JobError(
            "data.labels is missing: between machines nobody sees all data, so the job has to name "
            'the classes, in order, such as data.labels = ["negative", "positive"]'
        )
    if job.encrypted and not keeps_to(job.encryption, consortium.limits):
        raise PlanRefused(
            "The job's [encryption] is not what this consortium's members insist on "
            f"({consortium.limits}). Change the job, or make a consortium with: umbel consortium "
            "create FOLDER --job JOB"
        )
    if reasons := job_refusals(job):
        raise refused(reasons)
    public_corpus(job)
    # Late: stopping a run needs no model.
    from ..learning.base import pinned
    from ..learning.probe import fitted

    # Owners are told which files they are, and compare that before they look into them.
    job = fitted(pinned(job))
    run_id = uuid.uuid4().hex
    path = consortium.runs / name if name else None
    folder = RunFolder.create(RunFolder.free_path(path, job, consortium.runs), job)
    # What was signed is what is sent: the job as it stands in the folder.
    signature = sign_job(consortium.operator, consortium.card.id, run_id, folder.job.to_json())
    folder.write_json(
        "run.json",
        {
            "id": run_id,
            "umbel_version": __version__,
            "reproducible": reproducible,
            "signature": signature,
            "wait": wait,
        },
    )
    Store(consortium.database).add(folder.path.name, run_id, job.training.rounds)
    return folder


def stop(consortium: Consortium, name: str) -> RunRow:
    """Let a run end after the round in progress."""
    store = Store(consortium.database)
    run = store.run(name)
    if not store.change(run.name, ("queued", "running"), "stopping"):
        raise RunFolderError(f"{run.name} is not running: it is {run.status}.")
    return store.run(run.name)


def resume(consortium: Consortium, name: str) -> RunRow:
    """Queue a run that was stopped or has failed; it goes on after its last finished round."""
    store = Store(consortium.database)
    run = store.run(name)
    version = RunFolder.open(consortium.runs / run.name).read_json("run.json")["umbel_version"]
    if version != __version__:
        raise RunFolderError(
            f"{run.name} was begun with Umbel {version}, this is {__version__}: finish it with that "
            "version, or start anew."
        )
    if not store.change(run.name, ("stopped", "failed"), "queued"):
        raise RunFolderError(f"{run.name} cannot go on: it is {run.status}.")
    return store.run(run.name)
