"""What a job's tests release, and what may be decided on them.

Guarantee: a choice (which model is kept, when training ends) is made on public records, or on noised
counts that were charged, or in a job that promises no privacy. So it tells nothing that the guarantee
does not cover already.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from .encryption import noise_shares
from .facts import ClientFacts
from .job import Job
from .privacy.counts_noise import CLIENT_COUNTS, GROUP_COUNTS
from .recipe import change_of, tests_event

Grounds = Literal["public hold-out", "private counts", "exact counts"]

_DECIDING = {"text-classification": ("accuracy", True), "causal-lm": ("loss", False)}

_TELLING = 0.02
"""Noise of a test's accuracy that is worth a warning."""


def grounds(job: Job) -> Grounds | None:
    """The figures to decide on; None where there are none."""
    if job.evaluation.public_path is not None:
        return "public hold-out"
    found: dict[str, Grounds] = {"exact": "exact counts", "private": "private counts"}
    return found.get(job.counts)


def deciding_metric(job: Job) -> tuple[str, bool]:
    """The figure that models are held against each other by, and whether more of it is better."""
    return _DECIDING[job.task]


def evaluation_facts(job: Job) -> dict[str, Any]:
    """How the model is tested, as JSON values."""
    spec = job.evaluation
    return {
        "every": spec.every,
        "counts": job.counts,
        "public": spec.public_path is not None,
        "keep": spec.keep,
        "patience": spec.patience,
        "decides_on": grounds(job) if spec.decides else None,
    }


def release_refusals(job: Job) -> list[str]:
    """What would tell more of private held-out records than the guarantee says: no owner takes part."""
    if job.tests_privately and job.encrypted and not job.encryption.confirm:
        return [
            'evaluation.counts = "private" with encryption.confirm = false: a server that breaks the '
            "protocol could open counts of fewer clients, with less of their noise; leave it on"
        ]
    if not job.private or job.counts != "exact":
        return []
    reasons = []
    if job.per_client:
        reasons.append(
            'evaluation.counts = "exact" tells of a client\'s held-out records, which are part of '
            'what privacy.unit = "client" hides: take "private", "off", or a public hold-out '
            "(evaluation.public_path)"
        )
    elif not job.encrypted:
        reasons.append(
            'evaluation.counts = "exact" with encryption.mode = "none": the server would read each '
            'client\'s exact counts, which nothing hides; take "private" or "off", a public '
            "hold-out (evaluation.public_path), or encryption"
        )
    if job.evaluation.decides and grounds(job) == "exact counts":
        reasons.append(
            f'{_deciding_keys(job)} with evaluation.counts = "exact": a choice made on exact counts '
            'reveals held-out records; take "private", or a public hold-out (evaluation.public_path)'
        )
    return reasons


def evaluation_refusals(job: Job, facts: Sequence[ClientFacts]) -> list[str]:
    """Why the tests of this job cannot be right."""
    spec, reasons = job.evaluation, release_refusals(job)
    if spec.public_path is not None and spec.public_path in (job.data.path, job.data.test_path):
        reasons.append(
            "evaluation.public_path is the owners' own data, which is not public: name another file"
        )
    if not spec.decides:
        return reasons
    untested = not any(client.holds_out for client in facts)
    if grounds(job) is None or (spec.public_path is None and untested):
        reasons.append(
            f"{_deciding_keys(job)} without any test: name a public hold-out "
            '(evaluation.public_path), or hold records out with evaluation.counts = "private"'
        )
    if spec.patience is not None and spec.every == 0:
        reasons.append(
            "evaluation.patience with evaluation.every = 0: nothing is tested between rounds; test "
            "more often"
        )
    return reasons


def evaluation_warnings(job: Job, facts: Sequence[ClientFacts], consortium: int) -> list[str]:
    """Where noise of tests drowns their figures."""
    event = tests_event(job)
    labels = len(job.data.labels or ())
    cohort = min(job.cohort.size or len(facts), len(facts))
    counted = sum(client.test_size for client in facts) * cohort / max(1, len(facts))
    if event is None or not labels or not counted:
        return []
    # Of right answers over all, where most are right: the noise of all cells that are not.
    change = change_of(job)
    cells = max(labels, labels * (labels - 1))
    noise = math.sqrt(2 * cells * change.cells_squared) * event.noise_multiplier
    noise *= (
        math.sqrt(cohort / noise_shares(job, consortium)) if job.encrypted else math.sqrt(cohort)
    )
    whole = GROUP_COUNTS if job.per_group else 1
    error = noise / (CLIENT_COUNTS * cohort if job.per_client else whole * counted)
    if error < _TELLING:
        return []
    return [
        f"Private tests: noise moves accuracy by {error:.1%} (one standard deviation). For sharper "
        "figures test less often (evaluation.every), raise evaluation.epsilon, or name public records "
        "(evaluation.public_path)."
    ]


def _deciding_keys(job: Job) -> str:
    spec = job.evaluation
    keys = ['evaluation.keep = "best"'] if spec.keep == "best" else []
    keys += [f"evaluation.patience = {spec.patience}"] if spec.patience is not None else []
    return " and ".join(keys)
