"""Pages of HTML, each one file that needs no other: made from ``templates``, where all text is escaped.

No script, no font and no picture comes from elsewhere, so a page can be mailed, archived and opened without
a network.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..quantities import delta_text, duration_text
from ..storage.files import write_unflushed

if TYPE_CHECKING:
    from jinja2 import Environment

_ALT = {
    "learning-curve": "The main metric after every round, of the federated model and each client",
    "perplexity-by-client": "Perplexity of each client's held-out text before and after training",
    "confusion": "Confusion matrix: true classes against predicted classes",
    "partition": "How many records of each label every client holds",
    "epsilon": "Epsilon spent by each client after every round, and the job's limit",
}


@dataclass(frozen=True)
class Picture:
    """A picture within the page itself."""

    alt: str
    source: str


@dataclass(frozen=True)
class Tile:
    """One number of the headline."""

    label: str
    value: str
    more: str = ""


def pictures_of(paths: Iterable[Path]) -> dict[str, Picture]:
    """By name: of each PNG the SVG beside it, whose text any browser shows in any script, or else itself."""
    found = {}
    for png in paths:
        svg = png.with_suffix(".svg")
        path, kind = (svg, "svg+xml") if svg.is_file() else (png, "png")
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        alt = _ALT.get(path.stem, path.stem)
        found[path.stem] = Picture(alt, f"data:image/{kind};base64,{data}")
    return found


def write_html(path: Path, template: str, *, secret: bool = False, **values: Any) -> Path:
    """Fill a template and write the page; `path` again. Raises ``FileError`` if it cannot be written.

    Only this user can read what is `secret`.
    """
    write_unflushed(path, page_text(template, **values).encode(), secret=secret)
    return path


def page_text(template: str, **values: Any) -> str:
    """A template, filled in."""
    return _environment().get_template(template).render(**values)


@lru_cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"delta": delta_text, "duration": duration_text}
    return made
