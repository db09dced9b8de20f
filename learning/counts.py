"""Which counts of its held-out records a client sends: those that the job says.

In a private job they are the few that noise can hide, cells and sums in steps, also if it sends them
exactly: no histogram of scores leaves then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..job import Job
from ..privacy.noise.counts_noise import GROUP_COUNTS
from .metrics import Counts, counts_of, exact_counts_from_list
from .private_counts import PrivateCounts, PrivateTask

if TYPE_CHECKING:
    from .tasks import Objective, Task


def counting(job: Job, task: Task, loss_clip: float | None = None) -> Objective:
    """The task, with counts of the kind that leaves. `loss_clip`: as ``PrivateTask`` has it."""
    classes = len(job.data.labels or ())
    if not job.private:
        return task
    return PrivateTask(task, counts_of(job.kind), classes, loss_clip, job.kind.adds)


def counts_from_list(job: Job, numbers: Sequence[float]) -> Counts:
    """Counts as they came off the wire; ``MessageError`` for what no client can have sent."""
    if job.private:
        return PrivateCounts.from_list(counts_of(job.kind), len(job.data.labels or ()), numbers)
    return exact_counts_from_list(job.task, numbers)


def figures(job: Job, counts: Counts) -> dict[str, Any]:
    """What the counts of one or more clients say, after ``PrivateCounts.bounded``.

    If clients are hidden as a whole, their counts are scaled to one size: how many examples
    there were is then not known. If groups are, every group counts alike: accuracy is the mean over
    groups of the share of right answers, and examples are groups.
    """
    labels = job.data.labels or []
    if job.per_group and isinstance(counts, PrivateCounts):
        return counts.metrics(labels, GROUP_COUNTS)
    found = counts.metrics(labels)
    return found | {"examples": None} if job.per_client else found


def own_counts(job: Job, counts: Counts) -> Counts:
    """What an owner keeps of its own counts, for itself: without noise, and added up they are all's."""
    if job.per_group and isinstance(counts, PrivateCounts):
        return counts.bounded(job)
    return counts


def own_figures(job: Job, counts: Counts) -> dict[str, Any]:
    """What ``own_counts`` of one or more owners say: every record counts, or every group alike."""
    if job.per_group:
        return figures(job, counts)
    return counts.metrics(job.data.labels or [])


def zero_counts(job: Job) -> Counts:
    """Counts of no examples."""
    classes = len(job.data.labels or ())
    kind = counts_of(job.kind)
    return PrivateCounts.zero(kind, classes) if job.private else kind.zero(classes)
