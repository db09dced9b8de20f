"""Thresholds, and who shares secrets with whom. Everybody computes them; nobody is told them.

Notation: n members of a cohort; n_C = ceil(gamma N) of the N members of the roster may collude with
the server, which picks cohorts and so could put all of them into one; quorum
t = floor((n + n_C) / 2) + 1, so that 2t > n + n_C: two quorums share an honest member.

Up to ``COMPLETE`` members everybody shares secrets and masks with everybody. Above, each does so
with k neighbours only (Bell et al. 2020, "Secure single-server aggregation with (poly)logarithmic
overhead", sec. 3), on a circle whose order comes from nonces of all members.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

from .roster import Limits

COMPLETE = 100
"""Largest cohort in which all members are neighbours of each other."""

_INSECURE = 2.0**-40
"""Probability that colluders can exploit a random graph of neighbours."""
_ABANDONED = 2.0**-20
"""Probability that a slot is lost although at most ``_DROPOUT`` of the members dropped out."""
_DROPOUT = 0.1


@dataclass(frozen=True)
class Thresholds:
    """The numbers of one cohort."""

    members: int
    """n"""
    colluders: int
    """n_C: tolerated colluders, all of whom may be in this cohort."""
    quorum: int
    """t: fewest members in a sum, and fewest confirmations of it."""
    degree: int
    """k: neighbours of each member."""
    shares: int
    """The fewest shares that reconstruct a secret, of the degree + 1 that exist."""
    stretch: int
    """The fewest survivors among any degree / 2 consecutive members on the circle; 0 if complete."""

    @property
    def circle(self) -> bool:
        """Whether neighbours are those on a circle, and not everybody."""
        return self.degree < self.members - 1


@lru_cache
def thresholds(members: int, gamma: float, confirm: bool, consortium: int = 0) -> Thresholds:
    """The thresholds of a cohort of `members`, with a share `gamma` of colluders in the `consortium`.

    `consortium` is the number of members of the roster (default: the cohort is all there is). A
    quorum above `members` means that no sum of this cohort is ever opened.
    Without the confirmation trip the quorum is at least 0.8 n: a server that tells different members
    of different survivors can then still not single out a small set.
    """
    colluders = math.ceil(gamma * max(members, consortium))
    quorum = (members + colluders) // 2 + 1
    if not confirm:
        quorum = max(quorum, math.ceil(0.8 * members))
    if members <= COMPLETE or quorum > members:
        return Thresholds(members, colluders, quorum, members - 1, quorum, 0)
    degree, shares, stretch = _degree(members, colluders, confirm)
    if degree >= members - 1:
        return Thresholds(members, colluders, quorum, members - 1, quorum, 0)
    return Thresholds(members, colluders, quorum, degree, shares, stretch)


def fewest(numbers: Thresholds, limits: Limits) -> int:
    """Fewest members of a sum: the quorum, the roster's minimum, and two beyond the colluders."""
    return max(numbers.quorum, limits.minimum, numbers.colluders + 2)


def smallest_sum(consortium: int, limits: Limits) -> int:
    """Fewest members in any sum that a roster of `consortium` members ever lets a server open."""
    for members in range(limits.minimum, consortium + 1):
        numbers = thresholds(members, limits.colluders, limits.confirm, consortium)
        if fewest(numbers, limits) <= members:
            return fewest(numbers, limits)
    return consortium + 1


def most_absent(members: int, limits: Limits) -> int | None:
    """How many of a whole roster may be missing from a sum of everybody; None if there is no sum."""
    least = fewest(thresholds(members, limits.colluders, limits.confirm, members), limits)
    return members - least if members >= least else None


def _degree(members: int, colluders: int, confirm: bool) -> tuple[int, int, int]:
    """Fewest neighbours (even) that are safe and lose few slots, and the threshold among them.

    Safe: the circle's order does not depend on who colludes, so but for a chance of 2^-40 no member
    has so many colluders as neighbours that they and a lying server get both of its secrets, and no
    stretch of k/2 members has as many of them as survivors are demanded in it. So each stretch keeps
    an honest survivor, and the honest survivors are connected, whomever the server calls dropped: it
    cannot open the sums of parts. Live: with one member in ten gone by chance, every member has
    enough neighbours and every stretch enough survivors.
    """
    from scipy.stats import hypergeom

    gone = math.ceil(_DROPOUT * members)
    for degree in range(10, members - 1, 2):
        half = degree // 2
        worst = int(hypergeom(members - 1, colluders, degree).isf(_INSECURE / 2 / members)) + 1
        shares = (degree + 1 + worst) // 2 + 1
        if not confirm:
            shares = max(shares, math.ceil(0.8 * (degree + 1)))
        stretch = int(hypergeom(members, colluders, half).isf(_INSECURE / 2 / members)) + 2
        if shares > degree or stretch > half:
            continue
        too_few_shares = hypergeom(members - 1, gone, degree).sf(degree + 1 - shares)
        too_few_in_a_row = hypergeom(members, gone, half).sf(half - stretch)
        if members * (too_few_shares + too_few_in_a_row) < _ABANDONED:
            return degree, shares, stretch
    return members - 1, 0, 0


def circle_of(cohort: Sequence[str], seed: bytes) -> list[str]:
    """The cohort in the order that its nonces give."""
    return sorted(cohort, key=lambda name: hashlib.sha256(seed + name.encode()).digest())


def neighbours(cohort: Sequence[str], degree: int, seed: bytes) -> dict[str, list[str]]:
    """Each member's neighbours, ascending: the `degree` nearest on the circle, or all others."""
    if degree >= len(cohort) - 1:
        return {name: [other for other in cohort if other != name] for name in cohort}
    circle = circle_of(cohort, seed)
    reach = range(1, degree // 2 + 1)
    n = len(circle)
    return {
        name: sorted({circle[(place + step) % n] for d in reach for step in (d, -d)})
        for place, name in enumerate(circle)
    }


def fewest_in_a_row(
    cohort: Sequence[str], survivors: Collection[str], degree: int, seed: bytes
) -> int:
    """Fewest `survivors` among any degree / 2 members that follow each other on the circle."""
    alive = set(survivors)
    present = [name in alive for name in circle_of(cohort, seed)]
    half = degree // 2
    count = fewest = sum(present[:half])
    for place in range(len(present)):
        count += present[(place + half) % len(present)] - present[place]
        fewest = min(fewest, count)
    return fewest
