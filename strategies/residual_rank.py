"""How wide the residuals are that a job's strategy sends down, for owners who limit ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .catalogue import OURS, ours
from .construct import construct

if TYPE_CHECKING:
    from ..job import StrategySpec


def residual_rank(spec: StrategySpec) -> int:
    """Columns of a layer's residual at most; 0 without one, and for a rule that is not Umbel's own.

    Agents ask before a record is read, and load no other code for it. Raises ``StrategyError``.
    """
    if spec.name not in OURS:
        return 0
    return int(construct(ours(spec.name), dict(spec.options), spec).residual or 0)
