"""What was decided on figures, in words: where training ended early, and which model was kept."""

from __future__ import annotations

from ..quantities import metric_text
from .events import Json, number


def ended_line(event: Json) -> str:
    return f"Training ended early, after round {event['round']}: {event['reason']}."


def kept_line(kept: Json) -> str:
    """`kept` as in result.json and in the event of this name."""
    value = number(kept, "value")
    if value is None:
        asked = kept.get("metric")
        why = f": {asked} was not defined in any test ({kept['on']})" if asked else ""
        return f"The last model, after round {kept['round']}, is the result{why}."
    figure = f"{kept['metric']} {metric_text(str(kept['metric']), value)}"
    return (
        f"The model after round {kept['round']} is the result, the best by {figure} ({kept['on']})."
    )


def decision_line(event: Json) -> str:
    """An event of either kind."""
    return ended_line(event) if event["event"] == "ended" else kept_line(event)
