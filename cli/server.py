"""The operator's commands on a server and its runs: one small function a command."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConsortiumError
from ..foreign import say, typed
from .answers import Answer, answers
from .options import Command, JobFile, OperatorsFolder, RunName, Set

if TYPE_CHECKING:
    from ..consortium.authority import Consortium
    from ..job import Job


def add_to(app: typer.Typer) -> None:
    """Mount the commands."""
    plain: list[Command] = [server, window]
    answering: list[Command] = [run, runs, status, stop, finish, resume, deliver]
    for command in (*plain, *map(answers, answering), logs):
        app.command()(command)


def server(
    consortium: OperatorsFolder = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65534, help="Public port [that of the consortium].", show_default=False
        ),
    ] = None,
) -> None:
    """Run the coordination server: leads runs, lets the members' agents in. Ctrl-C ends it.

    Runs in progress go on when it is started again.
    """
    folder = opened(consortium)
    from ..server.supervisor import Supervisor
    from ..storage.processes import end_with_parent, log_to_stderr

    end_with_parent()
    log_to_stderr()
    supervisor = Supervisor(folder, host, port)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.stop())
    supervisor.run()


def window(
    consortium: OperatorsFolder = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port for observers.")] = 9444,
) -> None:
    """Let observers read how runs stand (umbel consortium observer), over a port of its own."""
    folder = opened(consortium)
    from ..server.window import Window
    from ..storage.processes import end_with_parent

    end_with_parent()
    with Window(folder, host, port) as found, contextlib.suppress(KeyboardInterrupt):
        say(f"Observers of {folder.card.name} read on port {port}.", flush=True)
        found.serve_forever()


def run(
    job: JobFile,
    consortium: OperatorsFolder = None,
    set_: Set = [],  # noqa: B006
    wait: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Seconds to wait for each member [600 until there are as many as the job needs, and for "
            "those that have not decided; then 60 for those that are away].",
            show_default=False,
        ),
    ] = None,
    reproducible: Annotated[bool, typer.Option("--reproducible", hidden=True)] = False,
) -> Any:
    """Sign a job and give it to the server, which asks the members and leads its rounds."""
    from ..consortium.packets import is_packet
    from ..job import Job
    from ..server.orders import place

    if is_packet(job):
        raise ConsortiumError(
            f"{job} is not a job file. If umbel sign wrote it: umbel take {typed(job)}"
        )
    where, wanted = opened(consortium), Job.compose(job, {}, set_)
    warn_of_refusals(where, wanted)
    folder = place(
        where,
        wanted,
        wait=wait,
        reproducible=reproducible,
    )
    say(f"{folder.path.name}\nWatch it with: umbel logs {folder.path.name} --follow")
    warn_if_unserved(where)
    return {"run": folder.path.name, "folder": str(folder.path)}


def runs(consortium: OperatorsFolder = None) -> Any:
    """List all runs of a consortium."""
    from dataclasses import asdict

    from ..clock import local
    from ..reports.status import served, server_lines, standing
    from ..run.store import Store

    folder = opened(consortium)
    store = Store(folder.database)
    rows, is_served = store.runs(), served(folder)
    for line in server_lines(folder, store):
        say(line)
    for row in rows:
        came = f"round {row.round} of {row.rounds}"
        say(f"{row.name:<40} {standing(row, is_served):<18} {came}  {local(row.created)}")
    if not rows:
        say("No run yet. Start one with: umbel run my-job.toml")
    return [asdict(row) for row in rows]


def status(name: RunName, consortium: OperatorsFolder = None) -> Any:
    """How a run stands: rounds, who answered, who did not and why."""
    from dataclasses import asdict

    from ..reports.status import served, server_lines, status_lines
    from ..run.store import Store

    folder = opened(consortium)
    store = Store(folder.database)
    row = store.run(name)
    events = [event for _, _, event in store.events(row.name)]
    notes = {what: text for what, (_, text) in store.notes().items()}
    found = {**asdict(row), "served": served(folder), "server": notes, "events": events}
    return Answer(found, lambda: (*server_lines(folder, store), *status_lines(folder, store, row)))


def logs(
    name: RunName,
    consortium: OperatorsFolder = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow until the run is over.")
    ] = False,
) -> None:
    """Print what a run's coordinator wrote."""
    from ..reports.status import served, unserved_line, waits_for
    from ..run.store import Store

    folder = opened(consortium)
    store = Store(folder.database)
    row = store.run(name)
    path, at = folder.runs / row.name / "log", 0
    if not row.over and not served(folder):
        say(unserved_line(folder), file=sys.stderr)
    elif not path.exists():
        say(waits_for(store, row) or f"{row.name} has not started yet.", file=sys.stderr)
    while True:
        over = store.run(row.name).over
        if path.exists():
            with path.open("r", encoding="utf-8", errors="replace") as file:
                if path.stat().st_size < at:
                    at = 0  # it was put aside, and began again
                file.seek(at)
                say(file.read(), end="", flush=True)
                at = file.tell()
        if over or not follow:
            return
        time.sleep(0.5)


def stop(name: RunName, consortium: OperatorsFolder = None) -> Any:
    """Stop a run after the round in progress. What is finished is kept."""
    from ..reports.status import served
    from ..server.orders import stop as stop_run

    folder = opened(consortium)
    row = stop_run(folder, name, is_led=served(folder))
    say(f"{row.name} {'is stopped' if row.over else 'stops after the round in progress'}.")
    return {"run": row.name, "over": row.over}


def finish(name: RunName, consortium: OperatorsFolder = None) -> Any:
    """End a run with its last summed model, as a finished, certified run. It cannot be resumed.

    A run in progress ends after its round; one that was stopped or has failed is taken up for that.
    """
    from ..server.orders import finish as finish_run

    folder = opened(consortium)
    row = finish_run(folder, name)
    say(f"{row.name} will end with the model of its last summed round (so far: {row.round}).")
    warn_if_unserved(folder)
    return {"run": row.name, "round": row.round}


def deliver(name: RunName, consortium: OperatorsFolder = None) -> Any:
    """Send a finished run's result to the owners that were away when it ended."""
    from ..server.orders import deliver as deliver_result

    folder = opened(consortium)
    row = deliver_result(folder, name)
    say(f"The result of {row.name} will be sent to the owners that do not have it yet.")
    warn_if_unserved(folder)
    return {"run": row.name}


def resume(name: RunName, consortium: OperatorsFolder = None) -> Any:
    """Go on with a run that was stopped or has failed."""
    from ..server.orders import resume as resume_run

    folder = opened(consortium)
    row = resume_run(folder, name)
    say(f"{row.name} is queued; the server will resume it.")
    warn_if_unserved(folder)
    return {"run": row.name}


def warn_of_refusals(folder: Consortium, job: Job) -> None:
    """Say why owners whose policy nobody has changed take no part in a job; the operator decides."""
    from ..client.policy import Policy

    reasons = [] if folder.card.rehearsal else Policy().reasons(job)
    if reasons:
        say(
            "Warning: owners with the policy that umbel client init writes will refuse this job. Each of "
            f"them {'; '.join(reasons)}.",
            file=sys.stderr,
        )


def warn_if_unserved(folder: Consortium) -> None:
    from ..reports.status import served, unserved_line

    if not served(folder):
        say(unserved_line(folder), file=sys.stderr)


def opened(path: Path | None) -> Consortium:
    from ..consortium.authority import Consortium

    named = path or Path(os.environ.get("UMBEL_CONSORTIUM", "."))
    if path is None and not (named / "limits.json").exists():
        raise ConsortiumError(
            "No consortium is named. Give its folder with --consortium, or set $UMBEL_CONSORTIUM."
        )
    return Consortium.open(named)
