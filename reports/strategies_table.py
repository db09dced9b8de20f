"""``umbel strategies``: every strategy in a line, or one of them in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from ..quantities import size_text
from .tables import facts_table, plain_table


def strategies_table(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """A line for each; bytes and refusals if a job was given."""
    in_job = any("bytes_up" in row for row in rows)
    table = plain_table()
    table.add_column("Name", no_wrap=True)
    table.add_column("Rule", ratio=1, overflow="fold")
    table.add_column("Sees")
    table.add_column("Keeps")
    if in_job:
        table.add_column("Up", justify="right", no_wrap=True)
        table.add_column("Down", justify="right", no_wrap=True)
    table.add_column("Goes with")
    for row in rows:
        refused = bool(row.get("refusal"))
        sizes = [size_text(row["bytes_up"]), size_text(row["bytes_down"])] if in_job else []
        if refused:
            sizes = ["refused", ""]
        cells = [row["name"], row["rule"], row["sees"], row["state"], *sizes]
        table.add_row(*map(Text, [*cells, _goes_with(row)]), style="dim" if refused else "")
    end = "Up, Down: bytes of one client in a round of this job. " if in_job else ""
    all_ = "all: example-level and client-level privacy, encryption. "
    return Group(table, Text(f"{end}{all_}More of one: umbel strategies NAME", style="dim"))


def _goes_with(row: Mapping[str, Any]) -> str:
    """In a word or two what it composes with."""
    found = {"example": row["example"], "client": row["client"], "encrypted": row["encryption"]}
    if set(found.values()) == {"yes"}:
        return "all"
    if set(found.values()) <= {"yes", "by groups"}:
        return "all, by groups"
    some = (name if how == "yes" else f"{name} {how}" for name, how in found.items() if how != "no")
    return ", ".join(some)


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
