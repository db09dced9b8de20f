"""What a check found, and how two values differ, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..storage.canonical import canonical_json


@dataclass(frozen=True)
class Finding:
    """One check. `holds` is None if it could not be made, which is no failure."""

    what: str
    holds: bool | None
    text: str


def differences(stated: Any, found: Any, place: str = "") -> Iterator[str]:
    """Where two trees of JSON values differ, each with both values."""
    if isinstance(stated, Mapping) and isinstance(found, Mapping):
        for key in sorted(stated.keys() | found.keys()):
            inner = f"{place}.{key}" if place else str(key)
            yield from differences(stated.get(key), found.get(key), inner)
    elif isinstance(stated, list) and isinstance(found, list) and len(stated) == len(found):
        for number, pair in enumerate(zip(stated, found, strict=True)):
            yield from differences(*pair, f"{place}[{number}]")
    elif canonical_json(stated) != canonical_json(found):
        yield f"{place} is {_shown(found)}, but {_shown(stated)} was certified"


def _shown(value: Any) -> str:
    return "missing" if value is None else f"{value!r:.100}"


def some(differences: list[str]) -> str:
    """The first three of them, and how many more there are."""
    more = f", and {len(differences) - 3} more" if len(differences) > 3 else ""
    return "; ".join(differences[:3]) + more
