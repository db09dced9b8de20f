"""umbel data: what is in a file, before it is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .answers import Answer, answers
from .options import Given, asks_for_keys


@answers
@asks_for_keys(
    "task",
    "text_column",
    "label_column",
    "encoding",
    "sheet",
    "group_column",
    "model",
    "max_length",
    text_column="Column with the text [found].",
    label_column="Column with the class [found].",
    model="Base model whose tokens are counted.",
)
def data(
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV, TSV, JSON, Excel, Parquet, also compressed, or a dataset folder."
        ),
    ],
    given: Given,
) -> Any:
    """Look at a file before training: rows, classes, copies, lengths, and what to set.

    Nothing is changed or sent, and no text is shown.
    """
    from ..job import Job
    from ..reports.progress import Progress
    from ..survey.advice import advice, warnings
    from ..survey.show import survey_table
    from ..survey.survey import survey

    job = Job.compose(None, {"data.path": str(file), **given})
    with Progress() as progress:
        progress.started("data", 0)
        found = survey(job)
    values = found.to_dict() | {
        "warnings": warnings(found),
        "advice": [vars(one) for one in advice(found)],
    }
    return Answer(values, lambda: survey_table(found))
