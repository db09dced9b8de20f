"""A data owner's commands: who may run what on its data, and what that has spent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import UmbelError

if TYPE_CHECKING:
    from rich.table import Table

    from .client.approvals import Approvals, JobRequest

owner_app = typer.Typer(
    help="A data owner's side.", rich_markup_mode=None, pretty_exceptions_enable=False
)

Folder = Annotated[
    Path | None,
    typer.Argument(help="The data owner's folder [the current one].", show_default=False),
]
Id = Annotated[str, typer.Argument(help="The request's id, or how it begins.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@owner_app.command()
def jobs(folder: Folder = None, as_json: Json = False) -> None:
    """List the runs that asked for approval, and what was answered."""
    requests = _approvals(_home(folder)).list()
    if as_json:
        print(json.dumps([request.to_dict() for request in requests], indent=2))
    elif requests:
        _print(_jobs_table(requests))
        print('Every detail of a job: --json. "Denied" and "approved" can be changed at any time.')
    else:
        print("No run has asked for approval.")


@owner_app.command()
def approve(request: Id, folder: Folder = None) -> None:
    """Let a run train on this owner's data."""
    home = _home(folder)
    decided = _approvals(home).approve(request)
    _note(home, "job approved", decided)
    print(f"Approved run {_named(decided)}.")


@owner_app.command()
def deny(
    request: Id,
    folder: Folder = None,
    reason: Annotated[str, typer.Option(help="Why; the operator is told.")] = "",
) -> None:
    """Keep a run from this owner's data, also one that was approved before."""
    home = _home(folder)
    decided = _approvals(home).deny(request, reason)
    _note(home, "job denied", decided)
    print(f"Denied run {_named(decided)}: its next request is refused.")


def ledger(folder: Folder = None, as_json: Json = False) -> None:
    """Show what this owner's data has spent, by which runs, and what is left."""
    from .client.policy import Policy
    from .client.spending import spending, spending_table

    home = _home(folder)
    items = spending(home / "ledger.sqlite", Policy.read(home / "policy.toml"))
    if as_json:
        print(json.dumps([item.to_dict() for item in items], indent=2))
    elif items:
        _print(spending_table(items))
    else:
        print("Nothing was spent yet.")


def _home(folder: Path | None) -> Path:
    home = folder or Path()
    if not (home / "client.toml").is_file():
        raise UmbelError(
            f"{home.resolve()} is not a data owner's folder (it has no client.toml). Name the folder, "
            "or make one with: umbel client init"
        )
    return home


def _approvals(home: Path) -> Approvals:
    from .client.approvals import Approvals

    return Approvals(home / "jobs")


def _note(home: Path, event: Any, request: JobRequest) -> None:
    from .client.audit import AuditLog

    AuditLog(home / "audit.jsonl").write(
        event,
        run=request.run,
        job=request.job_digest,
        request=request.id,
        reason=request.reason,
    )


def _named(request: JobRequest) -> str:
    from .client.approvals import printable

    return f"{printable(request.run)} of job {request.summary.name}"


def _jobs_table(requests: tuple[JobRequest, ...]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from .client.approvals import printable

    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False, padding=(0, 1))
    for column in ("Id", "Status"):
        table.add_column(column, no_wrap=True)
    table.add_column("Run", overflow="fold")
    table.add_column("Job", ratio=1)
    table.add_column("Privacy")
    table.add_column("Asked", no_wrap=True)
    styles = {"pending": "bold yellow", "approved": "green", "denied": "red"}
    for request in requests:
        job = request.summary
        base = printable(job.base.rsplit("/", 1)[-1], 24)
        privacy = f"epsilon {job.epsilon:g}" if job.epsilon else "NO PRIVACY"
        table.add_row(
            Text(request.id[:12]),
            Text(request.status, style=styles[request.status]),
            Text(printable(request.run, 24)),
            Text(
                f"{job.name}: {job.task}, {job.rounds:,} rounds of {printable(job.strategy, 24)} "
                f"on {base} ({job.adapter})"
            ),
            Text(privacy if job.encryption != "none" else f"{privacy}, NOT ENCRYPTED"),
            Text(request.first_seen[:10]),
        )
    return table


def _print(renderable: Any) -> None:
    from rich.console import Console

    Console(highlight=False).print(renderable)
