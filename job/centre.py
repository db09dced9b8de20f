"""How far a head's weights go that takes its steps around a centre (``learning.centring``)."""

from __future__ import annotations

from .job import Job

MOST_STRETCH = 8.0
"""Most times that what remains of features around the centre is made longer."""


def farther(job: Job) -> float:
    """How many times as far as without a centre a step around it moves a weight, at most.

    W = s W_z and b = b_z - s W_z c for features of a length L, with s <= ``MOST_STRETCH`` and |c| < L.
    """
    return 1 + MOST_STRETCH * job.model.feature_scale if job.training.centre_rounds else 1.0
