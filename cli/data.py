"""umbel data: what is in a file, before it is trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..foreign import console, say
from ..tasks.spec import BUILT_IN


def data(
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV, TSV, JSON, Excel, Parquet, also compressed, or a dataset folder."
        ),
    ],
    task: Annotated[str | None, typer.Option(help=f"{' or '.join(BUILT_IN)}.")] = None,
    text_column: Annotated[
        str | None, typer.Option(help="Column with the text [found].", show_default=False)
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Column with the class [found].", show_default=False)
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(help="Encoding of the file, e.g. cp1252 [found].", show_default=False),
    ] = None,
    group_column: Annotated[
        str | None,
        typer.Option(help="Column of the person or document.", show_default=False),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Base model whose tokens are counted.", show_default=False)
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens at which texts are cut [64].", show_default=False)
    ] = None,
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

    given = {
        "data.path": str(file),
        "task": task,
        "data.text_column": text_column,
        "data.label_column": label_column,
        "data.group_column": group_column,
        "data.encoding": encoding,
        "model.base": model,
        "model.max_length": max_length,
    }
    job = Job.compose(None, {key: value for key, value in given.items() if value is not None}, [])
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
