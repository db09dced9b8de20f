"""How a file is written: its characters, its quotes, its sheet, beside what its name and header say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Quoting = Literal["doubled", "backslash", "none"]
"""How a quote within a quoted field is written (``""`` or ``\\"``), or that quotes are plain characters."""


@dataclass(frozen=True)
class Layout:
    """What somebody said about a file, or what was found in it; None stands for what is usual.

    A data owner's agent reads by this alone (``client.toml`` declares it), so that no record decides
    how other records are read.
    """

    encoding: str | None = None
    """A codec's name; None: UTF-8, unless the file begins as UTF-16 or UTF-32 does."""
    quoting: Quoting | None = None
    """None: "doubled"."""
    sheet: str | None = None
    """Of a workbook; None: the first with the columns."""

    def __str__(self) -> str:
        quotes = {
            "backslash": ", quotes behind backslashes",
            "none": ", quotes as plain characters",
        }
        if self.sheet is not None:
            return f"sheet {self.sheet!r}"
        return (self.encoding or "UTF-8") + quotes.get(self.quoting or "", "")

    @property
    def toml(self) -> str:
        """The keys that say so."""
        given = {"encoding": self.encoding, "quoting": self.quoting}
        return (
            ", ".join(f'{key} = "{value}"' for key, value in given.items() if value)
            or "neither key"
        )


USUAL = Layout()
