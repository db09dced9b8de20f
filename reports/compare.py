"""Runs side by side: what differs in their jobs, what they reached, what they cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..errors import UmbelError
from ..quantities import duration_text, epsilon_text, metric_text, short, size_text
from ..run.events import number
from ..run.record import RunRecord
from .standings import main_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Compared(NamedTuple):
    """What a comparison came to."""

    table: RenderableType
    picture: Path
    """All learning curves."""
    runs: tuple[Path, ...]
    """The run folders in the table, each once."""


def compare(folders: Sequence[Path], out: Path | None = None) -> Compared:
    """A table of the runs, and a picture with all their learning curves.

    The picture is written to `out`, or as ``comparison.png`` beside the first run. Runs of
    different tasks have no common metric and are refused with an ``UmbelError``.
    """
    if not folders:
        raise UmbelError("There is nothing to compare. Name at least one run folder.")
    records, others = _read(folders)
    refuse_different_tasks(records)
    from .canvas import save

    path = out or records[0].folder.resolve().parent / "comparison.png"
    tables: list[RenderableType] = [comparison_table(records)]
    if others:
        names = ", ".join(map(str, others))
        tables.append(Text(f"Left out, because no run wrote them: {names}", style="dim"))
    picture = save(comparison_figure(records), path)
    return Compared(Group(*tables), picture, tuple(record.folder for record in records))


def refuse_different_tasks(records: Sequence[RunRecord]) -> None:
    """``UmbelError`` if the runs have no metric in common."""
    if len({record.task for record in records}) > 1:
        titles = _titles(records)
        listed = ", ".join(f"{t}: {r.task}" for t, r in zip(titles, records, strict=True))
        raise UmbelError(
            f"These runs have different tasks and no metric in common: {listed}. "
            "Compare runs of one task."
        )


def comparison_table(records: Sequence[RunRecord]) -> RenderableType:
    """What the runs reached and cost, and what differs in their jobs."""
    return _tables(records, _titles(records))


def comparison_figure(records: Sequence[RunRecord]) -> Figure:
    """All learning curves in one picture."""
    return _curves(records, _titles(records))


def _read(folders: Sequence[Path]) -> tuple[list[RunRecord], list[Path]]:
    """Each run once, and what else stood there: ``runs/*`` names the latest run twice, and pictures."""
    once = list({folder.resolve(): folder for folder in reversed(folders)}.values())[::-1]
    # A link to a run that was deleted is no run that somebody misses.
    gone = [one for one in once if not one.exists() and not one.is_symlink()]
    runs = [one for one in once if (one / "plan.json").is_file() or one in gone]
    if not runs or len(folders) == 1:
        runs = once  # what is wrong with them is said
    return [RunRecord.read(folder) for folder in runs], [one for one in once if one not in runs]


_ITEMS = 12
"""Items of a list in a job that a table shows: there may be hundreds of classes."""
_OF_THE_RUN = ("name", "recipe")


def differing_keys(jobs: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Dotted keys whose value is not the same in all `jobs`, with the value in each.

    The name is left out: it tells runs apart, it does not explain them. So is what a recipe says of
    itself: the values that it chose are keys of their own.
    """
    flat = [_flatten(job) for job in jobs]
    keys = dict.fromkeys(key for job in flat for key in job)
    values = {key: [job.get(key) for job in flat] for key in keys if key not in _OF_THE_RUN}
    return {key: row for key, row in values.items() if any(value != row[0] for value in row)}


def _flatten(job: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in job.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _titles(records: Sequence[RunRecord]) -> list[str]:
    """Job names if they tell the runs apart, else the folders' names."""
    seen = Counter(record.name for record in records)
    return [
        record.name if seen[record.name] == 1 else record.folder.resolve().name
        for record in records
    ]


def _tables(records: Sequence[RunRecord], titles: Sequence[str]) -> RenderableType:
    """What the runs reached and cost; below it, a row for each key that differs in their jobs."""
    differing = differing_keys([record.job for record in records])
    outcome = _outcome(records, titles)
    if not differing:
        return outcome
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    table.add_column("What differs in the job", overflow="fold")
    for title in titles:
        table.add_column(title, justify="right", overflow="fold")
    for key, values in differing.items():
        table.add_row(key, *(Text(_value(value)) for value in values))
    return Group(outcome, table)


def _outcome(records: Sequence[RunRecord], titles: Sequence[str]) -> Table:
    metric = records[0].metric
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    table.add_column("Run", style="bold", overflow="fold")
    table.add_column(metric.label, justify="right")
    for heading in ("Epsilon", "Sent up", "Time"):
        table.add_column(heading, justify="right")
    table.add_column("Adapter")
    scores = [number(record.final, metric.key) for record in records]
    known = [score for score in scores if score is not None]
    best = (max if metric.higher_is_better else min)(known) if known else None
    for record, title, score in zip(records, titles, scores, strict=True):
        name = Text(title)
        if not record.finished:
            name.append(f"\n{record.state}", style="yellow")
        leads = score is not None and score == best and len(records) > 1
        spent = epsilon_text(max(record.epsilon.values(), default=None))
        table.add_row(
            name,
            Text(
                main_text(record, record.final) + (" (exact)" if record.exact else ""),
                style="bold cyan" if leads else "",
            ),
            Text(spent if record.private else "no privacy"),
            Text(size_text(record.traffic("up_total"))),
            Text(duration_text(record.seconds)),
            Text(str((record.result or {}).get("adapter_sha256") or "–")[:10]),
        )
    return table


def _value(value: Any) -> str:
    """A value of a job in a cell of a table: of a long list its first items, and how many follow."""
    if isinstance(value, list) and len(value) > _ITEMS:
        first = ", ".join(map(repr, value[:_ITEMS]))
        return f"[{first} and {len(value) - _ITEMS:,} more]"
    return "(not set)" if value is None else str(value)


def _curves(records: Sequence[RunRecord], titles: Sequence[str]) -> Figure:
    import numpy as np

    from . import canvas
    from .plots import finite, metric_axis, round_axis

    metric = records[0].metric
    sheet = canvas.figure(
        f"{metric.label} of {len(records)} runs",
        "on everybody's held-out records"
        + ("" if metric.higher_is_better else "; lower is better"),
    )
    axes = sheet.add_subplot()
    ends: list[canvas.End] = []
    seen: list[float] = []
    last = max((t.round for record in records for t in record.evaluations), default=0)
    for place, (record, title) in enumerate(zip(records, titles, strict=True)):
        rounds = [test.round for test in record.evaluations]
        values = np.array([finite(number(t.figures, metric.key)) for t in record.evaluations])
        if not np.isfinite(values).any():
            continue
        colour = canvas.PALETTE[place % len(canvas.PALETTE)]
        axes.plot(
            rounds, values, color=colour, linewidth=2.4, marker="o", markersize=4, clip_on=False
        )
        known = values[np.isfinite(values)]
        seen += known.tolist()
        # A run that ended early still has its name at the right edge: lead the eye there.
        axes.hlines(known[-1], rounds[-1], last, color=colour, linewidth=1, linestyle="dotted")
        text = f"{short(title, 26)} {metric_text(metric.key, known[-1])}"
        ends.append(canvas.End(float(known[-1]), text, colour))
    if not seen:
        raise UmbelError(
            f"None of these runs has a figure to draw ({metric.label.lower()}): they have not been "
            "tested yet, or noise outweighs their counts."
        )
    canvas.dress(axes)
    round_axis(axes, last)
    metric_axis(axes, metric, seen)
    canvas.label_ends(sheet, axes, ends)
    return sheet
