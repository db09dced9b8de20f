"""Which counts of its held-out records a client sends: those that the job says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..job import Job
from .metrics import ClassificationCounts, Counts, LanguageCounts, exact_counts_from_list
from .private_counts import PrivateCounts, PrivateTask

if TYPE_CHECKING:
    from .tasks import Task


def counting(job: Job, task: Task) -> Task:
    """The task, with counts of the kind that leaves."""
    classes = len(job.data.labels or ())
    return PrivateTask(task, classes) if job.tests_privately else task


def counts_from_list(job: Job, numbers: Sequence[float]) -> Counts:
    """Counts as they came off the wire; ``MessageError`` for what no client can have sent."""
    if job.tests_privately:
        return PrivateCounts.from_list(numbers)
    return exact_counts_from_list(job.task, numbers)


def figures(job: Job, counts: Counts) -> dict[str, Any]:
    """What the counts of one or more clients say.

    Where clients are hidden as a whole, their counts are scaled to one size: how many examples
    there were is then not known.
    """
    found = counts.metrics(job.data.labels or [])
    return found | {"examples": None} if job.per_client else found


def zero_counts(job: Job) -> Counts:
    """Counts of no examples."""
    classes = len(job.data.labels or ())
    if job.tests_privately:
        return PrivateCounts.zero(classes)
    return LanguageCounts.zero() if job.task == "causal-lm" else ClassificationCounts.zero(classes)
