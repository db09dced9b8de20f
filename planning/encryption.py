"""What a job's encryption means: who is summed with whom, what is refused, what the server sees."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import PlanRefused
from ..job import Job
from ..learning.metrics import counts_of
from ..privacy.noise.client_noise import TAIL
from ..privacy.noise.counts_noise import LOSS_STEPS
from ..privacy.noise.scale import Scale
from ..privacy.secagg.parameters import fewest
from ..privacy.secagg.roster import Limits
from .facts import ClientFacts, some
from .limits import clip_said
from .noise import more_for_tests
from .terms import Terms
from .vector import OFFSET, Content

if TYPE_CHECKING:
    from ..learning.model import ModelShape

_FEWEST_BITS = 10
"""Binary places that an update must keep: a resolution of a thousandth."""


def server_sees(terms: Terms, cohort: int, further: Sequence[str] = ()) -> str:
    """What the server can read if a cohort has so many clients, in one sentence.

    The fewest clients are those of any cohort that the members would accept, for the server picks it.
    further: channels that the strategy adds up beside the update, by name.
    """
    job = terms.job
    beside = "".join(f", {name}" for name in further)
    if not job.encrypted:
        return (
            "NOT ENCRYPTED: the server sees each client's own "
            f"{'noised ' if job.private else ''}update{beside} and counts in every round."
        )
    numbers = terms.thresholds(cohort)
    colluders = max(group.colluders for group in numbers)
    over = (
        f"each of {len(numbers)} groups of clients"
        if len(numbers) > 1
        else f"the cohort's {numbers[0].members} clients"
    )
    server = (
        "even if it breaks the protocol"
        if job.encryption.confirm
        else "as long as it follows the protocol (honest but curious: encryption.confirm is off)"
    )
    alone = (
        f" and has up to {colluders} of the {terms.consortium} clients on its side"
        if colluders
        else ""
    )
    return (
        f"The server sees only sums of updates{beside}, counts and losses over {over}, and cannot open a "
        f"sum over fewer than {terms.fewest_in_a_sum}, {server}{alone}."
        + (
            " If a sum was spoiled, it also sees the sums of groups of its members, and one of "
            "these groups is named."
            if job.encryption.name_spoilers
            else ""
        )
    )


def encryption_facts(
    terms: Terms, cohort: int, largest: Callable[[], float], further: Sequence[str] = ()
) -> dict[str, Any]:
    """How the sums of a job's updates are protected, as JSON values. `largest`: the clip, of any round."""
    job, sees = terms.job, server_sees(terms, cohort, further)
    if not job.encrypted:
        return {"mode": "none", "server_sees": sees}
    numbers, clip = terms.thresholds(cohort), largest()
    scale = Scale(max(group.members for group in numbers), clip)
    return {
        "mode": job.encryption.mode,
        "groups": [group.members for group in numbers],
        "quorums": [group.quorum for group in numbers],
        "fewest": [fewest(group, terms.limits) for group in numbers],
        "colluders": [group.colluders for group in numbers],
        "trips": 3 if job.encryption.confirm else 2,
        "clip": clip,
        "resolution": 2.0**-scale.bits,
        "server_sees": sees,
    }


def encryption_refusals(
    terms: Terms, facts: Sequence[ClientFacts], model: ModelShape, tests: int
) -> list[str]:
    """Why the sums of this job cannot be encrypted, or may not go unencrypted."""
    from ..strategies import channels_over

    job = terms.job
    if not job.encrypted:
        unwilling = [client.name for client in facts if client.encryption_required]
        if not unwilling:
            return []
        return [
            f'encryption.mode = "none", but the policy of {some(unwilling)} requires encryption; in '
            "a simulation you are every owner: set simulation.encryption_required = false"
        ]
    reasons = []
    spec, limits, cohort = job.encryption, terms.limits, terms.cohort_size(len(facts))
    groups = terms.thresholds(cohort) if cohort else []
    for numbers in groups:
        least = fewest(numbers, limits)
        if numbers.members < least:
            reasons.append(
                f"a sum over {numbers.members} clients is not opened: at least {least} are needed "
                f"with encryption.minimum = {spec.minimum} and {numbers.colluders} possible "
                "colluders in it; use more clients"
                + (
                    ' (or encryption.mode = "none", if every owner\'s policy allows it)'
                    if cohort < 3
                    else ", or lower encryption.colluders"
                    + (" or raise strategy.options.buffer" if terms.asynchronous else "")
                )
            )
            break
    weight_cap = 1
    if job.weighting == "examples":
        weight_cap = max((c.training_size for c in facts), default=1)
    weight_cap *= terms.weight_unit
    most = max((group.members for group in groups), default=1)
    if terms.asynchronous:
        most = len(facts)  # whoever is too far behind is in a sum, too
    try:
        rounds = job.training.rounds
        many = channels_over(job.strategy, model.trained, rounds, clients=cohort)
        clip = max(terms.clip(channels.parameters) for channels, _ in many)
    except PlanRefused:
        return reasons  # of noise that is not enough: said elsewhere
    reasons += grid_refusals(job, clip, most, weight_cap)
    try:
        scale = Scale(most, clip)
    except ValueError:
        return reasons
    longest = counts_of(job.kind).most(job.model.max_length)
    noised = 0.0
    if job.private:
        longest = LOSS_STEPS * job.kind.adds
    with contextlib.suppress(PlanRefused):  # of noise that is not enough: said elsewhere
        test = None if job.per_client else terms.test_event(tests)
        widest = math.sqrt(max(terms.change.sums_squared, terms.change.cells_squared))
        noised = OFFSET + TAIL * math.sqrt(2) * test.noise_multiplier * widest if test else 0.0
        if noised > 2 * OFFSET:
            reasons.append(
                f"noise of {tests} tests does not fit the words of a sum: {more_for_tests(job)}, or "
                "test less often (evaluation.every)"
            )
    large = [c.name for c in facts if c.test_size * longest + noised > scale.most]
    if large:
        reasons.append(f"the held-out counts of {some(large)} could overflow a sum of {cohort}")
    lengths = (Content(terms, c, True, c.trip == 1).layout.length for c, _ in many)
    if any(length > limits.longest for length in lengths):
        reasons.append("the update is longer than a secure sum can be")
    return reasons


def grid_refusals(job: Job, clip: float, members: int, weight_cap: int) -> list[str]:
    """Why a sum of so many members has no grid for entries up to `clip`, or no room for their weights.

    The plan asks for the largest sum of a full cohort, a member for the sum that it is asked into, which
    is no larger: what the plan accepts, no member refuses.
    """
    said = clip_said(job, clip)
    try:
        bits = Scale(members, clip).bits
    except ValueError as error:
        return [f"{said} cannot be: {error}"]
    reasons = []
    if bits < _FEWEST_BITS:
        reasons.append(
            f"{said} leaves updates a resolution of {2.0**-bits:g}; their entries are far smaller: "
            + ("lower it" if job.encryption.clip is not None else "set a smaller encryption.clip")
        )
    if weight_cap * members >= 2**32:
        reasons.append('the weights could overflow the sum: set strategy.weighting = "equal"')
    return reasons


def roster_refusals(clip: float, limits: Limits) -> list[str]:
    """Whether entries of updates may be larger than a consortium's roster allows."""
    if clip <= limits.clip:
        return []
    return [
        f"updates of this job may have entries up to {clip:g}, and the consortium's roster allows "
        f"{limits.clip:g}: lower encryption.clip, or make a consortium for such jobs with: umbel "
        "consortium create FOLDER --job JOB"
    ]
