"""What strategies have in common that keep a state at each owner."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..job import Job


def not_under_client_level(job: Job, method: str) -> Iterator[str]:
    """Why an owner's state, which follows from its whole update, does not go with client-level privacy."""
    if job.per_client:
        yield (
            f'{method} goes with example- and group-level privacy, and not with privacy.unit = "client": '
            "an owner's state would follow from its update before that is clipped, and the server's from "
            'the clipped ones. Take strategy.name = "fedprox", which has no state'
        )
