"""The command line's own commands: from a job file to the report of a finished run."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import typer.core

from .. import __version__
from ..errors import Interrupted, UmbelError, of_the_machine
from ..foreign import say
from ..tasks.spec import spec_of
from .answers import Answer, answers, show
from .completing import run_folders
from .group import command_group
from .options import (
    OF_THE_DATA,
    Asked,
    Encoding,
    Given,
    RunFolder,
    asks_for_a_job,
    asks_for_keys,
)

# Else "[required]" and "[default: ...]" stand in every --help with a backslash before them.
typer.core.HAS_RICH = False

app = command_group(
    "Federated fine-tuning of Hugging Face models, private by default.",
    "Start with: umbel init my-job.toml   or: umbel simulate --data my.csv",
    completes=True,
)


def main() -> None:
    """Entry point: errors that a person can act on are one paragraph, and exit with 2."""
    try:
        app(prog_name="umbel")  # also as python -m umbel.cli: completion goes by it
    except UmbelError as error:
        say(f"umbel: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        said = of_the_machine(error)
        if said is None:
            raise
        say(f"umbel: {said}", file=sys.stderr)
        sys.exit(2)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        say(f"umbel {__version__}")
        raise typer.Exit


@app.command()
@answers
@asks_for_keys("task", "model", *OF_THE_DATA)
def init(
    job: Annotated[Path, typer.Argument(help="Job file to write.")],
    given: Given,
) -> Any:
    """Write a commented job file; with --data, also what the file's columns and size suggest."""
    from ..job.reference import write_template

    seeming: dict[str, Any] = {}
    if "data.path" in given:
        from ..reports.progress import Progress

        with Progress() as progress:
            progress.started("columns", 0)  # the libraries that read them take seconds to load
            from ..simulations.first import settings

            seeming = _seeming_columns(given)
            given = {**given, **seeming}
            given = {**given, **settings(given, listener=progress)}
    write_template(job, given)
    say(f"Wrote {job}. Next: umbel plan {job}, then umbel simulate {job}")
    for key, name in seeming.items():
        say(
            f"  {key} = {name!r}: it seems to be this column. Change the file if it is another one."
        )
    return {"job": str(job), "seeming": seeming}


def _seeming_columns(given: Mapping[str, Any]) -> dict[str, Any]:
    """Columns that nobody named and the data do not have under their usual names; none if it is not clear."""
    from ..errors import DataError
    from ..job import Job
    from ..learning.reading.picture_files import holds_pictures
    from ..survey.survey import seeming_columns

    if holds_pictures(Path(given["data.path"])):
        return {}
    try:
        found = seeming_columns(Job.compose(None, given))
    except DataError:
        # The plan says what is wrong with the data.
        return {}
    return {key: name for key, name in found.items() if key not in given}


@app.command()
def schema(
    markdown: Annotated[
        bool, typer.Option(help="Print the job reference as Markdown instead.")
    ] = False,
) -> None:
    """Print the JSON Schema of job files."""
    from ..job import Job
    from ..job.reference import reference

    say(reference() if markdown else json.dumps(Job.model_json_schema(), indent=2))


@app.command()
@answers
@asks_for_a_job
def plan(
    asked: Asked,
    consortium: Annotated[
        Path | None,
        typer.Option(
            help="The operator's folder: refuse a job that may last longer than its roster.",
            show_default=False,
        ),
    ] = None,
) -> Any:
    """Show what a job will run, and its guarantee."""
    loaded = asked.job()
    if consortium is not None:
        from ..consortium.authority import Consortium
        from ..consortium.lasting import refuse_longer

        refuse_longer(Consortium.open(consortium), loaded)
    from ..api.plans import plan as plan_of

    planned = plan_of(loaded)
    return Answer(planned.values, planned.table)


@app.command()
@answers
@asks_for_a_job
def simulate(
    asked: Asked,
    run_dir: Annotated[
        Path | None,
        typer.Option(help="Where to write [runs/NAME-TIME].", autocompletion=run_folders),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the run in --run-dir [runs/latest].")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(help="Processes [one per GPU, else one per core].")
    ] = None,
    engine: Annotated[
        Literal["inprocess", "ray"],
        typer.Option(help="What runs the clients; ray is Flower's own.", show_default=False),
    ] = "inprocess",
    reproducible: Annotated[
        bool,
        typer.Option(
            "--reproducible", help="Seed the privacy noise too. Not private: for tests only."
        ),
    ] = False,
    ledgers: Annotated[
        Path | None,
        typer.Option(help="Folder of privacy ledgers shared by several runs [the run's]."),
    ] = None,
    audit: Annotated[
        bool, typer.Option("--audit", help="Attack the finished run: umbel audit.")
    ] = False,
) -> Any:
    """Run a federation on this machine.

    It runs the code that a deployment uses. Without a job file, --data is enough. Ctrl-C finishes
    the round in progress; --resume goes on from there.
    """
    from ..api.runs import Run
    from ..api.simulate import simulate as simulated

    if resume:
        expected = asked.job() if asked.anything else None
        run = Run(run_dir or Path("runs/latest")).resume(expected, workers=workers, engine=engine)
    else:
        run = simulated(
            asked.job(),
            run_dir=run_dir,
            workers=workers,
            engine=engine,
            reproducible=reproducible,
            ledgers=ledgers,
        )
    try:
        report = _reported(run.path)
    except KeyboardInterrupt:
        raise Interrupted(
            f"Stopped. The run is finished; its page is not. Write it with: umbel report {run.path}"
        ) from None
    if not audit:
        return report
    from .audit import attacked

    show(report.text)
    found = attacked(run.path)
    return Answer(report.values | {"audit": found.values}, found.text, found.status)


@app.command()
def predict(
    run: RunFolder,
    texts: Annotated[
        list[str] | None,
        typer.Argument(help="Texts, or files of pictures, to try.", show_default=False),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help="CSV, JSON, Excel or Parquet; a folder of pictures; or any file with one text per line."
        ),
    ] = None,
    text_column: Annotated[
        str | None, typer.Option(help="Column of --file with the text [the run's].")
    ] = None,
    encoding: Encoding = None,
    sheet: Annotated[
        str | None,
        typer.Option(
            help="Sheet of an Excel workbook [the first with the column].", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    tokens: Annotated[
        int, typer.Option(help="Tokens that a language model adds [40].", show_default=False)
    ] = 40,
) -> None:
    """Try the model of a finished run."""
    from ..learning.reading.layout import Layout
    from ..reports.predictions import prediction_line, predictions, read_texts
    from ..run.record import task_of, text_column_of

    layout = Layout(encoding, sheet=sheet)
    column = text_column or text_column_of(run)
    found = read_texts(texts or [], file, column, layout, spec_of(task_of(run)).reads)
    for note in found.notes:
        say(f"{file}: {note}", file=sys.stderr)
    from ..learning.predict import Predictor

    for asked, prediction in predictions(Predictor.load(run), found.asked, tokens):
        say(prediction_line(asked, prediction, as_json))


@app.command()
@answers
def merge(
    run: RunFolder,
    folder: Annotated[Path, typer.Argument(help="Folder to write; it must not exist.")],
) -> Any:
    """Write the base model with the adapter merged into it, for transformers alone."""
    from ..learning.merging import merge as merged

    record = merged(run, folder)
    say(f"Wrote {folder}. How to use it: {folder / 'README.md'}")
    return {"folder": str(folder), **record}


@app.command()
@answers
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.", autocompletion=run_folders)],
    out: Annotated[
        Path | None, typer.Option(help="File for the plot [beside the first run].")
    ] = None,
) -> Any:
    """Compare runs: a table and a plot."""
    from ..reports.compare import compare as compare_runs

    found = compare_runs(runs, out)
    return Answer(
        {"runs": [_values(run) for run in found.runs], "picture": str(found.picture)},
        (found.table, str(found.picture)),
    )


@app.command()
@answers
def report(run: RunFolder) -> Any:
    """Draw plots and report again, also while it runs."""
    return _reported(run)


def _mount() -> None:
    """The commands of a deployment: an operator's, a data owner's, and the rehearsal of both."""
    from .audit import audit
    from .client import client_app
    from .consortium import consortium_app
    from .data import data
    from .observer import observer_app
    from .owner import ledger_app
    from .record import record
    from .rehearsal import rehearse
    from .server import add_to
    from .sign import sign_app, take
    from .strategies import strategies
    from .verify import certify, verify

    app.add_typer(consortium_app, name="consortium")
    add_to(app)
    app.add_typer(sign_app, name="sign")
    app.command()(take)
    app.add_typer(observer_app, name="observer")
    app.add_typer(client_app, name="client")
    app.add_typer(ledger_app, name="ledger")
    app.command()(rehearse)
    app.command()(data)
    app.command()(strategies)
    app.command()(audit)
    app.command()(record)
    app.command()(verify)
    app.command()(certify)


_mount()


def _reported(path: Path) -> Answer:
    from ..reports.page import write_page
    from ..reports.plots import draw
    from ..reports.tables import result_table
    from ..run.record import RunRecord

    page = write_page(path, draw(path))
    values = _values(path) | {"page": str(page)}
    return Answer(values, lambda: result_table(RunRecord.read(path)))


def _values(path: Path) -> dict[str, Any]:
    """A run for programs: how it stands, and its result.json if it is finished."""
    from ..run.record import RunRecord

    record = RunRecord.read(path)
    return {"run": str(path), "state": record.state, "result": record.result}
