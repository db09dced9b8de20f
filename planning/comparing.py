"""What a strategy has to compare in a round, and what share of it Byzantine clients are expected to spoil."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..strategies.robust.compared import byzantine_of
from .facts import ClientFacts
from .terms import Terms

SHARES = (0.05, 0.1, 0.2)
"""Of Byzantine clients, for which the plan says how many groups they spoil."""


def comparing_refusals(terms: Terms, facts: Sequence[ClientFacts]) -> list[str]:
    """Why the job's strategy has too little to compare, or weighs what cannot be weighed.

    Without encryption only the fewest clients that make a round count may answer, all Byzantine ones among
    them.
    """
    from ..strategies import compares, sees

    job = terms.job
    sight, cohort = sees(job.strategy), terms.cohort_size(len(facts))
    if sight == "SUM" or not cohort:
        return []
    name = f'strategy.name = "{job.strategy.name}"'
    groups = terms.thresholds(cohort)
    if job.encrypted and sight == "INDIVIDUAL":
        return [
            f"{name} needs each client's own update, which nobody can see: take one that compares the "
            'means of groups, such as "median", and set encryption.group_size'
        ]
    if job.encrypted and len(groups) < 2:
        return [
            f"{name} compares single updates, which nobody can see: use one that needs only their sum, or "
            "set encryption.group_size (4 or more, with at least two groups), so that it compares the "
            "means of groups"
        ]
    rule = compares(job.strategy)
    if rule is None:
        return []
    vectors = len(groups) if job.encrypted else min(cohort, terms.fewest_answers(cohort))
    reasons = [rule.refusal(vectors, cohort)]
    if job.weighting == "examples":
        reasons.append('it counts every client once: set strategy.weighting = "equal"')
    return [f"{name}: {reason}" for reason in reasons if reason]


def comparing_facts(terms: Terms, cohort: int) -> dict[str, Any] | None:
    """What a strategy compares in a round of so many clients, as JSON values; None if nothing."""
    from ..strategies import sees

    if sees(terms.job.strategy) == "SUM":
        return None
    groups = terms.thresholds(cohort)
    if not terms.job.encrypted:
        return {"what": "updates", "vectors": cohort, "size": 1}
    sizes = [group.members for group in groups]
    return {
        "what": "groups",
        "vectors": len(sizes),
        "size": min(sizes),
        "spoiled": {f"{share:g}": round(spoiled(sizes, share), 4) for share in SHARES},
    }


def spoiled(sizes: Sequence[int], share: float) -> float:
    """Which share of groups is expected to have a Byzantine member, if `share` of all members are.

    Groups are dealt by lot, so a group of s among m members with b Byzantine ones has none with the chance
    C(m - b, s) / C(m, s).
    """
    members = sum(sizes)
    b = byzantine_of(share, members)
    clean = sum(math.comb(members - b, size) / math.comb(members, size) for size in sizes)
    return 1 - clean / len(sizes)
