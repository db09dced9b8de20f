"""Strategies that weigh by an owner's loss, in a private job: what it is charged, and when it is refused.

Guarantee: under example- and group-level privacy the loss that a local half gets is L of
``privacy.noise.loss_noise``, released by its owner alone with the whole noise, in each round that it takes
part in. The update was noised in its steps, so (L, update) is a composition of charged releases, and a
weighted update with its part of the normaliser is a function of the two: post-processing (Dwork and Roth
2014, Prop. 2.1), whatever the weight is. No noise is added to a sum of weighted updates, and none has to be
scaled by weights: each owner's covers it before it is weighted, so a weight near 0 of another owner takes
nothing away.

Under client-level privacy neither holds. One client's data may change its mean loss from 0 to C, so noise
that hides it is as large as the loss; and members share the noise of a sum, which weights would divide
unevenly (``strategies.fedbuff``). So that is refused.

Assumption: the strategy is Umbel's own. Agents compute a job's noise before they load any other code, so
losses for somebody's own rule are not charged, and it is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

from ..job import Job
from ..learning.metrics import counts_of
from ..privacy.accounting.accountant import MechanismEvent
from ..privacy.noise.loss_noise import losses_event
from ..privacy.noise.sizes import SIZE_EPSILON
from ..strategies import charged_loss, weighs_by_loss
from .facts import some

if TYPE_CHECKING:
    from .plan import ClientPlan

_BLURRED = 0.25
"""From this share of the clip on, a noised loss says little of an owner."""


def releases_loss(job: Job) -> bool:
    """Whether each owner releases a noised loss in each round."""
    return job.noised_locally and charged_loss(job.strategy) is not None


def clip_of_loss(job: Job) -> float:
    """C: what a unit's loss counts as at most, in the unit of the task's loss."""
    declared = charged_loss(job.strategy)
    own = declared.clip if declared else None
    return own or counts_of(job.kind).caps(len(job.data.labels or ()))[0]


def event_of_losses(job: Job, releases: int) -> MechanismEvent | None:
    """So many releases of an owner's loss; None if the job has none.

    Raises ``PlanRefused`` if no noise meets the target.
    """
    declared = charged_loss(job.strategy) if job.noised_locally else None
    if declared is None:
        return None
    privacy = job.privacy
    return losses_event(privacy.epsilon - SIZE_EPSILON, privacy.delta, releases, declared.share)


def loss_refusals(job: Job, accepted: Collection[str] | None) -> Iterator[str]:
    """Why a private job cannot weigh by loss. `accepted`: as for ``strategies.refusals``."""
    if not (job.private and weighs_by_loss(job.strategy, accepted)):
        return
    name = f'strategy.name = "{job.strategy.name}"'
    if job.per_client:
        yield (
            f"{name} weighs an owner's update by its loss, and noise that hides all data of one client is as "
            'large as its loss: take privacy.unit = "example" or "group", or strategy.name = "fedavg"'
        )
    elif charged_loss(job.strategy) is None:
        yield (
            f"{name} weighs by its loss, which no noise covers and no ledger is charged for: owners compute "
            'the noise of a job before they load a strategy that is not Umbel\'s. Take "q-fedavg" or '
            '"afl", whose losses are noised and charged, or privacy.unit = "none"'
        )


def loss_warnings(job: Job, clients: Iterable[ClientPlan]) -> list[str]:
    """Owners that have too few records for their loss to be told through its noise."""
    if not releases_loss(job):
        return []
    blurred = {
        client.name: client.events["losses"].noise_multiplier / max(1, client.training_size)
        for client in clients
        if "losses" in client.events
    }
    many = [name for name, blur in blurred.items() if blur > _BLURRED]
    if not many:
        return []
    return [
        f"Weights by loss: noise moves the loss of {some(many)} by up to {max(blurred.values()):.0%} of its "
        f"clip ({clip_of_loss(job):.3g}), so such weights say little. Raise strategy.options.loss_share or "
        'privacy.epsilon, ask for fewer rounds, or take strategy.name = "fedavg".'
    ]
