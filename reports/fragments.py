"""Pieces of HTML that the page is put together from."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

_ALT = {
    "learning-curve": "The main metric after every round, of the federated model and each client",
    "perplexity-by-client": "Perplexity of each client's held-out text before and after training",
    "confusion": "Confusion matrix: true classes against predicted classes",
    "partition": "How many records of each label every client holds",
    "epsilon": "Epsilon spent by each client after every round, and the job's limit",
}


def image(path: Path) -> str:
    """The PNG at `path`, within the page itself."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    alt = escape(_ALT.get(path.stem, path.stem), quote=True)
    return f'<figure><img alt="{alt}" src="data:image/png;base64,{data}"></figure>'


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    words: int = 1,
    classes: Sequence[str] = (),
) -> str:
    """A table of ready HTML cells; columns after the first `words` hold numbers."""
    marks = ["" if place < words else ' class="n"' for place in range(len(headings))]
    head = "".join(f"<th{m}>{escape(h)}</th>" for m, h in zip(marks, headings, strict=True))
    lines = []
    for place, row in enumerate(rows):
        cells = "".join(f"<td{m}>{cell}</td>" for m, cell in zip(marks, row, strict=True))
        kind = f' class="{classes[place]}"' if classes else ""
        lines.append(f"<tr{kind}>{cells}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def tile(label: str, value: str, more: str = "") -> str:
    """One number of the headline; arguments are plain text."""
    return (
        f'<div class="tile"><span class="name">{escape(label)}</span>'
        f'<span class="value">{escape(value)}</span><span class="more">{escape(more)}</span></div>'
    )


def bar(share: float | None) -> str:
    """A bar for a share from 0 to 1, or the room that it would take."""
    if share is None:
        return '<span class="track"></span>'
    width = min(max(share, 0.0), 1.0)
    return f'<span class="track"><span class="bar" style="width:{width:.1%}"></span></span>'
