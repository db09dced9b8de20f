"""An owner's policy: what its agent refuses, whatever a job says."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import PlanRefused
from ..job import Job


@dataclass(frozen=True)
class Policy:
    """What one data owner insists on."""

    encryption_required: bool = True

    def check(self, owner: str, job: Job) -> None:
        """Raise ``PlanRefused`` for a job that this owner takes no part in."""
        if self.encryption_required and not job.encrypted:
            raise PlanRefused(
                f'{owner}\'s policy requires encrypted updates, the job has encryption.mode = "none"'
            )
