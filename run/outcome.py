"""What was decided on figures, in words: when training ended early, and which model was kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..quantities import NOT_DEFINED, metric_text, undefined
from .events import Ended, Kept, number


def figure_text(values: Mapping[str, Any] | None, key: str) -> str:
    """`values[key]` as people read it; of a test whose counts leave it undefined, that it is."""
    return NOT_DEFINED if undefined(values, key) else metric_text(key, number(values, key))


def kept_line(kept: Kept) -> str:
    if kept.value is None:
        asked = kept.metric
        why = f": {asked} was not defined in any test ({kept.on})" if asked else ""
        return f"The last model, after round {kept.round}, is the result{why}."
    figure = f"{kept.metric} {metric_text(str(kept.metric), kept.value)}"
    return f"The model after round {kept.round} is the result, the best by {figure} ({kept.on})."


def decision_line(event: Ended | Kept) -> str:
    """An event of either kind."""
    if isinstance(event, Kept):
        return kept_line(event)
    return f"Training ended early, after round {event.round}: {event.reason}."
