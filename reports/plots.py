"""The pictures of one run: what it learned, what it cost, who holds what."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from ..quantities import (
    delta_text,
    epsilon_text,
    is_share,
    metric_text,
    short,
)
from ..run.events import Evaluation, Holdout, number
from ..run.record import RunRecord
from ..tasks.spec import MainMetric
from . import canvas
from .canvas import ACCENT, GREY, INK, WARM, End
from .data_plots import draw_confusion, draw_partition

INDIVIDUAL = 12
"""Up to this many clients get a line each; above, a band shows 80 % of them."""


def draw(folder: Path) -> list[Path]:
    """Draw every picture that the run in `folder` has data for, into ``folder/plots``."""
    record = RunRecord.read(folder)
    target = record.folder / "plots"
    return [canvas.save(drawn, target / f"{name}.png") for name, drawn in sheets(record).items()]


def sheets(record: RunRecord) -> dict[str, Figure]:
    """The same pictures by name, not written anywhere."""
    drawn = ((name, sheet(record, name)) for name in _pictures())
    return {name: figure for name, figure in drawn if figure}


def sheet(record: RunRecord, name: str) -> Figure | None:
    """One of them; None if there is no such picture, or the run has no data for it."""
    drawer = _pictures().get(name)
    return drawer(record) if drawer else None


def _pictures() -> dict[str, Callable[[RunRecord], Figure | None]]:
    return {
        "learning-curve": _learning_curve,
        "perplexity-by-client": _perplexity_by_client,
        "confusion": draw_confusion,
        "partition": draw_partition,
        "epsilon": _epsilon,
    }


def percentile_band(series: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """10th, 50th and 90th percentile over clients at every round; absent values are NaN."""
    stacked = np.stack(series)
    known = np.isfinite(stacked).any(axis=0)
    bands = np.full((3, stacked.shape[1]), math.nan)
    bands[:, known] = np.nanpercentile(stacked[:, known], [10, 50, 90], axis=0)
    return bands[0], bands[1], bands[2]


def metric_axis(axes: Axes, metric: MainMetric, values: list[float]) -> None:
    """Scale and ticks for `metric`: percent, or a logarithm if perplexity spans decades."""
    if is_share(metric.key):
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        axes.set_ylim(max(0, min(values) - 0.04), min(1, max(values) + 0.04))
        return
    if min(values) > 0 and max(values) / min(values) > 5:
        axes.set_yscale("log")
        axes.set_yticks(_decade_ticks(min(values), max(values)))
        axes.minorticks_off()
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def _decade_ticks(low: float, high: float) -> list[float]:
    ticks = [step * 10.0**power for power in range(-1, 8) for step in (1, 2, 5)]
    return [tick for tick in ticks if low * 0.8 <= tick <= high * 1.2]


def round_axis(axes: Axes, last: int) -> None:
    axes.set_xlim(0, max(last, 1))
    axes.set_xlabel("Round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def finite(value: float | None) -> float:
    """NaN, which lines skip, for what is absent or infinite."""
    return value if value is not None and math.isfinite(value) else math.nan


def _learning_curve(record: RunRecord) -> Figure | None:
    metric = record.metric
    tests: Sequence[Evaluation | Holdout] = record.evaluations
    whose = "on everybody's held-out records"
    overall = np.array([finite(number(test.figures, metric.key)) for test in tests])
    public = np.array([finite(number(test.figures, metric.key)) for test in record.holdouts])
    if not np.isfinite(overall).any():
        if not np.isfinite(public).any():
            return None
        tests, overall, public = record.holdouts, public, public[:0]
        whose = "on the public hold-out"
    rounds = np.array([test.round for test in tests])
    curves = {
        name: np.array([finite(number(test.clients.get(name), metric.key)) for test in tests])
        for name in record.client_names
    }
    curves = {name: curve for name, curve in curves.items() if np.isfinite(curve).any()}
    other = "band" if len(curves) > INDIVIDUAL else "thin"
    sheet = canvas.figure(
        f"{metric.label} over the rounds",
        f"{short(record.name, 22)} · bold: {whose}"
        + (" (exact, from the owners' logs)" if record.exact else "")
        + (f"; {other}: on each client's own" if curves else "")
        + (
            "; upright: the model that was kept"
            if record.kept_round not in (None, rounds[-1])
            else ""
        )
        + ("" if record.finished else f" · {record.summed} of {record.planned_rounds} rounds"),
    )
    axes = sheet.add_subplot()
    colours = canvas.colours(record.client_names)
    ends: list[End] = []
    seen = [overall]
    if len(curves) > INDIVIDUAL:
        low, _, high = percentile_band(list(curves.values()))
        axes.fill_between(rounds, low, high, color=ACCENT, alpha=0.16, linewidth=0)
        ends.append(_end(high, f"10–90% of {len(curves):,} clients", ACCENT))
        seen += [low, high]
    else:
        for name, curve in curves.items():
            axes.plot(rounds, curve, color=colours[name], linewidth=1.3, alpha=0.9)
            ends.append(_end(curve, short(name), colours[name]))
        seen += curves.values()
    levels = _levels(record, metric, colours)
    for value, _, colour in levels:
        axes.axhline(value, color=colour, linewidth=1.2, dashes=(5, 3))
    ends += [End(*level) for level in levels]
    if np.isfinite(public).any():
        places = [test.round for test in record.holdouts]
        axes.plot(places, public, color=GREY, linewidth=2.2, dashes=(2, 1.5))
        ends.append(_end(public, "public hold-out", GREY))
        seen.append(public)
    axes.plot(rounds, overall, color=INK, linewidth=3, solid_capstyle="round", zorder=5)
    if len(rounds) <= 25:
        axes.plot(rounds, overall, "o", color=INK, markersize=5, zorder=6, clip_on=False)
    final = metric_text(metric.key, overall[np.isfinite(overall)][-1])
    kept = record.kept_round
    last = kept is None or kept == rounds[-1]
    ends.append(_end(overall, f"federated {final}" if last else f"last {final}", INK, bold=True))
    if not last:
        axes.axvline(float(kept or 0), color=INK, linewidth=1.2, dashes=(2, 2))
    canvas.dress(axes)
    round_axis(axes, int(rounds[-1]))
    values = np.concatenate([*seen, [value for value, _, _ in levels]])
    metric_axis(axes, metric, list(values[np.isfinite(values)]))
    if not metric.higher_is_better:
        axes.set_ylabel("Perplexity (lower is better)")
    canvas.label_ends(sheet, axes, ends)
    return sheet


def _end(curve: np.ndarray, text: str, colour: str, bold: bool = False) -> End:
    return End(float(curve[np.isfinite(curve)][-1]), text, colour, bold)


def _levels(
    record: RunRecord, metric: MainMetric, colours: dict[str, str]
) -> list[tuple[float, str, str]]:
    """What the federated model is measured against: value, label, colour."""
    alone = {
        name: value
        for name, values in record.local_only.items()
        if math.isfinite(value := finite(number(values, metric.key)))
    }
    levels = []
    if 0 < len(alone) <= 4:
        levels = [
            (
                value,
                f"{short(name)} alone {metric_text(metric.key, value)}",
                colours.get(name, GREY),
            )
            for name, value in alone.items()
        ]
    elif alone:
        median = float(np.median(list(alone.values())))
        text = f"alone {metric_text(metric.key, median)} (median)"
        levels = [(median, text, WARM)]
    pooled = finite(number(record.pooled, metric.key))
    if math.isfinite(pooled):
        text = f"pooled {metric_text(metric.key, pooled)} (no privacy)"
        levels.append((pooled, text, GREY))
    return levels


def _epsilon(record: RunRecord) -> Figure | None:
    spent = [entry for entry in record.rounds if entry.epsilon]
    if not spent or not record.private:
        return None
    names = [
        name
        for name in record.client_names
        if any(math.isfinite(entry.epsilon.get(name, math.inf)) for entry in spent)
    ]
    if not names:
        return None
    # Tests spend too, the first of them before training; a client that sat a round out keeps what it had.
    tested = {entry.round: entry.epsilon for entry in record.evaluations}
    after = [tested.get(0, {}), *(entry.epsilon | tested.get(entry.round, {}) for entry in spent)]
    if record.finished:
        after[-1] |= record.epsilon
    rounds = np.array([0, *(entry.round for entry in spent)])
    curves = {name: np.zeros(len(rounds)) for name in names}
    for name, curve in curves.items():
        for place, known in enumerate(after):
            curve[place] = known.get(name, curve[max(place - 1, 0)])
    target = record.epsilon_target
    delta = f", at δ = {delta_text(record.delta)}" if record.delta else ""
    sheet = canvas.figure(
        "Privacy spent over the rounds",
        f"{short(record.name, 28)} · ε of each client{delta}; lower is more private",
        height=4.4,
    )
    axes = sheet.add_subplot()
    ends: list[End] = []
    if len(curves) > INDIVIDUAL:
        low, middle, high = percentile_band(list(curves.values()))
        largest = np.max(list(curves.values()), axis=0)
        axes.fill_between(rounds, low, high, color=ACCENT, alpha=0.16, linewidth=0)
        axes.plot(rounds, middle, color=ACCENT, linewidth=2.6)
        axes.plot(rounds, largest, color=INK, linewidth=1.1)
        ends += [
            End(largest[-1], f"largest {epsilon_text(largest[-1])}", INK),
            End(middle[-1], f"median {epsilon_text(middle[-1])}", ACCENT, True),
            End(low[-1], f"10–90% of {len(curves):,} clients", ACCENT),
        ]
    else:
        colours = canvas.colours(record.client_names)
        for name, curve in curves.items():
            colour = colours[name]
            axes.plot(rounds, curve, color=colour, linewidth=2)
            ends.append(End(curve[-1], f"{short(name)} {epsilon_text(curve[-1])}", colour))
    if target is not None:
        axes.axhline(target, color=WARM, linewidth=1.4, dashes=(5, 3))
        ends.append(End(target, f"limit of the job {epsilon_text(target)}", WARM, True))
    canvas.dress(axes)
    round_axis(axes, int(rounds[-1]))
    axes.set_ylim(0, max(target or 0, *(curve[-1] for curve in curves.values())) * 1.08)
    axes.set_ylabel("ε", rotation=0, labelpad=10)
    canvas.label_ends(sheet, axes, ends)
    return sheet


def _perplexity_by_client(record: RunRecord) -> Figure | None:
    """Before and after training, on each client's own held-out text."""
    if record.metric.key != "perplexity":
        return None
    pairs = [
        (name, before, after)
        for name in record.client_names
        if math.isfinite(before := finite(number(record.client_before.get(name), "perplexity")))
        and math.isfinite(after := finite(number(record.client_final.get(name), "perplexity")))
    ]
    if not pairs:
        return None
    pairs.sort(key=lambda pair: pair[2], reverse=True)
    named = len(pairs) <= 30
    height = 1.6 + 0.34 * max(len(pairs), 3) if named else 6.0
    sheet = canvas.figure(
        "Perplexity before and after",
        f"{short(record.name, 28)} · on each client's own held-out text; lower is better",
        height=height,
    )
    axes = sheet.add_subplot()
    places = np.arange(len(pairs))
    starts = np.array([pair[1] for pair in pairs])
    ends = np.array([pair[2] for pair in pairs])
    size = 62 if named else 14
    axes.hlines(places, starts, ends, color="#c3cad5", linewidth=2.4 if named else 0.8, zorder=1)
    axes.scatter(starts, places, s=size, facecolor="white", edgecolor=GREY, linewidth=1.6, zorder=2)
    axes.scatter(ends, places, s=size, color=ACCENT, zorder=3)
    every = np.concatenate([starts, ends])
    if every.max() / every.min() > 10:
        axes.set_xscale("log")
        axes.set_xticks(_decade_ticks(every.min(), every.max()))
        axes.minorticks_off()
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    canvas.dress(axes, grid="x")
    axes.margins(x=0.12)
    axes.set_ylim(-0.7, len(pairs) - (0.1 if named else -0.5))
    if named:
        axes.set_yticks(places, [canvas.name(pair[0]) for pair in pairs])
        axes.tick_params(axis="y", labelcolor=INK)
        for place, start, end in zip(places, starts, ends, strict=True):
            for value, other, colour in ((start, end, GREY), (end, start, ACCENT)):
                right = value >= other
                axes.annotate(
                    metric_text("perplexity", value),
                    (value, place),
                    xytext=(8 if right else -8, 0),
                    textcoords="offset points",
                    ha="left" if right else "right",
                    va="center",
                    size=9,
                    color=colour,
                )
    else:
        axes.set_yticks([])
        axes.set_ylabel(f"{len(pairs):,} clients, best at the top")
    top = len(pairs) - 1
    for value, text, colour in ((starts[top], "before", GREY), (ends[top], "after", ACCENT)):
        axes.annotate(
            text,
            (value, top),
            xytext=(0, 11),
            textcoords="offset points",
            ha="center",
            size=9.5,
            weight="bold",
            color=colour,
        )
    return sheet
