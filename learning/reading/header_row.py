"""Which row of a table names its columns, if nobody says what they are called.

Only for a look at a file whose columns are not named yet, and for what an error says: if columns are named,
the header is the first row that has them.
"""

from __future__ import annotations

from collections.abc import Sequence

from .columns import looks_like_data

LOOK = 20
"""So many rows that are not empty are looked at."""
_TITLE_SHARE = 0.6
"""A row above the header fills at most this share of the header's cells: titles, and headings of groups."""


def header_row(rows: Sequence[Sequence[str]], *, split: bool = False) -> int:
    """The place of the header among the first rows: 0, unless what is above another row is titles.

    A header names each of its columns, once, in words; below it stand rows that fill about as many cells,
    above it a row of a single cell, a title, and perhaps more titles and headings of several columns.
    split: the rows were split at delimiters, so that a text with one in it fills several cells, and a single
    word may be the only column's name.
    """
    if not rows:
        return 0
    filled = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    widest = max(map(len, filled))
    if len(filled[0]) > 1 or widest < 2:
        return 0
    for at, names in enumerate(filled[:-1]):
        if len(names) < widest:
            continue
        above = filled[:at]
        below = filled[at + 1 :]
        if (
            at
            and all(len(one) <= _TITLE_SHARE * len(names) for one in above)
            and _is_title(rows[0], split)
            and len(set(names)) == len(names)
            and not looks_like_data(names)
            and max(map(len, below)) > _TITLE_SHARE * len(names)
        ):
            return at
        break
    return 0


def _is_title(row: Sequence[str], split: bool) -> bool:
    """Whether the first row may stand above a header: it begins in its first cell, and is no name."""
    first = row[0].strip() if row else ""
    return bool(first) and not (split and len(row) == 1 and len(first.split()) == 1)
