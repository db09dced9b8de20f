"""What a run does at one owner, by public numbers: for the owner to read, and kept beside the job."""

from __future__ import annotations

from typing import Any

from ..job import Job
from ..wire.requests import Assignment
from .public_numbers import PublicNumbers


def planned_here(job: Job, assignment: Assignment, numbers: PublicNumbers) -> dict[str, Any]:
    """Noise, sampling, rounds and cost, as agent and plan compute them."""
    found: dict[str, Any] = {
        "unit": job.privacy.unit,
        "rounds": job.training.rounds,
        "rounds_here": assignment.participations,
        "tests": assignment.tests,
        "local_steps": job.training.local_steps,
        "encryption": job.encryption.mode,
    }
    if not job.private:
        return found
    recipe, privacy = numbers.recipe(job, assignment), job.privacy
    return found | {
        "training_size": numbers.of_answers(job, assignment).training_size,
        "sampling_rate": recipe.sampling_rate,
        "noise_multiplier": recipe.noise_multiplier,
        "clipping_norm": privacy.clipping_norm,
        "epsilon": recipe.epsilon,
        "epsilon_at_most": privacy.owner_limit,
        "delta": privacy.delta,
        "spare_rounds": job.spare_rounds,
    }
