"""A whole federation on this machine, from Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .runs import Run
from .sources import as_job

if TYPE_CHECKING:
    import threading

    from ..simulations.engine import Engine


def simulate(
    source: Any,
    *,
    run_dir: str | Path | None = None,
    workers: int | None = None,
    engine: Engine = "inprocess",
    reproducible: bool = False,
    ledgers: str | Path | None = None,
    progress: bool = True,
    stop: threading.Event | None = None,
    **sections: Any,
) -> Run:
    """Run a federation on this machine, with the code that a deployment uses, and return the run.

    source: a ``Job``, a job file (.toml), a data file, or a table in memory (pandas, polars, pyarrow,
    ``datasets``, a list of records, a mapping of columns).
    sections: changes to the job: ``training={"rounds": 3}``, or dotted keys.
    run_dir: folder to write; runs/NAME-TIME by default.
    workers: processes; one per GPU, else one per core.
    reproducible: seed the privacy noise too. Not private: for tests only.
    ledgers: folder of privacy ledgers that several runs share; by default the run has its own.
    stop: when it is set, also by another thread, the run ends after its round in progress with
    ``Interrupted``; ``Run.open(path).resume()`` continues. Ctrl-C in the main thread does the same.

    Raises ``UmbelError``: a job that cannot work is refused before anything is written.
    """
    from ..simulations import engine as engines
    from .progress import shown

    options = engines.Options(
        Path(run_dir) if run_dir is not None else None,
        workers,
        engine,
        reproducible,
        Path(ledgers) if ledgers is not None else None,
        stop,
    )
    with shown(progress) as listener:
        job = as_job(source, sections, listener)
        folder = engines.simulate(job, options, listener)
    return Run(folder.path.resolve())
