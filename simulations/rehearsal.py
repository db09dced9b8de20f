"""`umbel rehearse`: a deployment on this machine, with real processes, TLS and keys.

Every owner gets a folder, keys, a policy and its own share of the data as a file; the server and the
agents are the processes that would run at a consortium. Noise is seeded, so that the result can be
held against a simulation of the same job: it is the same adapter, bit for bit.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..client.home import Home
from ..client.policy import Policy
from ..client.settings import DataSettings
from ..consortium.authority import Consortium
from ..errors import DeploymentError
from ..job import Job
from ..learning.base_model import pinned
from ..learning.data import Corpus, load_corpus
from ..learning.reading.picture_limits import MOST_PIXELS
from ..learning.spans import marked
from ..planning.limits import secure_limits
from ..privacy.secagg.roster import Limits
from ..run.run_folder import RunFolder
from ..run.store import RunRow, Store
from ..server.orders import place
from ..storage import processes
from ..storage.cache import cache_root
from ..storage.files import write_durably
from ..storage.logs import opened
from ..storage.processes import end, free_port, orderly
from .federation import Federation, federate
from .partition import Share, parse_scheme

_POLL_SECONDS = 0.2
_WAIT_SECONDS = 180.0


@dataclass(frozen=True)
class Stage:
    """A consortium with its owners on this machine, ready to be started."""

    job: Job
    consortium: Consortium
    owners: tuple[Home, ...]

    def server(self) -> list[str]:
        """The operator's command."""
        return _umbel("server", "--consortium", str(self.consortium.path), "--host", "127.0.0.1")

    def agent(self, owner: Home) -> list[str]:
        """A data owner's command."""
        return _umbel("client", "run", str(owner.path), "--rehearsal")

    def place(self, **named: Any) -> RunFolder:
        """Give the server the job, as ``umbel run`` does."""
        named = {"wait": _WAIT_SECONDS, "reproducible": True, **named}
        return place(self.consortium, self.job, **named)


def set_up(job: Job, folder: Path) -> Stage:
    """Found a consortium below `folder`, and admit an owner for each virtual client of the job."""
    federation = federate(job)
    corpus = load_corpus(job.data, job.task, parse_scheme(job.simulation.partition).column)
    limits = secure_limits(job.encryption) if job.encrypted else Limits()
    consortium = Consortium.create(
        folder / "consortium", "127.0.0.1", free_port(), limits, "rehearsal", rehearsal=True
    )
    owners = tuple(
        _owner(federation, corpus, share, folder, consortium) for share in federation.shares
    )
    return Stage(pinned(federation.job), consortium, owners)


def rehearse(
    job: Job, folder: Path, tell: Callable[[str], None] = lambda _: None
) -> tuple[RunFolder, dict[str, Any]]:
    """Run a job through real processes on this machine; its run folder, and its result.

    Raises ``DeploymentError`` if the run did not come to its end.
    """
    tell("making keys, certificates and folders")
    stage = set_up(job, folder)
    run = stage.place()
    with running([stage.server(), *(stage.agent(owner) for owner in stage.owners)], folder):
        row = wait_for(stage, run.path.name, tell)
    if row.status != "finished":
        raise DeploymentError(
            f"The rehearsal {row.status}: {row.reason} See {run.path / 'log'} and {folder}."
        )
    return run, run.read_json("result.json")


def wait_for(
    stage: Stage, name: str, tell: Callable[[str], None] = lambda _: None, seconds: float = 3600.0
) -> RunRow:
    """Wait until a run is over."""
    store, seen = Store(stage.consortium.database), 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for number, _, event in store.events(name, seen):
            seen = number
            if event["event"] in ("ready", "round", "evaluation", "holdout"):
                what = {"ready": "clients ready", "round": f"round {event.get('round')}"}
                tell(f"{what.get(event['event'], 'tested')}: {event['seconds']:.1f} s")
        row = store.run(name)
        if row.over:
            return row
        time.sleep(_POLL_SECONDS)
    raise DeploymentError(f"{name} is not over after {seconds:.0f} s")


@contextlib.contextmanager
def running(commands: Sequence[list[str]], folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that live as long as the block; what they print goes to `folder`/process-N.log."""
    started: list[subprocess.Popen[bytes]] = []
    with orderly():
        try:
            for number, command in enumerate(commands):
                started.append(start(command, folder / f"process-{number}.log"))
            yield started
        finally:
            end(started, 20.0)


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """A process of a rehearsal."""
    with opened(log) as file:
        # One person is every owner, so what was computed once serves all.
        return processes.start(command, log=file, environment={"UMBEL_CACHE": str(cache_root())})


def _owner(
    federation: Federation, corpus: Corpus, share: Share, folder: Path, consortium: Consortium
) -> Home:
    job = federation.job
    files = folder / "data"
    files.mkdir(parents=True, exist_ok=True)
    rows = [share.train, share.test]
    data, test = files / f"{share.name}.parquet", None
    if corpus.held_out is None:
        # In this order, anyone who splits the rows again gets each side in its order.
        _write(data, job, corpus, np.concatenate(rows))
    else:
        _write(data, job, corpus, rows[0])
        test = files / f"{share.name}-test.parquet"
        _write(test, job, corpus, rows[1])
    home = Home.create(
        folder / "owners" / share.name,
        consortium.path / "consortium.json",
        data.resolve(),
        declared=_declared(federation, data, test),
    )
    place = [each.name for each in federation.shares].index(share.name)
    _write_policy(home.policy, job, job.simulation.rank_of(place))
    consortium.admit(home.request)
    return home


def _declared(federation: Federation, data: Path, test: Path | None) -> DataSettings:
    """What a simulation of the job takes for declared: its own keys."""
    job = federation.job
    return DataSettings(
        path=str(data.resolve()),
        test_path=str(test.resolve()) if test else None,
        training_share=federation.training_share,
        reads=job.kind.reads,
        largest_picture=MOST_PIXELS,
        text_column=job.data.text_column,
        label_column=job.data.label_column if job.data.labels else None,
        labels=list(job.data.labels) if job.data.labels else None,
        group_column=job.data.group_column,
        unit="group" if job.per_group else "record",
        records_per_group=job.data.records_per_group,
        smallest_size=1,
    )


def _write(path: Path, job: Job, corpus: Corpus, rows: np.ndarray) -> None:
    """One owner's rows, in this order, under the columns that the job names."""
    import pyarrow as pa
    from pyarrow import parquet

    columns: dict[str, list[str]] = {job.data.text_column: [corpus.texts[row] for row in rows]}
    if job.kind.reads == "spans":
        found = [marked(corpus.texts[row]) for row in rows]
        columns[job.data.text_column] = [one.text for one in found]
        columns[job.data.label_column or "label"] = [json.dumps(one.spans) for one in found]
    if corpus.labels is not None:
        names = corpus.label_names
        columns[job.data.label_column or "label"] = [names[corpus.labels[row]] for row in rows]
    if corpus.groups is not None and job.data.group_column:
        columns[job.data.group_column] = [corpus.groups[row] for row in rows]
    content = io.BytesIO()
    parquet.write_table(pa.table(columns), content)
    write_durably(path, content.getvalue())


def _write_policy(path: Path, job: Job, own_rank: int) -> None:
    """Here one person is every owner, as in a simulation; one thread, as a simulated owner has."""
    import tomli_w

    policy = Policy.simulated(job, own_rank).model_dump(mode="json")
    policy["resources"] |= {"threads": 1, "device": job.training.device}
    write_durably(path, tomli_w.dumps(policy).encode())


def _umbel(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "umbel.cli", *arguments]
