"""The runs that were asked of an owner, as its owner reads them: requests, decisions, and what ran."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..clock import local
from ..errors import UmbelError
from ..foreign import shown
from .approvals import Approvals, JobRequest, JobSummary, printable
from .decisions import ACCEPTED, FINISHED, REFUSED, Decisions, KeptJob

if TYPE_CHECKING:
    from rich.table import Table

_STYLES = {"pending": "bold yellow", "approved": "green", "accepted": "green", "finished": "green"}
_STYLES |= {"denied": "red", "refused": "red"}
_SHORT = {ACCEPTED: "accepted", FINISHED: "finished", REFUSED: "refused", "job waits": "waits"}


def asked(approvals: Approvals, decisions: Decisions) -> list[dict[str, Any]]:
    """Every run that asked, oldest first: what the job is, and how it stands here."""
    kept = {(job.run, job.job_digest): job for job in decisions.list()}
    found = []
    for request in approvals.list():
        of_run = kept.pop((request.run, request.job_digest), None)
        found.append(_of_request(request, of_run))
    found += [_of_kept(job) for job in kept.values()]
    return sorted(found, key=lambda row: (row["first_seen"], row["run"]))


def find(run: str, approvals: Approvals, decisions: Decisions) -> dict[str, Any]:
    """One of them, by its run's name or id or the beginning of either; with its decisions and plan."""
    rows = asked(approvals, decisions)
    exact = [row for row in rows if run == row["run"]]
    found = exact or [row for row in rows if run and _begins(row, run)]
    if len(found) != 1:
        problem = f"{len(found)} runs begin with" if found else "No run here begins with"
        known = ", ".join(row["run"] for row in (found or rows)[-5:]) or "none"
        raise UmbelError(f"{problem} {run!r} (the last ones: {known}). See: umbel client jobs")
    [row] = found
    kept = [job for job in decisions.list() if job.run == row["run"]]
    of_job = [job for job in kept if job.job_digest == row["job_digest"]]
    more = of_job[0].to_dict() if of_job else {"decisions": [], "plan": {}}
    return row | {"decisions": more["decisions"], "plan": more["plan"]}


def asked_table(rows: list[dict[str, Any]]) -> Table:
    """A line a run."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False, padding=(0, 1))
    for column in ("Id", "Status"):
        table.add_column(column, no_wrap=True)
    table.add_column("Run", overflow="fold")
    table.add_column("Job", ratio=1)
    table.add_column("Privacy")
    table.add_column("Asked", no_wrap=True)
    for row in rows:
        job = JobSummary(**row["summary"])
        base = printable(job.base.rsplit("/", 1)[-1], 24)
        privacy = f"epsilon {job.epsilon:g}" if job.epsilon else "NO PRIVACY"
        table.add_row(
            Text(row["id"][:12]),
            Text(row["status"], style=_STYLES.get(row["status"], "")),
            Text(printable(row["run"])),
            Text(
                f"{job.name}: {job.task}, {job.rounds:,} rounds of {printable(job.strategy, 24)} "
                f"on {base} ({job.adapter})"
            ),
            Text(privacy if job.encryption != "none" else f"{privacy}, NOT ENCRYPTED"),
            Text(local(row["first_seen"])[:10]),
        )
    return table


def asked_lines(row: dict[str, Any]) -> Iterator[str]:
    """One run (``find``) in words, then its job as it was signed."""
    yield f"Run       {shown(row['run'])}"
    yield f"Status    {row['status']}"
    yield f"Job       {row['job_digest']}"
    yield f"Operator  {row['operator'] or 'signed by nobody that this owner accepts'}"
    for step in row["decisions"]:
        yield f"{local(step['time'])}  {step['event']}: {shown(step['why'])}"
    if row["plan"]:
        yield "What it does here:"
        yield from (f"  {key} = {_text(value)}" for key, value in row["plan"].items())
    yield "The job:"
    yield json.dumps(row["job"], indent=2)


def _of_request(request: JobRequest, kept: KeptJob | None) -> dict[str, Any]:
    status = request.standing()
    if kept is not None and request.status == "approved" and kept.ran:
        status = _SHORT.get(kept.status, kept.status)
    return request.to_dict() | {"status": status}


def _of_kept(kept: KeptJob) -> dict[str, Any]:
    last = kept.decisions[-1]
    row = kept.to_dict() | {"id": "", "status": _SHORT.get(kept.status, kept.status)}
    del row["decisions"], row["plan"]
    reason = last["why"] if kept.status == REFUSED else ""
    return row | {"first_seen": kept.first_seen, "decided": last["time"], "reason": reason}


def _begins(row: dict[str, Any], text: str) -> bool:
    return bool(row["run"].startswith(text) or (row["id"] and row["id"].startswith(text)))


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
