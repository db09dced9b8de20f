"""What a strategy that weighs by losses asks of their release in a private job."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .catalogue import OURS, ours
from .construct import construct

if TYPE_CHECKING:
    from ..job import StrategySpec


@dataclass(frozen=True)
class ChargedLoss:
    """How an owner's loss is released (``privacy.noise.loss_noise``). ``ValueError`` for what cannot be."""

    share: float
    """Of the noise that epsilon leaves room for, what the losses take from the steps: above 0, below 1."""
    clip: float = 0.0
    """What a record's loss, or a group's mean loss, counts as at most; 0: as the task caps it."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"loss_share = {self.share} must be above 0 and below 1")
        if not 0 <= self.clip < math.inf:
            raise ValueError(f"loss_clip = {self.clip} must be 0 (as the task caps it) or more")


def charged_loss(spec: StrategySpec) -> ChargedLoss | None:
    """Of a job's strategy; None if no weight follows from a loss, and of any that is not Umbel's own.

    Agents ask before a record is read, and load no other code for it. Raises ``StrategyError``.
    """
    if spec.name not in OURS:
        return None
    kind = ours(spec.name)
    if kind.local is None or not kind.local.needs_loss:
        return None
    found: ChargedLoss = construct(kind, dict(spec.options), spec).charged
    return found
