"""A survey on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from . import advice as words
from .survey import Survey


def survey_table(found: Survey) -> Group:
    """Columns, facts, what to look at again, what to set."""
    listed = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, side in (
        ("Column", "left"),
        ("Seems to hold", "left"),
        ("Filled", "right"),
        ("Different", "right"),
    ):
        listed.add_column(heading, justify=side)  # type: ignore[arg-type]
    for column in found.columns:
        listed.add_row(Text(column.name), column.kind, f"{column.filled:,}", f"{column.distinct:,}")
    said = [str(one) for one in words.advice(found)]
    return report(found.path, words.facts(found), words.warnings(found), said, listed)


def report(
    path: str,
    facts: Sequence[tuple[str, str]],
    warnings: Sequence[str],
    advice: Sequence[str],
    *tables: Table,
) -> Group:
    """What there is, what to look at again, and what to set."""
    lines = Table.grid(padding=(0, 2))
    for title, line in facts:
        lines.add_row(Text(title, style="bold"), Text(line))
    parts: list[RenderableType] = [Text(path, style="bold"), *tables, lines]
    for heading, texts in (("Look at again", warnings), ("Set", advice)):
        if texts:
            parts += [Text(""), Text(heading, style="bold"), *(Text(f"- {text}") for text in texts)]
    return Group(*parts)
