"""umbel data: what is in a file, before it is trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..foreign import console, say
from .options import Given, asks_for_keys


@asks_for_keys(
    "task",
    "text_column",
    "label_column",
    "encoding",
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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
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
    if as_json:
        values = found.to_dict() | {
            "warnings": warnings(found),
            "advice": [vars(one) for one in advice(found)],
        }
        say(json.dumps(values, indent=2))
    else:
        console(highlight=False).print(survey_table(found))
