"""What a strategy that weighs by losses asks of their release in a private job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .construct import own_rule

if TYPE_CHECKING:
    from ..job import StrategySpec


_LEAST, _MOST = 0.001, 1_000_000
"""Of a clip: beyond, weights that follow from losses in shares of it would be no numbers."""


@dataclass(frozen=True)
class ChargedLoss:
    """How an owner's loss is released (``privacy.noise.loss_noise``). ``ValueError`` for what cannot be."""

    share: float
    """Of the noise that epsilon leaves room for, what the losses take from the steps: above 0, below 1."""
    clip: float = 0.0
    """What a record's loss, or a group's mean loss, counts as at most: from 0.001 to 1,000,000; 0: as the
    task caps it."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"loss_share = {self.share} must be above 0 and below 1")
        if self.clip != 0 and not _LEAST <= self.clip <= _MOST:
            raise ValueError(
                f"loss_clip = {self.clip} must be 0 (as the task caps it), or from {_LEAST} to {_MOST:,}"
            )


def charged_loss(spec: StrategySpec) -> ChargedLoss | None:
    """Of a job's strategy; None if no weight follows from a loss, and of any that is not Umbel's own."""
    found: ChargedLoss | None = getattr(own_rule(spec), "charged", None)
    return found
