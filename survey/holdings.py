"""What a simulation's file holds, in the lines of a plan, of a run's progress and of its page.

For the person who brought the file, on the machine where it lies: counts of records are exact here, and no
agent sends them.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from ..quantities import counted, verb
from .lengths import WORTH

_NAMED = 12
FEW = 10
"""With fewer records of a class a model does not learn it, and a test cannot show whether it did."""


def holdings_lines(holdings: dict[str, Any]) -> list[str]:
    """How the file was read, records, classes, what is left out; then what to look at again."""
    left_out = left_out_text(holdings["dropped"])
    lines = [*holdings.get("read", [])]
    held = holdings.get("held_out")
    lines.append(
        counted(holdings["records"], "record")
        + (f", {held:,} of them held out" if held else "")
        + (f"; left out: {left_out}" if left_out else "")
    )
    if held == 0:
        lines.append(
            "No record is held out, so nothing is measured: set data.test_path, or a data.test_fraction "
            "above 0 (--set data.test_fraction=0.2)."
        )
    if groups := holdings["groups"]:
        lines += _groups(groups)
    if classes := holdings["classes"]:
        lines += _classes(classes, holdings.get("held_out_classes"), bool(held))
    if untold := holdings.get("too_short"):
        lines.append(
            f"{counted(untold, 'text')} {verb(untold, 'is', 'are')} too short to learn from (a language "
            "model needs two tokens)."
        )
    if cut := holdings.get("cut"):
        lines.append(cut_text(cut, holdings["max_length"]))
    elif holdings["longest"] > WORTH:
        lines.append(
            f"{holdings['longest']:.0%} of the texts fill {holdings['max_length']} tokens; the rest "
            "is cut off (model.max_length)"
        )
    return [*lines, *holdings.get("look", [])]


def left_out_text(dropped: dict[str, int]) -> str:
    """Rows that are left out, by reason."""
    return ", ".join(
        f"{count:,} {why}" if why == "unreadable" else f"{count:,} with {why}"
        for why, count in dropped.items()
    )


def cut_text(cut: dict[str, float], max_length: int) -> str:
    """How many texts are cut, and what to set; `cut` as ``lengths.cut`` gives it."""
    longer = int(cut["longer"])
    text = f"About {cut['share']:.0%} of the texts are cut at {max_length} tokens"
    dialogues = bool(cut.get("whole_turns"))
    if dialogues:
        what = "lose their first turns, or are left out,"
        text = f"About {cut['share']:.0%} of the dialogues {what} at {max_length} tokens"
    if longer <= max_length or cut["then"] > cut["share"] / 2:
        parts = "shorter dialogues" if dialogues else "passages"
        return (
            f"{text} (model.max_length), and most of them at {longer} too: split them into {parts}."
        )
    return (
        f"{text}; at {longer} it would be {cut['then']:.0%}, in about {longer / max_length:.1f} times the "
        f"time: model.max_length = {longer} in the job file, or --set model.max_length={longer}."
    )


def _groups(groups: dict[str, int]) -> list[str]:
    lines = [
        f"{counted(groups['number'], 'group')}; the largest has {counted(groups['largest'], 'record')}, of "
        f"which at most {groups['used']} count in a step (data.records_per_group)"
    ]
    if groups["missing"]:
        lines.append(
            f"{counted(groups['missing'], 'record')} without a group: each is protected by itself, even if "
            "several belong to one person"
        )
    return lines


def _classes(classes: dict[str, int], tested: dict[str, int] | None, any_held: bool) -> list[str]:
    common = Counter(classes).most_common(_NAMED)
    named = ", ".join(f"{name} ({count:,})" for name, count in common)
    more = len(classes) - len(common)
    lines = [f"{counted(len(classes), 'class')}: {named}" + (f" and {more} more" if more else "")]
    if rare := [name for name, count in classes.items() if count < FEW]:
        lines.append(
            f"classes with fewer than {FEW} records, too few to learn: {len(rare)}, such as "
            f"{rare[0]!r:.60}. Is the label column the right one?"
        )
    untested = [name for name, count in (tested or {}).items() if not count]
    if untested and any_held:
        lines.append(
            f"classes without a held-out record: {len(untested)}, such as {untested[0]!r:.60}. "
            "Their figures are not measured."
        )
    return lines
