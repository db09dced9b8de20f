"""The operator's commands on a server and its runs: one small function a command."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .errors import ConsortiumError
from .foreign import say

if TYPE_CHECKING:
    from .server.consortium import Consortium
    from .server.store import Store

Folder = Annotated[
    Path | None,
    typer.Option(
        "--consortium",
        help="The operator's folder [$UMBEL_CONSORTIUM, else this folder].",
        show_default=False,
    ),
]
RunName = Annotated[str, typer.Argument(help="Name of a run, or the beginning of it.")]
Set = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value, e.g. training.rounds=3."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add_to(app: typer.Typer) -> None:
    """Mount the commands."""
    for command in (server, run, runs, status, logs, stop, finish, resume, deliver):
        app.command()(command)


def server(
    consortium: Folder = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",
    port: Annotated[
        int | None, typer.Option(help="Public port [the consortium's].", show_default=False)
    ] = None,
) -> None:
    """Run the coordination server: leads runs, lets the members' agents in. Ctrl-C ends it.

    Runs in progress go on when it is started again.
    """
    folder = opened(consortium)
    from .processes import end_with_parent, log_to_stderr
    from .server.supervisor import Supervisor

    end_with_parent()
    log_to_stderr()
    supervisor = Supervisor(folder, host, port)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.stop())
    supervisor.run()


def run(
    job: Annotated[Path, typer.Argument(help="Job file (TOML).")],
    consortium: Folder = None,
    set_: Set = [],  # noqa: B006
    wait: Annotated[
        float | None,
        typer.Option(
            help="Seconds to wait for every member [600 for as many as the job needs, and for those that "
            "have not decided; 60 more for those that are away].",
            show_default=False,
        ),
    ] = None,
    reproducible: Annotated[bool, typer.Option("--reproducible", hidden=True)] = False,
) -> None:
    """Sign a job and give it to the server, which asks the members and leads its rounds."""
    from .job import Job
    from .server.orders import place

    folder = place(
        opened(consortium),
        Job.compose(job, {}, set_),
        wait=wait,
        reproducible=reproducible,
    )
    say(f"{folder.path.name}\nWatch it with: umbel logs {folder.path.name} --follow")


def runs(consortium: Folder = None, as_json: Json = False) -> None:
    """List all runs of a consortium."""
    from dataclasses import asdict

    from .server.store import Store

    store = Store(opened(consortium).database)
    rows = store.runs()
    if as_json:
        say(json.dumps([asdict(row) for row in rows], indent=2))
        return
    _print_notes(store)
    for row in rows:
        say(
            f"{row.name:<40} {row.standing:<14} round {row.round} of {row.rounds}  {row.created[:19]}"
        )
    if not rows:
        say("No run yet. Begin one with: umbel run my-job.toml")


def status(name: RunName, consortium: Folder = None, as_json: Json = False) -> None:
    """How a run stands: rounds, who answered, who did not and why."""
    from dataclasses import asdict

    from .quantities import tested_texts
    from .reports.decisions import decision_line
    from .server.store import Store

    folder = opened(consortium)
    store = Store(folder.database)
    row = store.run(name)
    events = [event for _, _, event in store.events(row.name)]
    if as_json:
        notes = {what: text for what, (_, text) in store.notes().items()}
        say(json.dumps({**asdict(row), "server": notes, "events": events}, indent=2))
        return
    _print_notes(store)
    say(f"{row.name}: {row.standing}, round {row.round} of {row.rounds}")
    if row.reason:
        say(row.reason)
    last = next((event for event in reversed(events) if event["event"] == "round"), None)
    if last:
        say(f"Round {last['round']} took {last['seconds']:.1f} s.")
        say(f"Answered: {', '.join(sorted(last['clients'])) or 'nobody'}")
        for client, reason in sorted(last["failed"].items()):
            say(f"  {client}: {reason}")
        for doubt in last.get("doubted", {}).values():
            say(f"  {doubt}")
    for kind, where in (("evaluation", ""), ("holdout", " on the public hold-out")):
        tested = next((e for e in reversed(events) if e["event"] == kind and e["metrics"]), None)
        if tested:
            figures = ", ".join(tested_texts(tested["metrics"], ".4g"))
            say(f"The model after round {tested['round']}{where}: {figures}")
    say(_absences(folder.runs / row.name))
    spare = next((event for event in reversed(events) if event["event"] == "spare"), None)
    if spare:
        say(f"Warning: {spare['text']}")
    sent = [event for event in events if event["event"] == "delivered"]
    if sent:
        got = sorted({name for event in sent for name in event["clients"]})
        say(f"Result sent to: {', '.join(got) or 'nobody'}")
        for client, reason in sorted(sent[-1]["failed"].items()):
            say(f"  not to {client}: {reason}. Later: umbel deliver {row.name}")
    for kind in ("ended", "kept"):
        said = next((e for e in reversed(events) if e["event"] == kind), None)
        if said:
            say(decision_line(said))


def logs(
    name: RunName,
    consortium: Folder = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the run is over.")
    ] = False,
) -> None:
    """Print what a run's coordinator wrote."""
    from .server.store import Store

    folder = opened(consortium)
    store = Store(folder.database)
    row = store.run(name)
    path, at = folder.runs / row.name / "log", 0
    while True:
        over = store.run(row.name).over
        if path.exists():
            with path.open("r", encoding="utf-8", errors="replace") as file:
                file.seek(at)
                say(file.read(), end="", flush=True)
                at = file.tell()
        if over or not follow:
            return
        time.sleep(0.5)


def stop(name: RunName, consortium: Folder = None) -> None:
    """Stop a run after the round in progress. What is finished is kept."""
    from .server.orders import stop as stop_run

    say(f"{stop_run(opened(consortium), name).name} stops after the round in progress.")


def finish(name: RunName, consortium: Folder = None) -> None:
    """End a run with its last summed model, as a finished, certified run. It cannot be resumed.

    A run in progress ends after its round; one that was stopped or has failed is taken up for that.
    """
    from .server.orders import finish as finish_run

    row = finish_run(opened(consortium), name)
    say(f"{row.name} ends with the model after its last summed round, {row.round} so far.")


def deliver(name: RunName, consortium: Folder = None) -> None:
    """Send a finished run's result to the owners that were away when it ended."""
    from .server.orders import deliver as deliver_result

    say(f"{deliver_result(opened(consortium), name).name} goes to the owners that lack it.")


def resume(name: RunName, consortium: Folder = None) -> None:
    """Go on with a run that was stopped or has failed."""
    from .server.orders import resume as resume_run

    say(f"{resume_run(opened(consortium), name).name} waits for the server to go on with it.")


def _absences(run: Path) -> str:
    """How many clients a round can do without, by the run's plan."""
    try:
        cohort = json.loads((run / "plan.json").read_text(encoding="utf-8"))["cohort"]
    except (OSError, ValueError, KeyError):
        return "No plan yet: members are being asked."
    least, size = cohort["minimum"], cohort["size"]
    return f"A round needs {least} of {size} clients: {size - least} may be missing."


def _print_notes(store: Store) -> None:
    """What is wrong with the server at the moment."""
    for what, (when, text) in store.notes().items():
        say(f"Server, {what} (since {when[:19]}): {text}")


def opened(path: Path | None) -> Consortium:
    from .server.consortium import Consortium

    named = path or Path(os.environ.get("UMBEL_CONSORTIUM", "."))
    if path is None and not (named / "limits.json").exists():
        raise ConsortiumError(
            "Which consortium? Name its folder with --consortium, or with $UMBEL_CONSORTIUM."
        )
    return Consortium.open(named)
