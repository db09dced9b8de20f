"""A survey on the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .advice import advice, facts, warnings
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
    lines = Table.grid(padding=(0, 2))
    for title, line in facts(found):
        lines.add_row(Text(title, style="bold"), Text(line))
    parts: list[RenderableType] = [Text(found.path, style="bold"), listed, lines]
    for heading, texts in (
        ("Look at again", warnings(found)),
        ("Set", [str(one) for one in advice(found)]),
    ):
        if texts:
            parts += [Text(""), Text(heading, style="bold"), *(Text(f"- {text}") for text in texts)]
    return Group(*parts)
