"""What a job says of the values that a recipe chose: which they are, and by which numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

_WHY = ": "


def chosen_text(keys: Collection[str], why: str) -> str:
    """A job's ``recipe``: dotted keys, and what their values follow from."""
    return ", ".join(sorted(keys)) + _WHY + why


def still_chosen(text: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """The text without keys whose values `after` are others than `before`; None if none is left.

    before, after: a job's values, as nested tables. What somebody set instead is theirs, not the recipe's.
    """
    keys, _, why = text.partition(_WHY)
    names = keys.split(", ")
    kept = [name for name in names if _value(before, name) == _value(after, name)]
    if len(kept) == len(names):
        return text
    return chosen_text(kept, why) if kept else None


def _value(values: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        values = values.get(name) if isinstance(values, Mapping) else None
    return values
