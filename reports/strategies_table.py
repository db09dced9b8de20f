"""``umbel strategies``: every strategy in a line, or one of them in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from ..quantities import size_text
from .tables import facts_table, plain_table


def strategies_table(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """A line for each; if a job was given, of those that it can have, and what each costs in it."""
    in_job = any("bytes_up" in row for row in rows)
    table = plain_table()
    table.add_column("Name", no_wrap=True)
    table.add_column("Rule", ratio=1, min_width=20 if in_job else 28, overflow="fold")
    table.add_column("Sees", max_width=5)
    table.add_column("Keeps", max_width=10)
    if in_job:
        table.add_column("Up", justify="right", no_wrap=True)
        table.add_column("Down", justify="right", no_wrap=True)
    else:
        table.add_column("Privacy", no_wrap=True)
    refused = [row["name"] for row in rows if row.get("refusal")]
    for row in rows:
        if row["name"] in refused:
            continue
        sizes = [size_text(row[way]) for way in ("bytes_up", "bytes_down")] if in_job else []
        last = sizes or [_privacy(row)]
        table.add_row(*map(Text, [row["name"], row["rule"], row["sees"], row["state"], *last]))
    said = [
        "Up, Down: bytes of one client in a round of this job."
        if in_job
        else "Privacy: at the level of examples (and groups of them), or of clients as well (all)."
    ]
    if refused:
        said.append(
            f"Not in this job: {', '.join(refused)} (umbel strategies NAME --job JOB says why)."
        )
    said.append("More of one: umbel strategies NAME")
    return Group(table, *(Text(line, style="dim") for line in said))


def _privacy(row: Mapping[str, Any]) -> str:
    """The units of privacy that it composes with."""
    units = [unit for unit in ("example", "client") if row[unit] != "no"]
    return "all" if len(units) == 2 else ", ".join(units) or "none"


def strategy_facts(row: Mapping[str, Any]) -> RenderableType:
    """One of them in full."""
    options = ", ".join(f"{name} = {value!r}" for name, value in row["options"].items())
    facts = [
        ("Rule", row["about"].replace("\n\n", "\0").replace("\n", " ").replace("\0", "\n")),
        ("Paper", row["paper"]),
        ("Options", options or "none"),
        ("Server sees", row["sees"]),
        ("Owner does", row["local"] or "trains, and nothing else"),
        ("Owner keeps", row["state"]),
        ("Adapters", ", ".join(row["adapters"])),
        ("Example DP", row["example"]),
        ("Client DP", row["client"]),
        ("Encrypted", row["encryption"]),
    ]
    if "bytes_up" in row:
        facts += [
            ("Bytes up", f"{size_text(row['bytes_up'])} per client and round"),
            ("Bytes down", f"{size_text(row['bytes_down'])} per client and round"),
            ("In this job", row["refusal"] or "yes"),
        ]
    facts.append(("Choose it for", row["when"]))
    return facts_table((name, text) for name, text in facts if text)
