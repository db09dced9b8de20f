"""The record of processing of a plan or a run folder: a simulation, or what an operator knows of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ..errors import JobError
from ..job import Job
from ..quantities import count_text
from ..run.events import number
from ..run.record import RunRecord
from ..survey.holdings import holdings_lines
from .processing import (
    Entry,
    ProcessingRecord,
    Promise,
    data,
    guarantee,
    measures,
    purpose,
    recipients,
    retention,
    seen_by_the_server,
    signature,
    who,
)


def of_plan(
    job: Job, plan: Mapping[str, Any], owner: str = "", run: RunRecord | None = None
) -> ProcessingRecord:
    """What a plan says (``umbel plan --json``), and its run if there is one.

    owner: one of the plan's clients, for a record of its own; ``JobError`` if there is no such client.
    """
    clients = [client for client in plan.get("clients") or [] if owner in ("", client.get("name"))]
    if owner and not clients:
        known = ", ".join(str(client.get("name")) for client in plan.get("clients") or [])
        raise JobError(f"--owner: {owner!r} is not a client of this job (its clients: {known})")
    state = "planned; nothing has run" if run is None else run.state
    return ProcessingRecord(
        job=job.name,
        run="" if run is None else run.folder.resolve().name,
        owner=owner,
        state=state,
        made=time.strftime("%Y-%m-%d %H:%M"),
        parts=(
            who(owner),
            purpose(job, "" if run is None else f"{run.summed} of {run.planned_rounds} rounds"),
            data(_data(job, plan, clients)),
            recipients(
                job,
                seen_by_the_server(plan),
                ""
                if run is None or _deployed(run)
                else "; in this simulation all are on one machine",
                "everybody with access to the run's folder",
            ),
            measures(job, _measures(clients)),
            guarantee(_promise(job, plan, clients, run), _proof(plan)),
            retention(_kept(run)),
            signature(),
        ),
    )


def _data(job: Job, plan: Mapping[str, Any], clients: list[dict[str, Any]]) -> list[Entry]:
    spec = job.data
    columns = [
        spec.text_column,
        spec.answer_column,
        spec.label_column if job.kind.labelled else None,
        spec.group_column,
    ]
    sizes = ", ".join(f"{c.get('name')} {count_text(number(c, 'size'))}" for c in clients)
    found = [
        Entry.known("File", spec.path),
        Entry.known("Columns that are read", ", ".join(filter(None, columns))),
        Entry.known("Published size (noised)", sizes),
    ]
    if plan.get("data"):
        found += [Entry.known("What it holds", line) for line in holdings_lines(plan["data"])]
    return found


def _measures(clients: list[dict[str, Any]]) -> list[Entry]:
    noise = [
        f"{client.get('name')} {value:.3f}"
        for client in clients
        if (value := number(client, "noise_multiplier")) is not None
    ]
    return [Entry.known("Noise multiplier", ", ".join(noise))] if noise else []


def _promise(
    job: Job, plan: Mapping[str, Any], clients: list[dict[str, Any]], run: RunRecord | None
) -> Promise:
    names = {str(client.get("name")) for client in clients}
    planned = [value for client in clients if (value := number(client, "epsilon")) is not None]
    spent = [value for name, value in (run.epsilon if run else {}).items() if name in names]
    private = job.private
    return Promise(
        sentence=str(plan.get("guarantee") or "").removesuffix(seen_by_the_server(plan)).strip(),
        plainly=str(plan.get("plainly") or ""),
        planned=max(planned, default=None),
        most=job.privacy.owner_limit if private else None,
        spent=max(spent, default=None),
        delta=job.privacy.delta if private else None,
        seeded=bool(((run.result if run else None) or {}).get("reproducible")),
    )


def _proof(plan: Mapping[str, Any]) -> list[Entry]:
    proof = plan.get("proof") or {}
    return [
        Entry.known(title, ", ".join(map(str, proof[key])))
        for key, title in (("assumes", "It assumes"), ("not_covered", "It does not cover"))
        if proof.get(key)
    ]


def _kept(run: RunRecord | None) -> dict[str, str]:
    if run is None:
        return {}
    return {
        "Run folder": f"{run.folder.resolve()}, until it is deleted: model, figures, job, plan, checkpoints"
    }


def _deployed(run: RunRecord) -> bool:
    return (run.folder / "run.json").is_file()
