"""How wide the residuals are that a job's strategy sends down, for owners who limit ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .construct import own_rule

if TYPE_CHECKING:
    from ..job import StrategySpec


def residual_rank(spec: StrategySpec) -> int:
    """Columns of a layer's residual at most; 0 without one, and for a rule that is not Umbel's own."""
    return int(getattr(own_rule(spec), "residual", 0))
