"""What client-level privacy refuses, and how its clipping norm moves.

Its noise is in ``terms``, the mechanism itself is ``privacy.noise.client_noise``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import PlanRefused
from ..job import LEAST_CLIPPING_NORM, MOST_CLIPPING_NORM, Job
from ..privacy.noise.client_noise import COUNT_STEPS, TAIL
from ..strategies import channels_over
from .cohorts import participations_of
from .facts import ClientFacts
from .limits import clip_said
from .noise import more_for_tests, most_participations
from .terms import Terms
from .vector import OFFSET_PER_CLIENT

if TYPE_CHECKING:
    from ..learning.model import ModelShape

_RATE = 0.2
"""How fast an adaptive clipping norm moves (Andrew et al. 2021, section 3.1)."""
_THIN = 1.5
"""A sum's noise is reported as needlessly large if it is this many times what an honest cohort needs."""


def next_clipping_norm(job: Job, norm: float, within: float, room: tuple[float, float]) -> float:
    """The clipping norm after a round in which a noised share `within` of clients kept to `norm`.

    Geometric steps towards the quantile (Andrew et al. 2021, "Differentially Private Learning with
    Adaptive Clipping", section 3.1), within the `room` that the grid has and the bounds that every
    client holds it to.
    """
    moved = norm * math.exp(-_RATE * (within - job.privacy.clipping_quantile))
    low, high = max(room[0], LEAST_CLIPPING_NORM), min(room[1], MOST_CLIPPING_NORM)
    return min(max(moved, low), high)


def sum_refusals(job: Job) -> list[str]:
    """Why the sums of this job would not hide a client: no owner takes part, whatever a plan says."""
    if not job.per_client:
        return []
    reasons = []
    if not job.encrypted:
        reasons.append(
            'privacy.unit = "client" hides each client in a sum, but with encryption.mode = "none" '
            'there is no sum: use "secure-sum"'
        )
    elif not job.encryption.confirm and job.noised_by_clients:
        reasons.append(
            "encryption.confirm = false lets a server that breaks the protocol open sums of fewer "
            'clients, with less of their noise: leave it on under privacy.unit = "client"'
        )
    if job.privacy.mechanism == "central" and job.encryption.group_size is not None:
        reasons.append(
            "encryption.group_size opens sums that are compared before the server adds its noise: "
            'remove it, or use privacy.mechanism = "distributed"'
        )
    return reasons


def client_refusals(
    terms: Terms, facts: Sequence[ClientFacts], model: ModelShape, tests: int
) -> list[str]:
    """Why a job cannot have client-level privacy as it stands; `tests` are planned."""
    job, reasons = terms.job, []
    asked = participations_of(job, [client.name for client in facts])
    most = max(asked.values(), default=0)
    if most > most_participations(job):
        reasons.append(
            f"cohort.participations = {job.cohort.participations}, but by the job's seed a client is "
            f"asked in {most} rounds: set it to {most}, or use another seed"
        )
    if facts and job.privacy.delta >= 1 / len(facts):
        reasons.append(
            f"privacy.delta = {job.privacy.delta:g} is not below 1 / clients ({len(facts)}): it "
            "would allow giving away one whole client"
        )
    if not job.encrypted or not facts or not model.trained:
        return reasons
    cohort = terms.cohort_size(len(facts))
    if terms.noise_shares < 2:
        return reasons  # encryption_refusals says that no sum is opened
    many = channels_over(job.strategy, model.trained, job.training.rounds)
    members = max(group.members for group in terms.thresholds(cohort))
    sizes = sorted({channels.numbers for channels, _ in many})
    try:
        for numbers in sizes:
            terms.clipping_room(numbers, members)
    except (ValueError, PlanRefused):
        return reasons  # said elsewhere: of encryption.clip, or of the noise
    reasons += count_refusals(terms, cohort, tests)
    norms = [norm_refusals(terms, job.privacy.clipping_norm, n, members) for n in sizes]
    return reasons + next((found for found in norms if found), [])


def norm_refusals(terms: Terms, norm: float, parameters: int, members: int) -> list[str]:
    """Whether updates clipped to `norm`, and their noise, have room on the grid of so many members."""
    low, high = terms.clipping_room(parameters, members)
    if low <= norm <= high:
        return []
    clip = terms.clip(parameters)
    if norm < low:
        way_out = "raise the norm, or set a smaller encryption.clip"
    else:
        way_out = f"set encryption.clip to {2 * clip * norm / high:.2g}, or lower the norm"
    return [
        f"privacy.clipping_norm = {norm:g} does not fit the sum, which has room for {low:.2g} to "
        f"{high:.2g} with {clip_said(terms.job, clip)}: {way_out}"
    ]


def count_refusals(terms: Terms, cohort: int, tests: int) -> list[str]:
    """Whether noised numbers have room in the words of a sum of so many clients."""
    shares = terms.noise_shares
    _, count = terms.client_noise
    widest = COUNT_STEPS * (1 + TAIL * count / math.sqrt(shares)) if math.isfinite(count) else 0.0
    test = terms.test_event(tests)
    if test is not None:
        deviation = math.sqrt(2 / shares) * test.noise_multiplier
        widest = max(widest, math.sqrt(terms.change.sums_squared) * (1 + TAIL * deviation))
    if widest <= OFFSET_PER_CLIENT and 2 * OFFSET_PER_CLIENT * cohort < 2**32:
        return []
    return [
        f"the noised counts of {cohort} clients do not fit a sum: {more_for_tests(terms.job)}, test "
        "less often (evaluation.every), or ask fewer clients in a round (cohort.size)"
    ]


def client_warnings(terms: Terms, facts: Sequence[ClientFacts]) -> list[str]:
    """What is allowed and costs accuracy."""
    if not terms.job.noised_by_clients or not terms.job.encrypted:
        return []
    cohort = terms.cohort_size(len(facts))
    larger = math.sqrt(cohort / terms.noise_shares)
    if larger < _THIN:
        return []
    return [
        f"Noise is shared among the {terms.noise_shares} honest clients that every opened "
        f"sum certainly has, so a sum of {cohort} has {larger:.1f} times the deviation that it "
        "needs: raise encryption.minimum to the number of clients that every round reaches."
    ]
