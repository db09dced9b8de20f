"""What client-level privacy means for a job: its noise, its refusals, what the server adds.

Everybody derives this from the job, as with the rest of the plan. The mechanism itself is
``privacy.noise.client_noise``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import PlanRefused
from ..job import LEAST_CLIPPING_NORM, MOST_CLIPPING_NORM, Job
from ..privacy.noise.client_noise import (
    COUNT_STEPS,
    TAIL,
    ClientPart,
    ServerNoise,
    UpdateNoise,
    clipping_range,
    split_noise,
)
from ..privacy.noise.counts_noise import CLIENT
from ..privacy.noise.scale import Scale
from ..privacy.randomness import SecretStream
from .encryption import group_thresholds
from .facts import ClientFacts
from .limits import clip_of, clip_said, noise_shares
from .noise import event_of_test, more_for_tests, most_participations, private_recipe
from .vector import OFFSET_PER_CLIENT

if TYPE_CHECKING:
    from ..learning.model import ModelShape

_RATE = 0.2
"""How fast an adaptive clipping norm moves (Andrew et al. 2021, section 3.1)."""
_THIN = 1.5
"""A sum's noise is called needlessly large where it is so many times what an honest cohort needs."""


def client_part(
    job: Job, clipping_norm: float, consortium: int, stream: SecretStream
) -> ClientPart:
    """What a client does to its update in a job with client-level privacy."""
    update, count = _noise(job)
    distributed = job.noised_by_clients
    shares = noise_shares(job, consortium)
    noise = UpdateNoise(clipping_norm, update if distributed else 0.0, shares, stream)
    return ClientPart(noise, count, distributed)


def server_noise(job: Job, clipping_norm: float, stream: SecretStream) -> ServerNoise:
    """What the server of a job with central noise adds in a round."""
    return ServerNoise(clipping_norm, *_noise(job), stream)


def next_clipping_norm(job: Job, norm: float, within: float, room: tuple[float, float]) -> float:
    """The clipping norm after a round in which a noised share `within` of clients kept to `norm`.

    Geometric steps towards the quantile (Andrew et al. 2021, "Differentially Private Learning with
    Adaptive Clipping", section 3.1), within the `room` that the grid has and the bounds that every
    client holds it to.
    """
    moved = norm * math.exp(-_RATE * (within - job.privacy.clipping_quantile))
    low, high = max(room[0], LEAST_CLIPPING_NORM), min(room[1], MOST_CLIPPING_NORM)
    return min(max(moved, low), high)


def clipping_room(job: Job, parameters: int, members: int, consortium: int) -> tuple[float, float]:
    """Least and largest clipping norm that fit the sums of a cohort of so many members."""
    update, _ = _noise(job)
    noise = update if job.noised_by_clients else 0.0
    scale = Scale(members, clip_of(job, parameters, consortium))
    return clipping_range(noise, noise_shares(job, consortium), parameters, scale)


def sum_refusals(job: Job) -> list[str]:
    """Why the sums of this job would not hide a client: no owner takes part, whatever a plan says."""
    if not job.per_client:
        return []
    reasons = []
    if not job.encrypted:
        reasons.append(
            'privacy.unit = "client" hides each client in a sum, and with encryption.mode = "none" '
            'there is none: use "secure-sum"'
        )
    elif not job.encryption.confirm and job.noised_by_clients:
        reasons.append(
            "encryption.confirm = false lets a server that breaks the protocol open sums of fewer "
            'clients, with less of their noise: leave it on under privacy.unit = "client"'
        )
    if job.privacy.mechanism == "central" and job.encryption.group_size is not None:
        reasons.append(
            "encryption.group_size opens sums that are compared before the server adds its noise: "
            'remove it, or take privacy.mechanism = "distributed"'
        )
    return reasons


def client_refusals(
    job: Job,
    facts: Sequence[ClientFacts],
    model: ModelShape,
    consortium: int,
    participations: Mapping[str, int],
    tests: int,
) -> list[str]:
    """Why a job cannot have client-level privacy as it stands.

    participations: rounds in which each client is asked, by the plan. tests: how many are planned.
    """
    reasons = []
    most = max(participations.values(), default=0)
    if most > most_participations(job):
        reasons.append(
            f"cohort.participations = {job.cohort.participations}, but by the job's seed a client is "
            f"asked in {most} rounds: set it to {most}, or take another seed"
        )
    if facts and job.privacy.delta >= 1 / len(facts):
        reasons.append(
            f"privacy.delta = {job.privacy.delta:g} is not below 1 / clients ({len(facts)}): it "
            "would allow giving away one whole client"
        )
    if not job.encrypted or not facts or not model.trained:
        return reasons
    cohort = min(job.cohort.size or len(facts), len(facts))
    numbers = group_thresholds(job, cohort, consortium)
    if noise_shares(job, consortium) < 2:
        return reasons  # encryption_refusals says that no sum is opened
    parameters, members = model.trained_parameters, max(group.members for group in numbers)
    try:
        clipping_room(job, parameters, members, consortium)
    except (ValueError, PlanRefused):
        return reasons  # said elsewhere: of encryption.clip, or of the noise
    reasons += count_refusals(job, consortium, cohort, tests)
    norm = job.privacy.clipping_norm
    return reasons + norm_refusals(job, norm, parameters, members, consortium)


def norm_refusals(
    job: Job, norm: float, parameters: int, members: int, consortium: int
) -> list[str]:
    """Whether updates clipped to `norm`, and their noise, have room on the grid of so many members."""
    low, high = clipping_room(job, parameters, members, consortium)
    if low <= norm <= high:
        return []
    clip = clip_of(job, parameters, consortium)
    if norm < low:
        way_out = "raise the norm, or set a smaller encryption.clip"
    else:
        way_out = f"set encryption.clip to {2 * clip * norm / high:.2g}, or lower the norm"
    return [
        f"privacy.clipping_norm = {norm:g} does not fit the sum, which has room for {low:.2g} to "
        f"{high:.2g} with {clip_said(job, clip)}: {way_out}"
    ]


def count_refusals(job: Job, consortium: int, cohort: int, tests: int) -> list[str]:
    """Whether noised numbers have room in the words of a sum of so many clients."""
    shares = noise_shares(job, consortium)
    _, count = _noise(job)
    widest = COUNT_STEPS * (1 + TAIL * count / math.sqrt(shares)) if math.isfinite(count) else 0.0
    test = event_of_test(job, tests)
    if test is not None:
        deviation = math.sqrt(2 / shares) * test.noise_multiplier
        widest = max(widest, CLIENT.loss * (1 + TAIL * deviation))
    if widest <= OFFSET_PER_CLIENT and 2 * OFFSET_PER_CLIENT * cohort < 2**32:
        return []
    return [
        f"the noised counts of {cohort} clients do not fit a sum: {more_for_tests(job)}, test "
        "less often (evaluation.every), or ask fewer clients in a round (cohort.size)"
    ]


def client_warnings(job: Job, facts: Sequence[ClientFacts], consortium: int) -> list[str]:
    """What is allowed and costs accuracy."""
    if not job.noised_by_clients or not job.encrypted:
        return []
    cohort = min(job.cohort.size or len(facts), len(facts))
    larger = math.sqrt(cohort / noise_shares(job, consortium))
    if larger < _THIN:
        return []
    return [
        f"Noise is shared among the {noise_shares(job, consortium)} honest clients that any opened "
        f"sum is sure to have, so a sum of {cohort} has {larger:.1f} times the deviation that it "
        "needs: raise encryption.minimum to what a round surely reaches."
    ]


def _noise(job: Job) -> tuple[float, float]:
    """Noise multipliers of the update and of the count beside it."""
    sigma = private_recipe(job, 1, job.training.rounds).noise_multiplier
    return split_noise(sigma, job.privacy.clipping == "adaptive")
