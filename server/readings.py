"""What a secure sum says once it is open, and what this server adds to it before anything else is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import ProtocolError, RoundFailed
from ..learning.metrics import total
from ..planning.vector import Content, Reading
from ..privacy.noise.client_noise import ServerNoise
from ..privacy.secagg.aggregator import Aggregator
from .collect import Collection
from .exchange import Stage
from .run import Run


def read_sum(
    run: Run,
    stage: Stage,
    content: Content,
    group: Aggregator,
    factor: Callable[[str], int] = lambda name: 1,
) -> Reading:
    """The opened sum of a group. `factor`: of each member's planned weight in it.

    Raises ``ProtocolError`` if it cannot be of these members, ``RoundFailed`` if none of them could compute.
    """
    reading = content.read(group.open(), server_noise(run, stage, train=content.train))
    planned = sum(run.plan.by_name[name].weight * factor(name) for name in group.survivors)
    if reading.weight != planned:
        raise ProtocolError(
            "sum", "the cohort", f"it has weight {reading.weight}, but {planned} by the plan"
        )
    if reading.unable >= reading.members:
        # Another attempt would fare no better, and cost the owners' budgets again.
        raise RoundFailed(
            f"Round {stage.round}: no client was able to train or test the model. It may "
            "have diverged: lower training.learning_rate. The clients' own logs say more. Round "
            f"{run.round} is saved."
        )
    return reading


def server_noise(run: Run, stage: Stage, *, train: bool) -> ServerNoise | None:
    """What this server adds to a sum of updates before anything else is done with it."""
    job = run.plan.job
    if not train or not job.per_client or job.noised_by_clients:
        return None
    stream = run.secrets(f"server/{stage.round}/{stage.attempt}")
    return run.plan.terms.server_noise(run.clipping_norm, stream)


def add_up(to: Collection, readings: Sequence[Reading]) -> None:
    """What the sums of a round say beside their updates, of all groups together."""
    to.clipped = sum(reading.clipped for reading in readings)
    to.unable = sum(reading.unable for reading in readings)
    within = [reading.within for reading in readings if reading.within is not None]
    to.within = sum(within) / len(within) if within else None
    losses = [reading.loss for reading in readings if reading.loss is not None]
    to.loss = sum(losses) / len(losses) if losses else None
    counts = {str(n): r.counts for n, r in enumerate(readings) if r.counts is not None}
    if counts:
        to.counts = {"": total(counts)}
