"""What a job's tests release, and what may be decided on them.

Guarantee: a choice (which model is kept, when training ends) is made on public records, or on noised
counts that were charged, or in a job that promises no privacy. So it tells nothing that the guarantee
does not cover already.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from ..errors import PlanRefused
from ..job import Job
from ..learning.metrics import counts_of
from ..privacy.noise.counts_noise import CLIENT_COUNTS, GROUP_COUNTS, LOSS_STEPS
from ..quantities import OUTWEIGHED
from .facts import ClientFacts
from .noise import more_for_tests
from .schedule import most_tests, rounds_tested
from .terms import Terms

Grounds = Literal["public hold-out", "private counts", "exact counts"]


def grounds(job: Job) -> Grounds | None:
    """The figures to decide on; None if there are none."""
    if job.evaluation.public_path is not None:
        return "public hold-out"
    found: dict[str, Grounds] = {"exact": "exact counts", "private": "private counts"}
    return found.get(job.counts)


def chosen_tests(terms: Terms, facts: Sequence[ClientFacts]) -> int:
    """How many tests a run has: as the job says, or as many as noise leaves sharp; 0 if nobody can test.

    From public numbers alone: published sizes, cohort, classes, epsilon.
    """
    job = terms.job
    most = most_tests(job) if any(client.holds_out for client in facts) else 0
    if job.evaluation.every is not None or not job.tests_privately or not most:
        return most
    found, beyond = 1, most + 1  # the last test there is, however blurred
    while beyond - found > 1:
        middle = (found + beyond) // 2
        if _is_sharp(terms, facts, middle):
            found = middle
        else:
            beyond = middle
    return found


def _is_sharp(terms: Terms, facts: Sequence[ClientFacts], tests: int) -> bool:
    try:
        blur = deviation(terms, facts, tests)
    except PlanRefused:
        return False
    return blur is not None and blur < terms.job.kind.deciding.blur


def deviation(terms: Terms, facts: Sequence[ClientFacts], tests: int) -> float | None:
    """Standard deviation that noise gives the main figure of one test; None if there is no noise.

    Nor if nobody publishes how many records are held out, because they are in separate files. It is for
    a cohort of average size; what the noise of cells and sums does to the figure, the task's counts say.
    """
    job = terms.job
    event, labels = terms.test_event(tests), len(job.data.labels or ())
    cohort = terms.tested_by(len(facts))
    # Records, groups or clients that the counts of one test are of, and what each adds to them.
    units = sum(client.test_size for client in facts) * cohort / max(1, len(facts))
    of_cells = of_sums = 1
    if job.per_client:
        units, of_cells, of_sums = cohort, CLIENT_COUNTS, CLIENT_COUNTS
    elif job.per_group:
        of_cells = GROUP_COUNTS
    if event is None or not units or (labels == 0 and job.kind.labelled):
        return None
    change = terms.change
    one = math.sqrt(2 * cohort / terms.counts_shares) * event.noise_multiplier / units
    cell = one * math.sqrt(change.cells_squared) / of_cells
    sums = one * math.sqrt(change.sums_squared) / LOSS_STEPS / of_sums
    return counts_of(job.kind).blur(cell, sums, labels)


def evaluation_facts(job: Job, tests: int, blur: float | None) -> dict[str, Any]:
    """How the model is tested, as JSON values; `blur` is the ``deviation`` of one test."""
    spec = job.evaluation
    return {
        "every": spec.every,
        "tests": tests,
        "rounds": list(rounds_tested(job, tests)),
        "deviation": blur,
        "deviation_of": job.kind.deciding.key if blur is not None else None,
        "counts": job.counts,
        "public": spec.public_path is not None,
        "keep": spec.keep,
        "patience": spec.patience,
        "decides_on": grounds(job) if spec.decides else None,
    }


def release_refusals(job: Job) -> list[str]:
    """What would tell more of private held-out records than the guarantee says: no owner takes part."""
    if job.tests_privately and not job.private:
        return [
            'evaluation.counts = "private" adds noise to the counts of a job that protects nothing '
            'else: set privacy.unit = "example", or evaluation.counts = "exact" or "off"'
        ]
    if job.tests_privately and job.per_client and job.encrypted and not job.encryption.confirm:
        said = (
            'evaluation.counts = "private"'
            if job.evaluation.counts
            else f"{_deciding_keys(job)} on private counts"
        )
        return [
            f"{said} with encryption.confirm = false: a server that breaks the protocol could open "
            "counts of fewer clients, with less of their noise; leave it on"
        ]
    if not job.private or job.counts != "exact":
        return []
    reasons = []
    if job.per_client:
        reasons.append(
            'evaluation.counts = "exact" tells of a client\'s held-out records, which are part of '
            'what privacy.unit = "client" hides: use "private", "off", or a public hold-out '
            "(evaluation.public_path)"
        )
    elif not job.encrypted:
        reasons.append(
            'evaluation.counts = "exact" with encryption.mode = "none": the server would read each '
            'client\'s exact counts, which nothing hides; use "private" or "off", a public '
            "hold-out (evaluation.public_path), or encryption"
        )
    if job.evaluation.decides and grounds(job) == "exact counts":
        reasons.append(
            f'{_deciding_keys(job)} with evaluation.counts = "exact": a choice made on exact counts '
            'reveals held-out records; use "private", or a public hold-out (evaluation.public_path)'
        )
    return reasons


def evaluation_refusals(job: Job, facts: Sequence[ClientFacts], tests: int) -> list[str]:
    """Why the tests of this job cannot be right."""
    spec, reasons = job.evaluation, []
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
    elif spec.patience is not None and spec.every == 0:
        reasons.append(
            "evaluation.patience with evaluation.every = 0: nothing is tested between rounds; test "
            "more often"
        )
    elif grounds(job) == "private counts" and tests < 3 <= most_tests(job):
        reasons.append(
            f"{_deciding_keys(job)} on private counts: with this noise only {tests} would be "
            "sharp enough (including the last one), so there is nothing to decide on. To have "
            f"more, {more_for_tests(job)}, name public records (evaluation.public_path), or set "
            "how often noisy tests are made (evaluation.every)"
        )
    return reasons


def evaluation_warnings(
    job: Job, facts: Sequence[ClientFacts], tests: int, blur: float | None
) -> list[str]:
    """What tests tell beyond the guarantee, and that noise drowns their figures, if it does."""
    warnings = []
    if job.private and job.counts == "exact" and tests:
        warnings.append(
            'evaluation.counts = "exact": a dishonest server can read held-out records, which the '
            "guarantee does not cover. Each owner's policy must allow it (privacy.exact_counts)."
        )
    if blur is None and tests and job.tests_privately and job.evaluation.every is None:
        warnings.append(
            "Private tests: the number of held-out records is not published (they are in separate "
            "files), so only the last model is tested. To test more often set evaluation.every."
        )
    if blur is None:
        return warnings
    metric, share = job.kind.deciding.key, job.kind.deciding.share
    asked = (
        "" if job.evaluation.every is not None else f", of {most_tests(job)} that fit the rounds"
    )
    if share and blur > OUTWEIGHED:
        return [
            *warnings,
            "Private tests: noise outweighs the owners' counts, because few records are held out for "
            f"the number of classes: the measured {metric} will mean nothing. Name public records "
            "(evaluation.public_path), raise evaluation.epsilon, bring more records, or leave all of "
            'epsilon to training (evaluation.counts = "off").',
        ]
    times = f"{tests} test{'s' if tests > 1 else ''} of the model{asked}"
    amount = f"{100 * blur:.1f} points" if share else f"{blur:.2f}"
    rarer = "test less often (evaluation.every), " if tests > 1 else ""
    if blur >= job.kind.deciding.blur:
        return [
            *warnings,
            f"Private tests: noise moves {metric} by {amount} (one standard deviation) in {times}. For "
            f"sharper figures {rarer}{more_for_tests(job)}, or name public records "
            "(evaluation.public_path).",
        ]
    if job.evaluation.every is None and tests < most_tests(job):
        warnings.append(
            f"Private tests: {times}, so that noise moves {metric} by only {amount} (one standard "
            f"deviation). For more tests {more_for_tests(job)}, or set how often "
            "(evaluation.every)."
        )
    return warnings


def _deciding_keys(job: Job) -> str:
    spec = job.evaluation
    keys = ['evaluation.keep = "best"'] if spec.keep == "best" else []
    keys += [f"evaluation.patience = {spec.patience}"] if spec.patience is not None else []
    return " and ".join(keys)
