"""Training whose update is the sum of what its steps released, with nothing done to it."""

from __future__ import annotations

from typing import Any

from ..job import Job


def with_plain_sgd(job: Job, **training: Any) -> Job:
    """The job with SGD at learning rate 1 throughout, and other values of `training`."""
    plain = {
        "optimizer": "sgd",
        "learning_rate": 1.0,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "schedule": "constant",
        "warmup": 0.0,
    }
    changed = job.training.model_copy(update=plain | training)
    return job.model_copy(update={"training": changed})
