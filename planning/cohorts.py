"""Who is asked in a round, and who is summed with whom: the same for everybody who knows the job's seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from ..job import Job
from ..strategies import buffered
from ..strategies.robust.compared import byzantine_of
from .buffered import most_asked, scheduled


def sample_cohort(names: Sequence[str], job: Job, round_: int, attempt: int = 0) -> list[str]:
    """The clients asked in a round, sorted."""
    if job.cohort.size is None or job.cohort.size >= len(names):
        return sorted(names)

    def lot(name: str) -> bytes:
        return hashlib.sha256(f"{job.seed}\n{round_}\n{attempt}\n{name}".encode()).digest()

    return sorted(sorted(names, key=lot)[: job.cohort.size])


def attackers_of(names: Sequence[str], job: Job) -> list[str]:
    """The virtual clients that attack in a simulation, sorted: a share of all."""
    share = job.simulation.attackers
    if not share:
        return []

    def lot(name: str) -> bytes:
        return hashlib.sha256(f"{job.seed}\nattackers\n{name}".encode()).digest()

    return sorted(sorted(names, key=lot)[: byzantine_of(share, len(names))])


def participations_of(job: Job, names: Sequence[str], *, virtual: bool = True) -> dict[str, int]:
    """Rounds in which each client is asked, if all of them are there; at most, if it is asked when it happens
    to be ready.

    virtual: whether clients of an asynchronous job are ready when the virtual clock says so.
    """
    if buffered(job.strategy) is not None:
        if not virtual:
            return dict.fromkeys(names, most_asked(job))
        counts = dict.fromkeys(names, 0)
        for _, members in scheduled(job, names):
            for name in members:
                counts[name] += 1
        return counts
    if job.cohort.size is None or job.cohort.size >= len(names):
        return dict.fromkeys(names, job.training.rounds)
    counts = dict.fromkeys(names, 0)
    for round_ in range(1, job.training.rounds + 1):
        for name in sample_cohort(names, job, round_):
            counts[name] += 1
    return counts


def groups_of(cohort: Sequence[str], job: Job) -> list[list[str]]:
    """Who is summed with whom: one group, or several of at least ``encryption.group_size``.

    Dealt by lot from the job's seed, the same in every round with the same cohort: a client that
    changed groups could be singled out from the differences.
    """
    size = job.encryption.group_size or len(cohort)
    count = max(1, len(cohort) // max(1, size))

    def lot(name: str) -> bytes:
        return hashlib.sha256(f"{job.seed}\ngroups\n{name}".encode()).digest()

    dealt = sorted(cohort, key=lot)
    return [sorted(dealt[place::count]) for place in range(count)]
