"""umbel data: what is in a file, before it is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import JobError
from ..quantities import verb
from .answers import Answer, answers
from .options import Given, asks_for_keys, flags_of

if TYPE_CHECKING:
    from ..survey.advice import Advice


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
            help="CSV, TSV, JSON, Excel, Parquet, also compressed, a dataset folder, or pictures."
        ),
    ],
    given: Given,
) -> Any:
    """Look at a file before training: rows, classes, copies, lengths, and what to set.

    Nothing is changed or sent, and no text is shown. Of pictures (a folder or a .zip): classes, sizes,
    copies, and which cannot be read; they need no option.
    """
    from ..job import Job
    from ..learning.reading.picture_files import holds_pictures
    from ..reports.progress import Progress
    from ..survey.advice import advice, warnings
    from ..survey.show import survey_table
    from ..survey.survey import survey

    if holds_pictures(file):
        return _pictures(file, given)
    job = Job.compose(None, {"data.path": str(file), **given})
    with Progress() as progress:
        progress.started("data", 0)
        found = survey(job, lambda stage: progress.started(stage, 0))
    said = _said(found.to_dict(), warnings(found), advice(found))
    return Answer(said, lambda: survey_table(found))


def _said(found: dict[str, Any], warnings: list[str], advice: list[Advice]) -> dict[str, Any]:
    """A survey's values with what to look at again, and what to set."""
    return found | {"warnings": warnings, "advice": [vars(one) for one in advice]}


def _pictures(folder: Path, given: Given) -> Answer:
    from ..reports.progress import Progress
    from ..survey.picture_advice import picture_advice, picture_table, picture_warnings
    from ..survey.pictures import survey_pictures
    from ..tasks.spec import spec_of

    idle = dict(given)
    if "task" in idle and spec_of(str(idle["task"])).reads == "pictures":
        del idle["task"]
    if idle:
        options, say = " and ".join(flags_of(idle)), verb(len(idle), "says", "say")
        raise JobError(
            f"{folder} holds pictures, of which {options} {say} nothing: their classes are the names of "
            f"folders, and no text is read. Leave out {options}."
        )
    with Progress() as progress:
        progress.started("data", 0)
        found = survey_pictures(folder)
    said = _said(found.to_dict(), picture_warnings(found), picture_advice(found))
    return Answer(said, lambda: picture_table(found))
