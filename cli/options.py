"""Options that several commands have, each written once.

Those that say what a job is are spread out from one parameter of a command: ``asks_for_a_job`` and
``asks_for_keys``. So commands that take a job list the same options, and hand them on alike.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ..errors import JobError
from ..learning.reading.picture_limits import LARGEST_PICTURE
from ..tasks.spec import BUILT_IN
from . import completing

if TYPE_CHECKING:
    from ..job import Job

Command = Callable[..., Any]

JobFile = Annotated[
    Path, typer.Argument(help="Job file (TOML).", autocompletion=completing.job_files)
]
Set = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a value, e.g. training.rounds=3.",
        autocompletion=completing.job_keys,
    ),
]
Encoding = Annotated[
    str | None,
    typer.Option(help="Encoding of the file, e.g. cp1252 [found].", show_default=False),
]
RunFolder = Annotated[
    Path,
    typer.Argument(help="Run folder, e.g. runs/latest.", autocompletion=completing.run_folders),
]
RunName = Annotated[
    str,
    typer.Argument(
        help="Name of a run, or its beginning.", autocompletion=completing.names_of_runs
    ),
]
AskedRun = Annotated[
    str,
    typer.Argument(
        help="The run's name or id, or its beginning.", autocompletion=completing.asked_runs
    ),
]
OwnersFolder = Annotated[
    Path,
    typer.Argument(
        help="The data owner's folder [the current one].",
        show_default=False,
        autocompletion=completing.owners_folders,
    ),
]
OperatorsFolder = Annotated[
    Path | None,
    typer.Option(
        "--consortium",
        help="The operator's folder [$UMBEL_CONSORTIUM, else this folder].",
        show_default=False,
        autocompletion=completing.operators_folders,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class _Key(NamedTuple):
    """An option that sets a key, of the job or of what an owner declares."""

    key: str
    kind: Any
    help: str
    flag: str | None = None
    """How it is typed, if not like its name."""
    values: Callable[[str], list[str]] | None = None
    """What a shell completes it with."""


_KEYS = {
    "task": _Key("task", str, f"{' or '.join(BUILT_IN)}.", values=completing.tasks),
    "model": _Key("model.base", str, "Base model: hub id, folder, or package:NAME/FOLDER."),
    "max_length": _Key("model.max_length", int, "Tokens at which texts are cut [64]."),
    "data": _Key(
        "data.path",
        str,
        "CSV, TSV, JSON, .xlsx, Parquet, also .gz and the like, or a Hugging Face dataset folder.",
    ),
    "text_column": _Key("data.text_column", str, "Column with the text [text]."),
    "answer_column": _Key(
        "data.answer_column", str, "Column with the answers to text_column [none]."
    ),
    "label_column": _Key("data.label_column", str, "Column with the class [label]."),
    "group_column": _Key("data.group_column", str, "Column of the person or document."),
    "encoding": _Key("data.encoding", str, "Encoding of the file, e.g. cp1252 [found]."),
    "sheet": _Key("data.sheet", str, "Sheet of an Excel workbook [the first with the columns]."),
    "clients": _Key("simulation.clients", int, "Virtual clients [4]."),
    "partition": _Key(
        "simulation.partition",
        str,
        "column:NAME, iid, dirichlet:ALPHA or shards:K [iid].",
        values=completing.partitions,
    ),
}
_DECLARED = {
    "text_column": _Key("text_column", str, 'Column with the text ["text", or the longest].'),
    "answer_column": _Key(
        "answer_column", str, "Column with the answer, if the text column holds questions [none]."
    ),
    "label_column": _Key("label_column", str, 'Column with the class ["label", if any].'),
    "label": _Key(
        "labels",
        list[str],
        "A class that jobs may learn; repeat for each one [those found].",
        "--label",
    ),
    "group_column": _Key(
        "group_column", str, "Column of the patient, customer or document [none]."
    ),
    "sheet": _Key("sheet", str, "Sheet of an Excel workbook [the first with the columns]."),
    "reads": _Key(
        "reads",
        str,
        'What the text column holds: "texts", "spans", "dialogues" or "pictures" [by the files].',
    ),
    "largest_picture": _Key(
        "largest_picture",
        int,
        f"Leave out pictures of more pixels than this [{LARGEST_PICTURE}].",
    ),
    "unit": _Key(
        "unit", str, 'The unit that is counted and protected: "record" or "group" [record].'
    ),
    "records_per_group": _Key(
        "records_per_group", int, "At most this many records of a group are used [8]."
    ),
    "training_share": _Key(
        "training_share", float, "Share of the data to train on [0.8; 1 with --test-data]."
    ),
    "smallest_size": _Key(
        "smallest_size",
        int,
        "Refuse all jobs while the published size is below this; 100 stands for any size up to 100, "
        "so 100 asks for more than 100 [any].",
    ),
}
OF_THE_DATA = ("data", "text_column", "answer_column", "label_column", "encoding", "sheet")
OF_A_JOB = ("task", "model", *OF_THE_DATA, "clients", "partition")

Given = Mapping[str, Any]
"""Values that the command line sets, by job key."""


@dataclass(frozen=True)
class Asked:
    """A job as the command line names it: a file, or data alone, and what is set beside it."""

    path: Path | None
    given: Given
    overrides: list[str]

    @property
    def anything(self) -> bool:
        """Whether a job is named at all."""
        return self.path is not None or bool(self.given)

    def job(self) -> Job:
        """Raises ``JobError``."""
        from ..job import Job

        if self.path is None and "data.path" not in self.given:
            raise JobError(
                "Name a job file, or data with --data FILE. To write a first job file: umbel init "
                "my-job.toml"
            )
        if self.path is None:
            from ..reports.progress import Progress

            with Progress() as progress:
                progress.started("data", 0)  # the libraries that read them take seconds to load
                from ..simulations.first import first_job

                return first_job(self.given, self.overrides, progress)
        return Job.compose(self.path, self.given, self.overrides)


def asks_for_keys(*names: str, **helps: str) -> Callable[[Command], Command]:
    """Give a command options that set keys of a job; together they are its parameter ``given``.

    helps: what an option says of itself in this command, if not what it says elsewhere.
    """
    table = {name: _KEYS[name]._replace(help=helps.get(name, _KEYS[name].help)) for name in names}
    return lambda command: _spread(command, "given", _options(table), partial(_given, table))


def flags_of(given: Given) -> list[str]:
    """How the options are typed that set these keys of a job."""
    names = {key.key: key.flag or f"--{name.replace('_', '-')}" for name, key in _KEYS.items()}
    return [names[key] for key in given]


def asks_for_declarations(*names: str) -> Callable[[Command], Command]:
    """Give a command options that say what may be asked of an owner's data: its parameter ``given``."""
    table = {name: _DECLARED[name] for name in names or _DECLARED}
    return lambda command: _spread(command, "given", _options(table), partial(_given, table))


def asks_for_a_job(command: Command) -> Command:
    """Give a command all that names a job, which comes to it as its parameter ``asked``."""
    table = {name: _KEYS[name] for name in OF_A_JOB}
    file = Annotated[
        Path | None,
        typer.Argument(
            help="Job file (TOML).", show_default=False, autocompletion=completing.job_files
        ),
    ]
    parameters = [parameter("job", file, None), *_options(table), parameter("set_", Set, [])]

    def gathered(values: dict[str, Any]) -> Asked:
        path, overrides = values.pop("job"), values.pop("set_")
        return Asked(path, _given(table, values), overrides)

    return _spread(command, "asked", parameters, gathered)


def _spread(
    command: Command,
    name: str,
    parameters: list[inspect.Parameter],
    gather: Callable[[dict[str, Any]], Any],
) -> Command:
    """`command` with `parameters` in place of its parameter `name`, which is what `gather` makes of them."""
    own = inspect.signature(command, eval_str=True)
    shown = [
        new
        for p in own.parameters.values()
        for new in (parameters if p.name == name else [parameter(p.name, p.annotation, p.default)])
    ]

    @functools.wraps(command)
    def spread_out(**values: Any) -> Any:
        gathered = gather({p.name: values.pop(p.name) for p in parameters})
        return command(**values, **{name: gathered})

    # Typer reads both; without the second it would look for the annotations of `command`.
    spread_out.__signature__ = own.replace(parameters=shown)  # type: ignore[attr-defined]
    spread_out.__annotations__ = {p.name: p.annotation for p in shown}
    return spread_out


def _options(table: Mapping[str, _Key]) -> list[inspect.Parameter]:
    return [
        parameter(
            name,
            Annotated[
                key.kind | None,
                typer.Option(
                    *filter(None, [key.flag]),
                    help=key.help,
                    show_default=False,
                    autocompletion=key.values,
                ),
            ],
            None,
        )
        for name, key in table.items()
    ]


def parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default
    )


def _given(table: Mapping[str, _Key], values: Mapping[str, Any]) -> Given:
    return {table[name].key: value for name, value in values.items() if value is not None}
