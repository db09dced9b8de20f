"""What each strategy would cost in a job over virtual owners, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

from ..job import Job
from ..job.rounds import StrategySpec
from ..planning.suite import InJob, in_job
from ..server.run import Listener
from .engine import plan_job


def in_simulation(job: Job, names: Sequence[str], listener: Listener | None = None) -> list[InJob]:
    """One for each name. Raises ``PlanRefused`` for a job that can have not even plain averaging."""
    plain = job.model_copy(update={"strategy": StrategySpec(weighting=job.strategy.weighting)})
    plan, federation = plan_job(plain, listener)
    return [in_job(plan, federation.facts, name) for name in names]
