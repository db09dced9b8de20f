"""umbel strategies: what there is to choose from, and what each would cost in a job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import completing
from .answers import Answer, answers
from .options import Set


@answers
def strategies(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Strategy to show in full [all].",
            show_default=False,
            autocompletion=completing.strategies,
        ),
    ] = None,
    job: Annotated[
        Path | None,
        typer.Option(
            help="Job file: also show the bytes of each in this job, and whether the job can use it.",
            show_default=False,
            autocompletion=completing.job_files,
        ),
    ] = None,
    set_: Set = [],  # noqa: B006
) -> Any:
    """Show the strategies: rule, what the server sees, what owners keep, bytes, and what it goes with."""
    from ..planning.suite import described
    from ..reports.strategies_table import strategies_table, strategy_facts
    from ..strategies import OURS

    rows = [described(one).to_dict() for one in ([name] if name else OURS)]
    if job is not None:
        from ..job import Job
        from ..reports.progress import Progress
        from ..simulations.suite import in_simulation

        with Progress() as progress:
            costs = in_simulation(
                Job.compose(job, {}, set_), [row["name"] for row in rows], progress
            )
        rows = [{**row, **vars(cost)} for row, cost in zip(rows, costs, strict=True)]
    if name:
        return Answer(rows[0], lambda: strategy_facts(rows[0]))
    return Answer(rows, lambda: strategies_table(rows))
