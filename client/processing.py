"""The record of processing of a job at one owner: from its decisions, ledger, policy and certificate."""

from __future__ import annotations

import time
from typing import Any

from ..certificate.form import FILE, Certificate
from ..clock import local
from ..errors import CertificateError, UmbelError
from ..job import Job
from ..planning.guarantee import plainly, sentence
from ..planning.noise import private_recipe
from ..planning.terms import Terms
from ..privacy.accounting.odds import most_right
from ..quantities import epsilon_text
from ..reports import processing as form
from ..reports.processing import Entry, Part, ProcessingRecord, Promise
from .approvals import Approvals
from .asked import find
from .home import Home
from .models import place_of
from .policy import Policy
from .spending import RunSpending, spending


def processing_record(home: Home, run: str) -> tuple[ProcessingRecord, str]:
    """Of the run with this name or id, or how it begins, and what its files are called.

    Raises ``UmbelError`` if there is not one such run.
    """
    row = find(run, Approvals(home.jobs), home.decisions)
    job = _job(row)
    policy, certificate = Policy.read(home.policy), _certificate(home, job, row["run"])
    total, spent = _spent(home, policy, row["run"], row["job_digest"])
    record = ProcessingRecord(
        job=job.name,
        run=row["run"],
        owner=home.name,
        state=str(row["status"]),
        made=time.strftime("%Y-%m-%d %H:%M"),
        parts=(
            form.who(home.name, _operator(home, row)),
            form.purpose(job, _extent(row["plan"], spent, certificate)),
            form.data(_data(home, job)),
            form.recipients(
                job,
                certificate.encryption.server_sees if certificate else "",
                ": the members that the consortium's roster names",
                "the operator, and each member that took part and takes results",
            ),
            form.measures(job, _measures(row["plan"], policy)),
            form.guarantee(_promise(home, job, row["plan"], spent, certificate), total),
            _decided(row),
            form.retention(_kept(home, job, row["run"])),
            form.signature(),
        ),
    )
    return record, place_of(home.path, job, row["run"]).name


def _job(row: dict[str, Any]) -> Job:
    """The job as it was signed; its digest shows that this version of Umbel reads it alike."""
    job = Job.build(row["job"], source=f"the job of {row['run']}")
    if job.digest() != row["job_digest"]:
        raise UmbelError(
            f"The job of {row['run']} was made for another version of Umbel, which reads it differently. "
            "Write the record with that version."
        )
    return job


def _certificate(home: Home, job: Job, run: str) -> Certificate | None:
    try:
        found = Certificate.read(place_of(home.path / "models", job, run) / FILE)
    except CertificateError:
        return None
    return found if (found.run, found.job.sha256) == (run, job.digest()) else None


def _spent(
    home: Home, policy: Policy, run: str, digest: str
) -> tuple[list[Entry], RunSpending | None]:
    """What all runs together have spent of the accounts that this one spent of, and this one by itself."""
    total, found = [], None
    for account in spending(home.ledger, policy):
        for one in account.runs:
            if (one.run, one.job) == (run, digest):
                found = one
                total.append(
                    Entry.known(
                        "All jobs on these data",
                        f"epsilon {epsilon_text(account.epsilon)} of at most {account.limit:g}, at delta "
                        f"{account.delta:g}",
                    )
                )
    return total, found


def _operator(home: Home, row: dict[str, Any]) -> list[Entry]:
    card = home.card
    return [
        Entry.known("Consortium", f"{card.name}, at {card.address}"),
        Entry.known(
            "Key of the operator who signed", row["operator"] or "nobody that this owner accepts"
        ),
        Entry.blank("Operator", "name and contact of who runs the server"),
    ]


def _extent(
    plan: dict[str, Any], spent: RunSpending | None, certificate: Certificate | None
) -> str:
    if certificate is not None:
        return f"{certificate.rounds.done} of {certificate.rounds.planned} rounds"
    if not plan:
        return "it has not trained here"
    done = "" if spent is None else f", {spent.rounds:,} are charged"
    return f"{plan['rounds_here']:,} rounds are planned here{done}"


def _data(home: Home, job: Job) -> list[Entry]:
    declared, sizes = home.settings.data, home.account.sizes
    label = declared.label_column if job.kind.labelled else None
    columns = [declared.text_column, declared.answer_column, label, declared.group_column]
    found = [
        Entry.known("File (client.toml today)", declared.path),
        Entry.known("Columns that are read", ", ".join(filter(None, columns))),
        Entry.known("Trained on", f"{declared.share:.0%} of the file; the rest is for tests")
        if declared.test_path is None
        else Entry.known("File for tests", declared.test_path),
    ]
    if sizes is not None:
        unit = "groups" if declared.unit == "group" else "records"
        found.append(Entry.known("Published size (noised)", f"{sizes.data:,} {unit}"))
    return found


def _measures(plan: dict[str, Any], policy: Policy) -> list[Entry]:
    rules = policy.privacy
    found = [
        Entry.known(
            "The owner's policy today",
            f"one job at most epsilon {rules.epsilon_per_job:g}, all jobs together "
            f"{rules.epsilon_limit:g}, delta at most {rules.delta_limit:g}; approval "
            f"{policy.jobs.approval}",
        ),
        Entry.known(
            "Log",
            "decisions, spending (ledger) and requests (audit log), each in a chain of hashes",
        ),
    ]
    if "noise_multiplier" in plan:
        text = f"{plan['noise_multiplier']:.4g}, sampling rate {plan['sampling_rate']:.4g}"
        found.insert(0, Entry.known("Noise multiplier", text))
    return found


def _promise(
    home: Home,
    job: Job,
    plan: dict[str, Any],
    spent: RunSpending | None,
    certificate: Certificate | None,
) -> Promise:
    """Of the certificate, where there is one; else from what was planned here."""
    planned, delta = plan.get("epsilon"), job.privacy.delta if job.private else None
    right = ""
    if planned is not None:
        recipe = private_recipe(job, plan["training_size"], plan["rounds_here"], plan["tests"])
        right = plainly(job, most_right(recipe.planned.values(), job.privacy.delta))
    said = certificate.guarantee.sentence if certificate else _sentence(job, plan)
    return Promise(
        sentence=said,
        plainly=right,
        planned=planned,
        most=job.privacy.owner_limit if job.private else None,
        spent=None if spent is None else spent.epsilon,
        delta=delta,
        seeded=home.card.rehearsal or bool(certificate and certificate.guarantee.seeded),
    )


def _sentence(job: Job, plan: dict[str, Any]) -> str:
    """As the plan states it; empty if that needs numbers that are not kept here."""
    if job.per_client or (job.private and not plan):
        return ""
    # The number of members is in the sentence of client-level jobs alone.
    return sentence(Terms(job, 1), plan.get("epsilon"), int(plan.get("tests", 0)))


def _decided(row: dict[str, Any]) -> Part:
    steps = [
        Entry.known(local(step["time"]), f"{step['event']}: {step['why']}")
        for step in row["decisions"]
    ]
    return Part("What was decided", tuple(steps) or (Entry.known("Status", row["status"]),))


def _kept(home: Home, job: Job, run: str) -> dict[str, str]:
    model = place_of(home.path / "models", job, run)
    return {
        "Model and certificate": f"{model}, until they are deleted"
        if model.is_dir()
        else "none is kept here",
        "Ledger, decisions, audit log": f"{home.path.resolve()}, permanently: what was spent "
        "counts for ever",
        "Tokens and features of the records": f"{home.cache}, until they are deleted",
    }
