"""Two pictures about the data: who holds what, and which classes are mistaken for which."""

from __future__ import annotations

import math

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from ..quantities import count_text, short, undefined
from ..run.events import Partition
from ..run.record import RunRecord
from . import canvas
from .canvas import ACCENT, GREY, INK, PALETTE

_FEW_CLIENTS = 24
_FEW_LABELS = 8
_WRITTEN_CLASSES = 10
"""Up to this many classes a confusion matrix has room for numbers in its cells."""


def draw_partition(record: RunRecord) -> Figure | None:
    """Who holds what: bars for few clients, sorted areas or a heat map for many."""
    partition = record.partition
    if partition is None or not partition.clients:
        return None
    shares = partition.clients.values()
    labelled = bool(partition.labels) and any(share.labels for share in shares)
    train = sum(share.train for share in shares)
    test = sum(share.test for share in shares)
    who = f"{len(partition.clients):,} clients" if len(partition.clients) > 1 else "1 client"
    subtitle = f"{short(record.name, 28)} · {who}, {train:,} training and {test:,} held-out records"
    if len(partition.clients) <= _FEW_CLIENTS:
        few = labelled and len(partition.labels) <= _FEW_LABELS
        return _bars(partition, subtitle) if few or not labelled else _heat(partition, subtitle)
    if labelled and len(partition.labels) > _FEW_LABELS:
        return _heat(partition, subtitle)
    return _areas(partition, subtitle, labelled)


def _counts(partition: Partition) -> np.ndarray:
    """Training records, one row per client and one column per label."""
    return np.array(
        [
            [share.labels.get(label, 0) for label in partition.labels]
            for share in partition.clients.values()
        ],
        dtype=float,
    )


def _shades(count: int) -> list[str]:
    return [PALETTE[place % len(PALETTE)] for place in range(count)]


def _legend(axes: Axes, parts: list[str]) -> None:
    """Above the axes, in as few rows as the names allow."""
    longest = max(len(canvas.name(part)) for part in parts)
    rows = math.ceil(len(parts) / max(1, 95 // (longest + 5)))
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=math.ceil(len(parts) / rows),
        frameon=False,
        fontsize=9.5,
        labelcolor=INK,
        handlelength=0.9,
        handleheight=0.9,
        columnspacing=1.3,
        handletextpad=0.5,
        borderaxespad=0.2,
    )


def _bars(partition: Partition, subtitle: str) -> Figure:
    names = list(partition.clients)
    if any(share.labels for share in partition.clients.values()):
        parts, columns = partition.labels, _counts(partition)
        title, colours = "Who holds what: training records by label", _shades(len(parts))
    else:
        parts = ["training", "held out"]
        columns = np.array([[s.train, s.test] for s in partition.clients.values()], dtype=float)
        title, colours = "Who holds what", [ACCENT, "#a9c6e6"]
    sheet = canvas.figure(title, subtitle, height=1.75 + 0.42 * max(len(names), 2))
    axes = sheet.add_subplot()
    places = np.arange(len(names))
    left = np.zeros(len(names))
    for part, colour, values in zip(parts, colours, columns.T, strict=True):
        axes.barh(
            places,
            values,
            left=left,
            height=0.68,
            color=colour,
            edgecolor="white",
            linewidth=1,
            label=canvas.name(part),
        )
        left += values
    for place, total in zip(places, left, strict=True):
        axes.annotate(
            count_text(total),
            (total, place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            size=9.5,
            color=GREY,
        )
    canvas.dress(axes, grid="x")
    axes.set_yticks(places, [canvas.name(client) for client in names])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.margins(x=0.1)
    _thousands(axes, "x")
    _legend(axes, parts)
    return sheet


def _areas(partition: Partition, subtitle: str, labelled: bool) -> Figure:
    sizes = np.sort([share.train for share in partition.clients.values()])[::-1]
    sheet = canvas.figure("Who holds what", subtitle, height=5.6 if labelled else 4.2)
    grid = (
        sheet.add_gridspec(2, 1, height_ratios=(1, 1.25)) if labelled else sheet.add_gridspec(1, 1)
    )
    top = sheet.add_subplot(grid[0])
    edges = np.arange(len(sizes) + 1)
    top.stairs(sizes, edges, fill=True, color=ACCENT)
    top.set_ylabel("Training records")
    _thousands(top, "y")
    canvas.dress(top)
    median = float(np.median(sizes))
    top.axhline(median, color=INK, linewidth=1, dashes=(5, 3))
    top.annotate(
        f"median {median:,.0f}",
        (1, median),
        xycoords=top.get_yaxis_transform(),
        xytext=(-4, 4),
        textcoords="offset points",
        ha="right",
        size=9.5,
        color=INK,
    )
    top.set_xlabel("Clients, largest first")
    panels = [top]
    if labelled:
        counts = _counts(partition)
        counts = counts[counts.sum(axis=1) > 0]
        shares = counts / counts.sum(axis=1, keepdims=True)
        # Sorted by the share of one label, an even spread looks flat and a skewed one steep.
        # With more labels, clients of the same main label stand together.
        if len(partition.labels) > 2:
            shares = shares[np.lexsort((-shares.max(axis=1), shares.argmax(axis=1)))]
            order = "those with the same main label together"
        else:
            shares = shares[np.argsort(-shares[:, 0], kind="stable")]
            order = f"by their share of “{canvas.name(partition.labels[0])}”"
        low = sheet.add_subplot(grid[1])
        floor = np.zeros(len(shares))
        shown = zip(partition.labels, shares.T, _shades(len(partition.labels)), strict=True)
        for label, share, colour in shown:
            low.stairs(
                floor + share,
                np.arange(len(shares) + 1),
                baseline=floor,
                fill=True,
                color=colour,
                label=canvas.name(label),
            )
            floor = floor + share
        low.set_ylim(0, 1)
        low.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        low.set_ylabel("Share of label")
        low.set_xlabel(f"Clients, {order}")
        canvas.dress(low, grid="")
        _legend(low, partition.labels)
        panels.append(low)
    for axes in panels:
        axes.set_xlim(0, len(sizes))
        _thousands(axes, "x")
    return sheet


def _heat(partition: Partition, subtitle: str) -> Figure:
    names, labels, counts = list(partition.clients), partition.labels, _counts(partition)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    # Clients that hold mostly the same label stand together, so that skew shows as a diagonal.
    order = np.lexsort((-shares.max(axis=1), shares.argmax(axis=1)))
    sheet = canvas.figure(
        "Who holds what: share of each label at each client",
        subtitle,
        height=2.1 + 0.2 * min(max(len(labels), 12), 36),
    )
    axes = sheet.add_subplot()
    image = axes.imshow(
        shares[order].T, aspect="auto", interpolation="nearest", cmap="Blues", vmin=0
    )
    canvas.dress(axes, grid="")
    _label_axis(axes, "y", labels)
    if len(names) <= _FEW_CLIENTS:
        _label_axis(axes, "x", [names[place] for place in order])
    else:
        _thousands(axes, "x")
        axes.set_xlabel("Clients, those with the same main label together")
    _scale(sheet, axes, image, "Share of the client's records")
    return sheet


def draw_confusion(record: RunRecord) -> Figure | None:
    """Rows are true classes and sum to 100 %."""
    if undefined(record.final, record.metric.key):
        return None
    try:
        counts = np.array(record.final.get("confusion") or [], dtype=float)
    except ValueError:
        return None
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        return None
    classes = len(counts)
    labels = record.labels
    if len(labels) != classes:
        labels = [str(place) for place in range(classes)]
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    small = classes <= _WRITTEN_CLASSES
    side = min(max(2.6, 0.62 * classes), 5.6) if small else 6.6
    units = "groups, each counted as one" if record.protects_groups else "records"
    sheet = canvas.figure(
        "What is mistaken for what",
        f"{short(record.name, 28)} · {count_text(counts.sum())} held-out {units}; "
        "each row is a true class",
        width=8.4,
        height=side + 1.9,
    )
    axes = sheet.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    canvas.dress(axes, grid="")
    _label_axis(axes, "y", labels)
    _label_axis(axes, "x", labels)
    axes.set_xlabel("Predicted")
    axes.set_ylabel("True")
    if small:
        for row in range(classes):
            for column in range(classes):
                _cell(axes, row, column, shares[row, column], counts[row, column], classes)
        axes.set_xticks(np.arange(1, classes) - 0.5, minor=True)
        axes.set_yticks(np.arange(1, classes) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=2)
        axes.tick_params(which="minor", length=0)
    else:
        _scale(sheet, axes, image, "Share of the true class")
    axes.spines["bottom"].set_visible(False)
    return sheet


def _cell(axes: Axes, row: int, column: int, share: float, count: float, classes: int) -> None:
    colour = "white" if share > 0.55 else INK
    roomy = classes <= 5
    axes.annotate(
        f"{share:.0%}" if share >= 0.005 or count == 0 else "<1%",
        (column, row),
        xytext=(0, 2),
        textcoords="offset points",
        ha="center",
        va="bottom" if roomy else "center_baseline",
        size=15 if roomy else 10.5,
        weight="bold" if row == column else "normal",
        color=colour,
    )
    axes.annotate(
        count_text(count),
        (column, row),
        xytext=(0, -3 if roomy else -5),
        textcoords="offset points",
        ha="center",
        va="top",
        size=9.5 if roomy else 7.5,
        color=colour,
        alpha=0.85,
    )


def _label_axis(axes: Axes, which: str, labels: list[str]) -> None:
    """Write class names, smaller and upright as they grow many, only some beyond 60."""
    step = math.ceil(len(labels) / 60)
    places = list(range(0, len(labels), step))
    size = 10 if len(labels) <= 12 else 8.5 if len(labels) <= 30 else 7
    texts = [
        canvas.name(labels[place], 24 if which == "y" or len(labels) <= 12 else 16)
        for place in places
    ]
    if which == "y":
        axes.set_yticks(places, texts)
    else:
        longest = max(len(text) for text in texts)
        upright = len(labels) > 12 or longest * len(labels) > 80
        axes.set_xticks(places, texts, rotation=90 if upright else 0)
    axes.tick_params(axis=which, labelsize=size, labelcolor=INK, length=0)  # type: ignore[arg-type]


def _scale(sheet: Figure, axes: Axes, image: matplotlib.image.AxesImage, text: str) -> None:
    bar = sheet.colorbar(image, ax=axes, shrink=0.6, aspect=24, pad=0.02)
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    bar.ax.tick_params(labelsize=9, colors=GREY, length=0)
    bar.set_label(text, color=GREY, size=9.5)
    bar.outline.set_visible(False)


def _thousands(axes: Axes, which: str) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.set_major_locator(MaxNLocator(nbins=6, integer=True))
