"""Tables for the terminal: how a run ended, and how it stands.

Importing this module is cheap: it draws nothing.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..quantities import (
    count_text,
    delta_text,
    duration_text,
    durations_text,
    epsilon_text,
    is_share,
    metric_text,
    size_text,
    spread_text,
)
from ..run.events import number
from ..run.outcome import figure_text
from ..run.record import RunRecord
from .standings import (
    EXACT,
    INDIVIDUAL,
    NOISED,
    OWN_LABELS,
    Standing,
    noised_text,
    own_metrics,
    own_models_line,
    standings,
    undefined_line,
    untested_line,
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
    share = is_share(record.metric.key)
    table: RenderableType = _share_table(record) if share else _before_and_after_table(record)
    if untested := untested_line(record):
        table = Text(f"\n{untested}\n", style="yellow")
    said = [EXACT if record.exact else NOISED if record.noised else "", undefined_line(record)]
    said.append(own_models_line(record))
    notes = [Text(f"{note}\n", style="dim") for note in said if note]
    parts: list[RenderableType] = [Text(), title, table, *notes, facts_table(_costs(record))]
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


def plain_table() -> Table:
    """As all tables of ours look."""
    return Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False, padding=(0, 1))


def _share_table(record: RunRecord) -> Table:
    table = plain_table()
    table.add_column("Model", overflow="fold")
    table.add_column(
        f"{record.metric.label} on all\nsites' held-out records", min_width=_BAR_CELLS + 7
    )
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


def _before_and_after_table(record: RunRecord) -> Table:
    """The main figure of each client's own held-out records, before training and after."""
    table, key = plain_table(), record.metric.key
    what = "text" if key == "perplexity" else "records"
    table.add_column(f"{record.metric.label} on\nheld-out {what}", overflow="fold")
    for column in ("Before", "", "Federated"):
        table.add_column(column, justify="right")
    if record.local_only:
        table.add_column("Trained alone", justify="right")
    table.add_column("Epsilon", justify="right")

    def text(value: float | None) -> str:
        return metric_text(key, value)

    def add(label: str, before: str, after: str, alone: str, spent: str, style: str = "") -> None:
        lone = [Text(alone)] if record.local_only else []
        cells = [Text(label), Text(before), Text("→"), Text(after), *lone, Text(spent)]
        table.add_row(*cells, style=style)

    before, after, alone = record.client_before, record.client_final, record.local_only
    if len(record.client_names) <= INDIVIDUAL:
        for name in record.client_names:
            add(
                name,
                text(number(before.get(name), key)),
                text(number(after.get(name), key)),
                text(number(own_metrics(alone.get(name)), key)),
                epsilon_text(record.epsilon.get(name)),
            )
    else:
        add(
            "each client (median, range)",
            spread_text((number(m, key) for m in before.values()), text),
            spread_text((number(m, key) for m in after.values()), text),
            spread_text((number(own_metrics(m), key) for m in alone.values()), text),
            spread_text(record.epsilon.values(), epsilon_text),
        )
    largest = max(record.epsilon.values(), default=None)
    lone = spread_text((number(m, key) for m in alone.values()), text)
    add(
        "all sites together",
        figure_text(record.before, key),
        figure_text(record.final, key),
        lone,
        epsilon_text(largest) if record.private else "no privacy",
        "bold cyan",
    )
    if record.exact:
        add("  as a server sees it", "", noised_text(record), "", "", "dim")
    for which, label in OWN_LABELS.items():
        if record.own_models:
            add(label, "", figure_text(record.own_models[which], key), "", "")
    pooled = number(record.pooled, key)
    if pooled is not None:
        start = figure_text(record.before, key)
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
    """The main figure on the public hold-out, before training and after, if there is one."""
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
        return "none: the model may reveal the content of single records"
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
    if not record.stages or record.seconds is None:
        return f"{duration_text(record.seconds)} in {record.summed} rounds"
    shown = durations_text(record.seconds, record.stages)
    parts = [f"{name} {text}" for name, text in shown.items()]
    return f"{duration_text(record.seconds)} ({', '.join(parts)})"


def _here(path: Path) -> Path:
    """The path as one would type it: from the current folder if it lies below."""
    full = path.resolve()
    here = Path(os.getcwd())
    return full.relative_to(here) if full.is_relative_to(here) and full != here else path


def facts_table(facts: Iterable[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for key, value in facts:
        grid.add_row(key, Text(value))
    return grid
