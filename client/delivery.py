"""How an answer leaves: as masked words that only a sum opens, or in the clear."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..job import Job
from ..learning.metrics import Counts
from ..learning.trainer import Outcome
from ..wire.arrays import to_array_record
from ..wire.packing import SECAGG, to_bytes_record

if TYPE_CHECKING:
    from flwr.app import RecordDict

Metrics = dict[str, int | float | list[int] | list[float]]


def masked(reply: bytes, vector: bytes, metrics: Metrics) -> RecordDict:
    """A reply that tells the server nothing but its metrics, which are public or charged."""
    from flwr.app import MetricRecord, RecordDict

    return RecordDict(
        {
            SECAGG: to_bytes_record(reply=reply, vector=vector),
            "metrics": MetricRecord(metrics),
        }
    )


def in_the_clear(
    job: Job, outcome: Outcome | None, counts: Counts | None, metrics: Metrics
) -> RecordDict:
    """A reply that the server can read: only where the job and the owner's policy say so."""
    from flwr.app import MetricRecord, RecordDict

    content = RecordDict()
    if outcome is not None:
        content["arrays"] = to_array_record(outcome.update)
        if not job.private:
            metrics["loss"] = outcome.loss
    if counts is not None:
        metrics["counts"] = [float(number) for number in counts.to_list()]
    content["metrics"] = MetricRecord(metrics)
    return content
