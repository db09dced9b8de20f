"""The look of Umbel's pictures: paper, ink, palette, and labels that do not overlap.

Object-oriented matplotlib on the Agg canvas; no pyplot, so pictures can be drawn in any thread and without
a display.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ..quantities import short
from ..storage.files import refuse_foreign, write_unflushed
from .fonts import fall_back, say_missing, silence

DPI = 160
INK = "#1b1f27"
GREY = "#667085"
FAINT = "#e4e7ec"
ACCENT = "#0b5cad"
WARM = "#c2410c"

# Okabe & Ito (2008) without its yellow, which vanishes on white, then tones of Tol's "muted".
PALETTE = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00",
    "#332288", "#999933", "#882255", "#44aa99", "#aa4499", "#6b7280",
)  # fmt: skip

_HEADER_INCHES = 0.72
_TEXT_STAYS_TEXT: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "umbel"}
_SETTINGS = threading.Lock()
"""Held while these settings are active: matplotlib shares them between all threads."""


class Sheet(Figure):
    """A figure that a notebook shows without pyplot, which would have to be told of it."""

    def _repr_png_(self) -> bytes:
        fall_back(self)
        with _SETTINGS, silence():
            return drawn(self, "png", dpi=DPI // 2)


def figure(title: str, subtitle: str, width: float = 8.4, height: float = 4.8) -> Figure:
    """An empty sheet, in inches, with a headline above the room that axes may fill."""
    share = _HEADER_INCHES / height
    # Constrained layout leaves the header alone: its text is as wide as the sheet, not the axes.
    sheet = Sheet(
        figsize=(width, height),
        dpi=DPI,
        facecolor="white",
        layout=ConstrainedLayoutEngine(rect=(0.008, 0.012, 0.984, 0.988 - share), h_pad=0.06),
    )
    FigureCanvasAgg(sheet)
    left = 0.16 / width
    for text, top, size, weight, colour in (
        (title, 0.13, 14, "bold", INK),
        (subtitle, 0.43, 10, "normal", GREY),
    ):
        sheet.text(
            left,
            1 - top / height,
            plain(text),
            size=size,
            weight=weight,
            color=colour,
            va="top",
            in_layout=False,
        )
    return sheet


def dress(axes: Axes, *, grid: str = "y") -> None:
    """Remove what carries no information; `grid` is "x", "y", "both" or ""."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#98a2b3")
    axes.tick_params(colors=GREY, labelsize=10, length=0, pad=5)
    axes.tick_params(axis="x", which="major", length=3, color="#98a2b3")
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis=grid, color=FAINT, linewidth=0.9)  # type: ignore[arg-type]
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color=GREY, size=10)


def colours(names: Sequence[str]) -> dict[str, str]:
    """The same client has the same colour in every picture of a run."""
    return {name: PALETTE[place % len(PALETTE)] for place, name in enumerate(names)}


def plain(text: str) -> str:
    """`text` with the sign that opens matplotlib's formulas made harmless."""
    return text.replace("$", r"\$")


def readable(colour: str) -> str:
    """`colour` darkened until text in it stands out from white paper (contrast of 4.5, WCAG AA)."""
    red, green, blue = to_rgb(colour)
    while 1.05 / (_luminance(red, green, blue) + 0.05) < 4.5:
        red, green, blue = red * 0.94, green * 0.94, blue * 0.94
    return to_hex((red, green, blue))


def _luminance(*channels: float) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def name(text: str, width: int = 20) -> str:
    """A client's or label's name, fit for an axis."""
    return plain(short(" ".join(text.split()), width))


@dataclass(frozen=True)
class End:
    """A label at the right edge, beside the value (in data coordinates) that it belongs to."""

    value: float
    text: str
    colour: str
    bold: bool = False


def label_ends(sheet: Figure, axes: Axes, ends: Sequence[End]) -> None:
    """Write `ends` to the right of `axes`, moved apart until none covers another."""
    texts = [
        axes.annotate(
            plain(end.text),
            xy=(1, end.value),
            xycoords=axes.get_yaxis_transform(),
            xytext=(16, 0),
            textcoords="offset points",
            color=readable(end.colour),
            size=9.5,
            weight="bold" if end.bold else "normal",
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": end.colour,
                "linewidth": 0.7,
                "alpha": 0.7,
                "relpos": (0, 0.5),
                "shrinkA": 1,
                "shrinkB": 2,
            },
        )
        for end in ends
    ]
    fall_back(sheet)
    with _SETTINGS, silence():
        sheet.draw_without_rendering()
    wanted = axes.transData.transform([(0, end.value) for end in ends])[:, 1]
    box = axes.get_window_extent()
    placed = spread(wanted, gap=13 * DPI / 72, low=box.y0, high=box.y1)
    for text, shift in zip(texts, placed - wanted, strict=True):
        text.xyann = (16, shift * 72 / DPI)


def spread(wanted: Sequence[float] | np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Positions at least `gap` apart, in the order of `wanted` and close to it.

    With the gaps taken out, this is a least squares fit that must not decrease: neighbours that
    would overlap are pooled to their mean. The result is then pushed into [low, high].
    """
    wanted = np.asarray(wanted, dtype=float)
    order = np.argsort(wanted, kind="stable")
    steps = gap * np.arange(len(wanted))
    pools: list[tuple[float, int]] = []
    for value in wanted[order] - steps:
        mean, size = float(value), 1
        while pools and pools[-1][0] > mean:
            other, count = pools.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        pools.append((mean, size))
    fitted = np.repeat([mean for mean, _ in pools], [size for _, size in pools])
    room = high - (steps[-1] if len(steps) else 0.0)
    placed = np.empty_like(wanted)
    placed[order] = np.clip(fitted, low, max(low, room)) + steps
    return placed


def refuse_others(*paths: Path) -> None:
    """``FileError`` if something is there that Umbel did not draw: whatever it draws, it signs as creator."""
    for path in paths:
        refuse_foreign(
            path, "a picture that Umbel drew", lambda content: not content or b"Umbel" in content
        )


def save(sheet: Figure, path: Path) -> Path:
    """Write the picture as PNG, and beside it as SVG whose text is text; the path of the PNG.

    Raises ``FileError`` if it cannot be written, or other files are there.
    """
    refuse_others(path, path.with_suffix(".svg"))
    say_missing(fall_back(sheet))
    with _SETTINGS, silence(), rc_context(_TEXT_STAYS_TEXT):
        png = drawn(sheet, "png", dpi=DPI, metadata={"Software": "Umbel"})
        svg = drawn(sheet, "svg", metadata={"Date": None, "Creator": "Umbel"})
    write_unflushed(path, png)
    write_unflushed(path.with_suffix(".svg"), svg)
    return path


def drawn(sheet: Figure, kind: str, **options: Any) -> bytes:
    """The picture as a file's content; kind: "png", "svg" or "pdf"."""
    stream = io.BytesIO()
    sheet.savefig(stream, format=kind, **options)
    return stream.getvalue()
