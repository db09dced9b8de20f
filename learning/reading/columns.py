"""Whether a source has the columns that are asked for."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from ...errors import DataError

_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?")
_MOST_WORDS = 5


def check_columns(source: str, wanted: Iterable[str], found: Sequence[str]) -> None:
    """Refuse a missing column, and one that stands twice; name what is near and what there is."""
    for name in wanted:
        if found.count(name) > 1:
            raise DataError(
                f"{source} has {found.count(name)} columns named {name!r}. Rename all but one."
            )
        if name not in found:
            by_folded = {column.strip().casefold(): column for column in found}
            near = difflib.get_close_matches(name.strip().casefold(), list(by_folded), n=2)
            names = " or ".join(repr(by_folded[one]) for one in near)
            hint = f" Did you mean {names}?" if near else ""
            if not near and looks_like_data(found):
                hint = (
                    " Its first row looks like data, not like names: add a row with names above it."
                )
            columns = ", ".join(map(repr, found)) or "none"
            raise DataError(
                f"{source} has no column {name!r}.{hint} Its columns: {columns}. Name one that "
                "exists as text_column (--text-column), label_column (--label-column), group_column or "
                "simulation.partition."
            )


def renamed(names: Sequence[str], wanted: Iterable[str]) -> list[str]:
    """The names as they are `wanted`, if the only difference is blanks around the name of one column."""
    found = list(names)
    for name in wanted:
        alike = [at for at, one in enumerate(found) if one.strip() == name]
        if name not in found and len(alike) == 1:
            found[alike[0]] = name
    return found


def looks_like_data(names: Sequence[str]) -> bool:
    """Whether no person would name columns so: numbers, sentences, or nothing at all."""
    return any(_NUMBER.fullmatch(name.strip()) or len(name.split()) > _MOST_WORDS for name in names)
