"""A data owner's commands: who may run what on its data, and what that has spent."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from ..errors import UmbelError
from ..foreign import console, say
from . import completing
from .answers import Answer, answers
from .options import AskedRun, JobFile, OwnersFolder

if TYPE_CHECKING:
    from click import Context

    from ..client.approvals import Approvals, JobRequest
    from ..client.decisions import Decisions


class _ShowFirst(TyperGroup):
    """`umbel ledger` and `umbel ledger FOLDER` show it."""

    first = "show"

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        # A shell that asks what could stand here (resilient) is told the commands.
        named = args[0] in (*self.commands, "--help") if args else ctx.resilient_parsing
        if not named:
            args = [self.first, *args]
        return super().parse_args(ctx, args)


class _ListFirst(_ShowFirst):
    """`umbel client jobs` and `umbel client jobs FOLDER` list them."""

    first = "list"


ledger_app = typer.Typer(
    cls=_ShowFirst,
    help="What this owner's data have spent. Without a command: show.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
owner_app = typer.Typer(
    help="Commands for a data owner.", rich_markup_mode=None, pretty_exceptions_enable=False
)

Id = Annotated[
    str,
    typer.Argument(
        help="The request's id, or its beginning.", autocompletion=completing.waiting_requests
    ),
]


jobs_app = typer.Typer(
    cls=_ListFirst,
    help="Runs that asked this owner to take part. Without a command: list.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
owner_app.add_typer(jobs_app, name="jobs")


@jobs_app.command("list")
@answers
def list_jobs(folder: OwnersFolder = Path()) -> Any:
    """List the runs that were asked of this owner, and what was decided."""
    from ..client.asked import asked, asked_table

    home = _home(folder)
    rows = asked(_approvals(home), _decisions(home))
    if rows:
        console(highlight=False).print(asked_table(rows))
        say(
            "Every detail of a job: umbel client jobs show RUN. "
            '"Denied" and "approved" can be changed at any time.'
        )
    else:
        say(
            "No run was accepted or refused yet. The agent's output says what it is doing: its "
            "first answer may take as long as reading all records does."
        )
    return rows


@jobs_app.command("show")
@answers
def show_job(
    run: AskedRun,
    folder: OwnersFolder = Path(),
) -> Any:
    """Show what a run wanted, on whose order, what was decided and why, and what it did here."""
    from ..client.asked import asked_lines, find

    home = _home(folder)
    found = find(run, _approvals(home), _decisions(home))
    return Answer(found, lambda: asked_lines(found))


@owner_app.command()
@answers
def approve(request: Id, folder: OwnersFolder = Path()) -> Any:
    """Let a run train on this owner's data."""
    home = _home(folder)
    decided = _approvals(home).approve(request)
    _note(home, "job approved", decided)
    say(f"Approved run {_named(decided)}.")
    return decided.to_dict()


@owner_app.command()
@answers
def deny(
    request: Id,
    folder: OwnersFolder = Path(),
    reason: Annotated[str, typer.Option(help="The reason; the operator will see it.")] = "",
) -> Any:
    """Keep a run from this owner's data, also one that was approved before."""
    home = _home(folder)
    decided = _approvals(home).deny(request, reason)
    _note(home, "job denied", decided)
    say(f"Denied run {_named(decided)}: its next request will be refused.")
    return decided.to_dict()


@ledger_app.command()
@answers
def show(
    folder: OwnersFolder = Path(),
    plot: Annotated[
        Path | None, typer.Option(help="Also draw it over time, into a .svg, .png or .pdf file.")
    ] = None,
) -> Any:
    """Show what this owner's data has spent, by which runs, and what is left."""
    from ..client.policy import Policy
    from ..client.spending import spending, spending_curves, spending_table

    home = _home(folder)
    policy = Policy.read(home / "policy.toml")
    items = spending(home / "ledger.sqlite", policy)
    if plot and items:
        from ..reports.spending_plot import draw_spending

        curves = spending_curves(home / "ledger.sqlite", policy.privacy.delta_limit)
        rules = policy.privacy
        drawn = draw_spending(curves, rules.epsilon_limit, rules.delta_limit, plot)
        say(drawn, file=sys.stderr)
    text = (lambda: spending_table(items)) if items else "Nothing has been spent yet."
    return Answer([item.to_dict() for item in items], text)


@ledger_app.command()
@answers
def verify(
    folder: OwnersFolder = Path(),
    head: Annotated[
        str | None,
        typer.Option(help="A head that was kept elsewhere; the ledger must contain it."),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(help="A run's certificate.json; it must name a row of this ledger."),
    ] = None,
) -> Any:
    """Check every row of the ledger and every line of the audit log, their chains, and their witnesses."""
    from ..client.audit_log import AuditLog

    log = AuditLog(_home(folder) / "audit.jsonl")
    files, lines = len(log.archives) + 1, log.verify()
    say(f"The audit log verifies: {lines:,} lines in {files} file{'s' if files > 1 else ''}.")
    values: dict[str, Any] = {"audit_log": {"lines": lines, "files": files}, "ledger": None}
    path = _ledger(folder)
    if path is None:
        return values
    from ..privacy.ledger.ledger import Ledger

    with Ledger(path) as opened:
        rows = opened.verify(head)
        say(f"The ledger verifies: {rows:,} rows, the same as in its witness.")
        say(f"head {opened.head()}")
        values["ledger"] = {"rows": rows, "head": opened.head()}
        if certificate is not None:
            from ..certificate.owner import bound_line
            from ..client.home import Home

            bound = bound_line(certificate, Home(path.parent).card, opened)
            say(bound)
            values["certificate"] = bound
    return values


@ledger_app.command()
def export(
    folder: OwnersFolder = Path(),
    as_: Annotated[
        Literal["csv", "json"], typer.Option("--format", help="Format.", show_default=True)
    ] = "csv",
    out: Annotated[Path | None, typer.Option(help="File to write [standard output].")] = None,
) -> None:
    """Write every row with its hash, for others to verify."""
    path = _ledger(folder)
    if path is None:
        return
    from ..privacy.ledger.export import is_export, to_csv, to_json
    from ..privacy.ledger.ledger import Ledger
    from ..storage.files import refuse_foreign, write_durably

    with Ledger(path) as opened:
        entries, identity = opened.entries(), opened.identity
    text = (to_json if as_ == "json" else to_csv)(entries, identity)
    if out is None:
        sys.stdout.write(text)
    else:
        refuse_foreign(out, "an exported ledger", is_export)
        write_durably(out, text.encode())
        say(f"Wrote {len(entries):,} rows to {out}")


@ledger_app.command()
@answers
def forecast(
    job: JobFile,
    folder: OwnersFolder = Path(),
    times: Annotated[int, typer.Option(min=1, max=100, help="Number of such jobs.")] = 2,
) -> Any:
    """Say what this owner's data would have spent after more jobs like one."""
    from ..client.forecast import forecast as look_ahead
    from ..client.forecast import forecast_line, forecast_table
    from ..client.home import Home
    from ..job import Job

    found = look_ahead(Home(_home(folder)), Job.load(job), times)
    return Answer(found.to_dict(), lambda: (forecast_table(found), forecast_line(found)))


@ledger_app.command()
@answers
def recover(
    folder: OwnersFolder = Path(),
    accept: Annotated[
        bool,
        typer.Option(
            "--accept",
            help="Accept the ledger as it is, although rows may be missing. A new row records this.",
        ),
    ] = False,
) -> Any:
    """Bring rows back that only the ledger's witness still has."""
    path = _ledger(folder)
    if path is None:
        return {"brought_back": 0, "rows": 0}
    from ..privacy.ledger.ledger import Ledger

    with Ledger(path, recovering=True) as opened:
        back, rows = opened.recover(accept=accept), opened.verify()
        say(f"Restored {back:,} rows; the ledger has {rows:,}.")
        return {"brought_back": back, "rows": rows}


def _ledger(folder: Path) -> Path | None:
    """The owner's ledger; None, and a line that says so, if there is none yet."""
    from ..privacy.ledger.ledger import Ledger

    path = _home(folder) / "ledger.sqlite"
    if Ledger.begun(path):
        return path
    say("Nothing has been spent yet.")
    return None


def _home(folder: Path) -> Path:
    if not (folder / "client.toml").is_file():
        raise UmbelError(
            f"{folder.resolve()} is not a data owner's folder (it has no client.toml). Name the folder, "
            "or make one with: umbel client init"
        )
    return folder


def _approvals(home: Path) -> Approvals:
    from ..client.approvals import Approvals

    return Approvals(home / "jobs")


def _decisions(home: Path) -> Decisions:
    from ..client.decisions import Decisions

    return Decisions(home / "decisions")


def _note(home: Path, event: Any, request: JobRequest) -> None:
    from ..client.audit_log import AuditLog

    AuditLog(home / "audit.jsonl").write(
        event,
        run=request.run,
        job=request.job_digest,
        request=request.id,
        reason=request.reason,
    )


def _named(request: JobRequest) -> str:
    from ..client.approvals import printable

    return f"{printable(request.run)} of job {request.summary.name}"
