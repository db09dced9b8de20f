"""What a check of an owner's set-up found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Level = Literal["ok", "warning", "bad"]


@dataclass(frozen=True)
class Finding:
    """What one check found; `remedy` says what to do where it is not well."""

    name: str
    level: Level
    text: str
    remedy: str = ""

    @property
    def bad(self) -> bool:
        """Whether this owner cannot, or must not, take part like this."""
        return self.level == "bad"

    def to_dict(self) -> dict[str, str]:
        return asdict(self)

    def __str__(self) -> str:
        line = f"{self.level:<8} {self.name:<12} {_one_line(self.text)}"
        return f"{line}\n{'':22}{_one_line(self.remedy)}" if self.remedy else line


def _one_line(text: str) -> str:
    """Safe to show in a terminal: paths, columns and certificates are written by others."""
    return "".join(c if c.isprintable() else "�" for c in " ".join(text.split()))
