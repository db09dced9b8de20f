"""A picture of what an owner's data sets have spent over time, under the owner's limit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.ticker import MaxNLocator

from ..errors import RunFolderError
from ..quantities import delta_text, epsilon_text, short
from ..storage.files import write_unflushed
from . import canvas
from .canvas import WARM, End

Curve = tuple[str, Sequence[tuple[str, float]]]
"""Name of a data set, and its epsilon after each time (UTC, ISO 8601)."""


def draw_spending(curves: Sequence[Curve], limit: float, delta: float, path: Path) -> Path:
    """Draw into `path` (.svg, .png or .pdf): a step where a round was charged, and the limit."""
    sheet = canvas.figure(
        "Privacy spent over time",
        f"ε of each data set over all its jobs, at δ = {delta_text(delta)}; it never falls",
        height=4.4,
    )
    axes = sheet.add_subplot()
    colours = canvas.colours([name for name, _ in curves])
    # matplotlib's date functions have no types.
    number: Any = date2num
    locator: Any = AutoDateLocator
    formatter: Any = ConciseDateFormatter
    first = min(_time(points[0][0]) for _, points in curves)
    last = max(_time(points[-1][0]) for _, points in curves)
    ends = [End(limit, f"limit {limit:g}", WARM, True)]
    for name, points in curves:
        times = number([first, *(_time(time) for time, _ in points), last])
        spent = np.array([0.0, *(value for _, value in points), points[-1][1]])
        axes.plot(times, spent, color=colours[name], linewidth=2, drawstyle="steps-post")
        ends.append(End(spent[-1], f"{short(name)} {epsilon_text(spent[-1])}", colours[name]))
    axes.axhline(limit, color=WARM, linewidth=1.4, dashes=(5, 3))
    axes.set_ylim(0, 1.08 * max(limit, *(points[-1][1] for _, points in curves)))
    axes.set_ylabel("ε spent")
    axes.yaxis.set_major_locator(MaxNLocator(6))
    places = locator(minticks=3, maxticks=7)
    axes.xaxis.set_major_locator(places)
    axes.xaxis.set_major_formatter(formatter(places))
    canvas.dress(axes)
    canvas.label_ends(sheet, axes, ends)
    return _saved(sheet, path)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _saved(sheet: Any, path: Path) -> Path:
    kind = path.suffix.lower()
    if kind == ".png":
        return canvas.save(sheet, path)
    if kind not in (".svg", ".pdf"):
        raise RunFolderError(f"{path} must end with .svg, .png or .pdf")
    canvas.refuse_others(path)
    write_unflushed(path, canvas.drawn(sheet, kind[1:], metadata={"Creator": "Umbel"}))
    return path
