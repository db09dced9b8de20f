"""What a simulation's file holds, in the lines of a plan and of a run's progress."""

from __future__ import annotations

from collections import Counter
from typing import Any

_NAMED = 12
_FEW = 10
_MANY = 0.05
"""Share of texts at the greatest length from which on it is worth a word."""


def holdings_lines(holdings: dict[str, Any]) -> list[str]:
    """Records, classes, and what is left out; then what a person should look at again."""
    dropped = ", ".join(f"{count:,} with {why}" for why, count in holdings["dropped"].items())
    lines = [f"{holdings['records']:,} records" + (f"; left out: {dropped}" if dropped else "")]
    if groups := holdings["groups"]:
        lines.append(
            f"{groups['number']:,} groups; the largest has {groups['largest']:,} records, of which at most "
            f"{groups['used']} count in a step (data.records_per_group)"
        )
        if groups["missing"]:
            lines.append(
                f"{groups['missing']:,} records without a group: each is protected by itself, whomever it "
                "belongs to"
            )
    classes: dict[str, int] = holdings["classes"]
    if classes:
        common = Counter(classes).most_common(_NAMED)
        named = ", ".join(f"{name} ({count:,})" for name, count in common)
        more = len(classes) - len(common)
        lines.append(f"{len(classes)} classes: {named}" + (f" and {more} more" if more else ""))
        if rare := [name for name, count in classes.items() if count < _FEW]:
            lines.append(
                f"classes with fewer than {_FEW} records, too few to learn: {len(rare)}, such as "
                f"{rare[0]!r:.60}. Is the label column the right one?"
            )
    if holdings["longest"] > _MANY:
        lines.append(
            f"{holdings['longest']:.0%} of the texts fill {holdings['max_length']} tokens; what goes "
            "beyond is cut off (model.max_length)"
        )
    return lines
