"""Whether a source has the columns that are asked for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from ..errors import DataError


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
            columns = ", ".join(map(repr, found)) or "none"
            raise DataError(
                f"{source} has no column {name!r}.{hint} Its columns: {columns}. Name one that "
                "exists: --text-column, --label-column, --partition column:NAME; in a file of "
                "settings text_column, label_column, group_column or simulation.partition."
            )
