"""Tables for the terminal: how a run ended, and what a plan will do.

Importing this module is cheap: it draws nothing.
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ..quantities import (
    OUTWEIGHED,
    count_text,
    delta_text,
    duration_text,
    epsilon_text,
    metric_text,
    size_text,
    spread_text,
)
from ..run.events import number
from ..run.outcome import figure_text
from ..run.record import RunRecord
from .holdings import holdings_lines
from .standings import (
    EXACT,
    INDIVIDUAL,
    NOISED,
    Standing,
    noised_text,
    own_metrics,
    standings,
    undefined_line,
)

_BAR_CELLS = 12
_STYLES = {
    "before": "dim",
    "alone": "",
    "federated": "bold cyan",
    "seen": "dim",
    "site": "",
    "pooled": "dim",
}


def result_table(record: RunRecord) -> RenderableType:
    """What a run reached and what it cost, at a glance."""
    title = Text.assemble(
        (record.name, "bold"),
        f"  {record.task}, {len(record.client_names):,} clients, ",
        (record.state, "green" if record.finished else "yellow"),
    )
    language = record.metric.key == "perplexity"
    table = _perplexity_table(record) if language else _accuracy_table(record)
    said = [EXACT if record.exact else NOISED if record.noised else "", undefined_line(record)]
    notes = [Text(f"{note}\n", style="dim") for note in said if note]
    parts: list[RenderableType] = [Text(), title, table, *notes, _facts(_costs(record))]
    if record.private and record.reproducible:
        parts.append(
            Text(
                "The noise was drawn from the job's seed, so that this run can be repeated: "
                "it gives no privacy.",
                style="bold red",
            )
        )
    return Group(*parts)


def bar(share: float, cells: int = _BAR_CELLS) -> str:
    """A bar of eighths of a character for a share from 0 to 1."""
    eighths = round(min(max(share, 0.0), 1.0) * cells * 8)
    rest = " ▏▎▍▌▋▊▉"[eighths % 8].strip()
    return ("█" * (eighths // 8) + rest).ljust(cells)


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False, padding=(0, 1))


def _accuracy_table(record: RunRecord) -> Table:
    table = _table()
    table.add_column("Model", overflow="fold")
    table.add_column("Accuracy on all\nsites' held-out records", min_width=_BAR_CELLS + 7)
    table.add_column("On own\nheld-out records", justify="right")
    table.add_column("Epsilon", justify="right")
    for row in standings(record):
        table.add_row(
            Text(row.label),
            _with_bar(row),
            Text(row.own_text),
            Text(row.epsilon_text),
            style=_STYLES[row.kind],
        )
    return table


def _with_bar(row: Standing) -> Text:
    if row.overall is None:
        return Text(row.overall_text)
    return Text(f"{bar(row.overall)} {row.overall_text}")


def _perplexity_table(record: RunRecord) -> Table:
    """Lower is better: how much each client's own text surprises the model."""
    table = _table()
    table.add_column("Perplexity on\nheld-out text", overflow="fold")
    for column in ("Before", "", "Federated"):
        table.add_column(column, justify="right")
    if record.local_only:
        table.add_column("Trained alone", justify="right")
    table.add_column("Epsilon", justify="right")

    def text(value: float | None) -> str:
        return metric_text("perplexity", value)

    def add(label: str, before: str, after: str, alone: str, spent: str, style: str = "") -> None:
        lone = [Text(alone)] if record.local_only else []
        cells = [Text(label), Text(before), Text("→"), Text(after), *lone, Text(spent)]
        table.add_row(*cells, style=style)

    before, after, alone = record.client_before, record.client_final, record.local_only
    if len(record.client_names) <= INDIVIDUAL:
        for name in record.client_names:
            add(
                name,
                text(number(before.get(name), "perplexity")),
                text(number(after.get(name), "perplexity")),
                text(number(own_metrics(alone.get(name)), "perplexity")),
                epsilon_text(record.epsilon.get(name)),
            )
    else:
        add(
            "each client (median, range)",
            spread_text((number(m, "perplexity") for m in before.values()), text),
            spread_text((number(m, "perplexity") for m in after.values()), text),
            spread_text((number(own_metrics(m), "perplexity") for m in alone.values()), text),
            spread_text(record.epsilon.values(), epsilon_text),
        )
    largest = max(record.epsilon.values(), default=None)
    lone = spread_text((number(m, "perplexity") for m in alone.values()), text)
    add(
        "all sites together",
        figure_text(record.before, "perplexity"),
        figure_text(record.final, "perplexity"),
        lone,
        epsilon_text(largest) if record.private else "no privacy",
        "bold cyan",
    )
    if record.exact:
        add("  as a server sees it", "", noised_text(record), "", "", "dim")
    pooled = number(record.pooled, "perplexity")
    if pooled is not None:
        start = figure_text(record.before, "perplexity")
        add("pooled (yardstick)", start, text(pooled), "", "no privacy", "dim")
    return table


def _costs(record: RunRecord) -> list[tuple[str, str]]:
    up, total = record.traffic("up_per_client_round"), record.traffic("up_total")
    facts = [
        *public_facts(record),
        *(("Decided", sentence) for sentence in record.decided),
        ("Privacy", _privacy_line(record)),
        ("Encryption", encryption_line(record.plan)),
        ("Traffic", f"{size_text(up)} up per client and round, {size_text(total)} up in all"),
        ("Time", _time_line(record)),
    ]
    trained, parameters = _pick(record, "trainable_parameters"), _pick(record, "total_parameters")
    if trained is not None:
        share = f"{count_text(trained)} of {count_text(parameters)} parameters"
        facts.append(("Trained", share))
    plots = sorted((record.folder / "plots").glob("*.png"))
    if plots:
        names = ", ".join(path.name for path in plots)
        facts.append(("Plots", f"{_here(record.folder / 'plots')}: {names}"))
    if (record.folder / "report.html").is_file():
        facts.append(("Page", str(_here(record.folder / "report.html"))))
    if record.finished:
        facts.append(("Try it", f'umbel predict {shlex.quote(str(_here(record.folder)))} "..."'))
    return facts


def public_facts(record: RunRecord) -> list[tuple[str, str]]:
    """The main figure on the public hold-out, before training and after, where there is one."""
    key = record.metric.key
    final, before = number(record.public_final, key), number(record.public_before, key)
    if final is None:
        return []
    start = "" if before is None else f", {metric_text(key, before)} before training"
    records = count_text(number(record.public_final, "examples"))
    text = f"{record.metric.label.lower()} {metric_text(key, final)}{start} ({records} records)"
    return [("Public hold-out", text)]


def _pick(record: RunRecord, key: str) -> float | None:
    value = number(record.result, key)
    return value if value is not None else number(record.plan, key)


def _privacy_line(record: RunRecord) -> str:
    if not record.private:
        return "none: the model may reveal what single records say"
    spent = epsilon_text(max(record.epsilon.values(), default=0.0))
    target = record.epsilon_target
    limit = "" if target is None else f" of at most {epsilon_text(target)}"
    unfinished = "" if record.finished else " so far"
    whom = "for all data of each client" if record.protects_clients else "for each record"
    return f"epsilon {spent}{limit}{unfinished}, delta {delta_text(record.delta)}, {whom}"


def encryption_line(plan: dict[str, Any]) -> str:
    """What the server could read, in one sentence."""
    encryption = plan.get("encryption")
    seen = encryption.get("server_sees") if isinstance(encryption, dict) else None
    return str(seen) if seen else "NOT ENCRYPTED: the server saw each client's own update."


def is_encrypted(plan: dict[str, Any]) -> bool:
    """Whether the server could open sums only."""
    encryption = plan.get("encryption")
    return isinstance(encryption, dict) and encryption.get("mode", "none") != "none"


def _time_line(record: RunRecord) -> str:
    if not record.stages:
        return f"{duration_text(record.seconds)} in {record.summed} rounds"
    parts = [f"{name} {duration_text(value)}" for name, value in record.stages.items()]
    return f"{duration_text(record.seconds)} ({', '.join(parts)})"


def _here(path: Path) -> Path:
    """The path as one would type it: from the current folder where it lies below."""
    full = path.resolve()
    here = Path(os.getcwd())
    return full.relative_to(here) if full.is_relative_to(here) and full != here else path


def _facts(facts: Iterable[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for key, value in facts:
        grid.add_row(key, Text(value))
    return grid


_SIZE = (
    "Size is what a client publishes of its number of records or groups: with noise, and 100 at least. "
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
        facts.insert(0, ("Strategy", str(plan["strategy"])))
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
    parts.append(_facts(facts))
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


def _absences_line(cohort: dict[str, Any]) -> str:
    size, least = cohort["size"], cohort["minimum"]
    if size <= least:
        return f"none: a round needs all {size} clients"
    return f"{size - least} of {size} clients may be missing in a round"


def _spares_line(spares: dict[str, Any]) -> str:
    rounds = f"{spares['rounds']} round{'s' if spares['rounds'] > 1 else ''}"
    return f"{rounds} may be trained anew within epsilon, for {spares['noise'] - 1:.1%} more noise"


def _tests_line(tests: dict[str, Any]) -> str:
    """How often the model is tested, on what, and what is decided on it."""
    parts = [_times(tests)]
    parts.append(
        "no counts of the owners" if tests["counts"] == "off" else f"{tests['counts']} counts"
    )
    if tests["deviation"] is not None:
        amount, metric = float(tests["deviation"]), tests["deviation_of"]
        blur = f"{100 * amount:.1f} points" if metric == "accuracy" else metric_text(metric, amount)
        if metric == "accuracy" and amount > OUTWEIGHED:
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
    table = _table()
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
