"""`umbel record`: a record of processing, for anyone who answers for the data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .answers import Answer, answers
from .completing import runs_and_jobs

if TYPE_CHECKING:
    from ..reports.processing import ProcessingRecord


@answers
def record(
    source: Annotated[
        Path,
        typer.Argument(
            help="Run folder, or job file (TOML).",
            metavar="RUN_OR_JOB",
            show_default=False,
            autocompletion=runs_and_jobs,
        ),
    ],
    owner: Annotated[
        str, typer.Option(help="Only this client [all].", metavar="NAME", show_default=False)
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write into [the run's, or the current one].", show_default=False
        ),
    ] = None,
) -> Any:
    """Draw up the record of processing of a run or a planned job, as a page and a PDF to print.

    Purpose, data, recipients, measures, guarantee (exactly and in plain words), retention. What Umbel does
    not know is an empty line to be filled in. At an owner: umbel client record.
    """
    from ..reports.planned_processing import of_plan
    from ..run.record import RunRecord
    from ..run.run_folder import RunFolder

    if source.suffix == ".toml":
        from ..api.plans import plan

        planned = plan(source)
        found = of_plan(planned.job, planned.values, owner)
        return written(found, out or Path(), f"{source.stem}.record")
    run = RunRecord.read(source)
    found = of_plan(RunFolder(source).job, run.plan, owner, run)
    return written(found, out or source, "record")


def written(record: ProcessingRecord, folder: Path, stem: str) -> Answer:
    """Write the record, and say where it lies and what is left to do."""
    from ..reports.processing_page import write_record

    files = write_record(record, folder, stem)
    todo = f"{record.blanks} lines are empty: fill them in by hand, and sign the record."
    values = record.to_dict() | {"files": list(map(str, files))}
    return Answer(values, [*map(str, files), todo])
