"""A plan as people read it in a terminal, before anything runs."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ..quantities import (
    OUTWEIGHED,
    count_text,
    epsilon_text,
    is_share,
    metric_text,
    size_text,
)
from ..run.events import number
from ..survey.holdings import holdings_lines
from .standings import (
    INDIVIDUAL,
)
from .tables import encryption_line, facts_table, is_encrypted, plain_table

_SIZE = (
    "Size is what a client publishes about its number of records or groups: with noise, and at least 100. "
    "Noise and sampling rate follow from it."
)


def plan_table(plan: dict[str, Any]) -> RenderableType:
    """What `plan` will run and what it guarantees."""
    clients = plan.get("clients") or []
    title = Text.assemble(
        (str(plan.get("name", "plan")), "bold"),
        f"  {plan.get('task', '')}, {len(clients):,} clients, {plan.get('rounds', '?')} rounds",
    )
    total = number(plan, "total_parameters")
    trained = count_text(number(plan, "trainable_parameters"))
    up, down = (
        number(plan, "bytes_up_per_client_round"),
        number(plan, "bytes_down_per_client_round"),
    )
    facts = [
        ("Trains", f"{trained} of {count_text(total)} parameters"),
        ("Traffic", f"{size_text(up)} up and {size_text(down)} down per client and round"),
    ]
    if plan.get("strategy"):
        kept = number(plan, "owners_keep_bytes")
        state = f"; each client keeps {size_text(kept)}, which never leaves it" if kept else ""
        facts.insert(0, ("Strategy", f"{plan['strategy']}{state}"))
    if plan.get("sums"):
        facts.insert(1, ("Sums", _sums_line(plan["sums"])))
    if plan.get("compares"):
        facts.insert(1, ("Compares", _compares_line(plan["compares"])))
    if plan.get("recipe"):
        facts.append(("Recipe", str(plan["recipe"])))
    if plan.get("cohort"):
        facts.append(("Absences", _absences_line(plan["cohort"])))
    if plan.get("spares", {}).get("rounds"):
        facts.append(("Spares", _spares_line(plan["spares"])))
    if plan.get("evaluation"):
        facts.append(("Tests", _tests_line(plan["evaluation"])))
    lines = holdings_lines(plan["data"]) if plan.get("data") else []
    facts = [("Data" if not at else "", line) for at, line in enumerate(lines)] + facts
    parts: list[RenderableType] = [Text(), title, _plan_clients(clients)]
    if (plan.get("privacy") or {}).get("unit") in ("example", "group"):
        parts.append(Text(f"{_SIZE}\n", style="dim"))
    parts.append(facts_table(facts))
    if plan.get("guarantee"):
        private = any(number(client, "epsilon") is not None for client in clients)
        promise = str(plan["guarantee"]).removesuffix(encryption_line(plan)).strip()
        parts.append(
            Panel(
                Text("\n\n".join(text for text in (promise, plan.get("plainly")) if text)),
                title="Guarantee" if private else "No guarantee",
                title_align="left",
                border_style="green" if private else "red",
            )
        )
    encrypted = is_encrypted(plan)
    parts.append(
        Panel(
            Text(encryption_line(plan)),
            title="What the server sees" if encrypted else "NOT ENCRYPTED",
            title_align="left",
            border_style="green" if encrypted else "red",
        )
    )
    parts += [Text(f"! {warning}", style="yellow") for warning in plan.get("warnings") or []]
    return Group(*parts)


def _sums_line(sums: list[dict[str, Any]]) -> str:
    """What a round adds up one after the other, over the same clients."""
    many = [
        ", ".join(
            f"{name} ({count_text(channel['numbers'])} numbers"
            + (f", scale from {channel['reach']:g}" if channel["reach"] != 1.0 else "")
            + ")"
            for name, channel in channels.items()
        )
        for channels in sums
    ]
    return "two a round, over the same clients: " + "; then ".join(many)


def _compares_line(compares: dict[str, Any]) -> str:
    """Between what a strategy chooses, and how much of it Byzantine clients reach."""
    if compares["what"] == "updates":
        return f"the updates of {compares['vectors']} clients, one by one"
    reached = ", ".join(
        f"{float(share):.0%} Byzantine clients spoil about {part:.0%}"
        for share, part in compares["spoiled"].items()
    )
    return (
        f"the means of {compares['vectors']} groups of {compares['size']} clients or more; of the "
        f"groups {reached}"
    )


def _absences_line(cohort: dict[str, Any]) -> str:
    size, least = cohort["size"], cohort["minimum"]
    if size <= least:
        return f"none: a round needs all {size} clients"
    return f"{size - least} of {size} clients may be missing in a round"


def _spares_line(spares: dict[str, Any]) -> str:
    rounds = f"{spares['rounds']} round{'s' if spares['rounds'] > 1 else ''}"
    return f"{rounds} may be trained again within epsilon, for {spares['noise'] - 1:.1%} more noise"


def _tests_line(tests: dict[str, Any]) -> str:
    """How often the model is tested, on what, and what is decided on it."""
    parts = [_times(tests)]
    parts.append(
        "no counts from the owners" if tests["counts"] == "off" else f"{tests['counts']} counts"
    )
    if tests["deviation"] is not None:
        amount, metric = float(tests["deviation"]), tests["deviation_of"]
        blur = f"{100 * amount:.1f} points" if is_share(metric) else metric_text(metric, amount)
        if is_share(metric) and amount > OUTWEIGHED:
            parts.append("which noise outweighs")
        else:
            parts.append(f"noise moves {metric} by {blur} (one standard deviation)")
    parts += ["a public hold-out"] if tests["public"] else []
    if tests["patience"] is not None:
        parts.append(f"ends after {tests['patience']} tests without a better one")
    if tests["keep"] == "best":
        parts.append("the best model is kept")
    decides = f" (decided on: {tests['decides_on']})" if tests["decides_on"] else ""
    return ", ".join(parts) + decides


def _times(tests: dict[str, Any]) -> str:
    """How many tests there are, and after which rounds."""
    rounds = tests["rounds"]
    if not rounds:
        return "none by the owners"
    if len(rounds) == rounds[-1] + 1 > 2:
        return "before training and after every round"
    named = {0: "before training", rounds[-1]: "after the last round"}
    if len(rounds) <= 2:
        return " and ".join(named.get(r, f"after round {r}") for r in rounds)
    between = ", ".join(str(r) for r in rounds if r)
    start = "before training and after" if rounds[0] == 0 else "after"
    return f"{len(rounds)} times, {start} rounds {between}"


def _plan_clients(clients: list[dict[str, Any]]) -> Table:
    columns = (
        ("Size", "size", count_text),
        ("Trained on", "training_size", count_text),
        ("Steps", "steps", count_text),
        ("Rounds", "rounds", count_text),
        ("Sampling rate", "sampling_rate", _rate_text),
        ("Noise", "noise_multiplier", _noise_text),
        ("Epsilon", "epsilon", epsilon_text),
    )
    table = plain_table()
    table.add_column("Client" if len(clients) <= INDIVIDUAL else "", overflow="fold")
    for heading, _, _ in columns:
        table.add_column(heading, justify="right")
    if len(clients) <= INDIVIDUAL:
        for client in clients:
            values = [Text(text(number(client, key))) for _, key, text in columns]
            table.add_row(Text(str(client.get("name", ""))), *values)
        return table
    for label, place in (("smallest", 0.0), ("median", 0.5), ("largest", 1.0)):
        row = [Text(label)]
        for _, key, text in columns:
            known = sorted(v for client in clients if (v := number(client, key)) is not None)
            row.append(Text(text(known[round(place * (len(known) - 1))] if known else None)))
        table.add_row(*row)
    return table


def _rate_text(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _noise_text(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"
