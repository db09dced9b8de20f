"""Writes the table of floors in docs/architecture.md, from the rooms and imports as they are.

    python docs/floors.py

A room is a folder at the root with an ``__init__.py``; its first line says what it is for. Its floor is one
above the highest floor that it imports from, so a higher floor knows all below it and nothing above.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- floors: python docs/floors.py -->\n", "<!-- end of floors -->\n"
_WIDTH = 24


@cache
def rooms() -> dict[str, Path]:
    """Every room, by its name, and the loose modules at the root."""
    found = {path.parent.name: path.parent for path in ROOT.glob("*/__init__.py")}
    loose = {
        path.stem: path for path in ROOT.glob("*.py") if path.stem not in ("setup", "__init__")
    }
    return dict(sorted((found | loose).items()))


def files(room: str) -> list[Path]:
    place = rooms()[room]
    return sorted(place.rglob("*.py")) if place.is_dir() else [place]


def imported(path: Path) -> Iterator[str]:
    """The rooms whose names a file imports, wherever it does so, its own among them."""
    known = rooms()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = path.relative_to(ROOT).parts[: -node.level]
            names = [*above, *(node.module or "").split("."), *(alias.name for alias in node.names)]
            first = next((name for name in names if name), "")
            if not above and not node.module:  # from .. import ROOM
                yield from (alias.name for alias in node.names if alias.name in known)
            elif first in known:
                yield first


@cache
def below() -> dict[str, set[str]]:
    """Of every room the others that it imports from."""
    return {room: {r for path in files(room) for r in imported(path)} - {room} for room in rooms()}


def floors() -> list[list[str]]:
    """The rooms of each floor, lowest first; a ``ValueError`` names rooms that import in a circle."""
    left, found = below(), list[list[str]]()
    while left:
        done = {room for floor in found for room in floor}
        floor = [room for room, needs in left.items() if needs <= done]
        if not floor:
            raise ValueError(f"These rooms import each other in a circle: {', '.join(left)}")
        found.append(floor)
        left = {room: needs for room, needs in left.items() if room not in floor}
    return found


def table() -> str:
    """The floors, highest first, with what each room is for."""
    lines = ["```"]
    for number, floor in reversed(list(enumerate(floors()))):
        for room in floor:
            place = rooms()[room]
            name, source = (
                (f"{room}/", place / "__init__.py") if place.is_dir() else (f"{room}.py", place)
            )
            doc = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
            mark = f"floor {number}" if room == floor[0] else ""
            lines.append(f"{mark:10}{name:{_WIDTH - 10}}{doc.splitlines()[0]}")
    return "\n".join([*lines, "```", ""])


def page(text: str) -> str:
    """The page with the table as it is now."""
    return re.sub(f"(?s){BEGIN}.*?{END}", lambda _: BEGIN + table() + END, text)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
