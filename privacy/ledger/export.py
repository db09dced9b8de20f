"""A ledger in formats that anybody can read, with all that is needed to verify it again."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

from ...foreign import cell
from .chain import COLUMNS, GENESIS, Entry

RECIPE = (
    "hash = SHA-256, in hexadecimal, of the JSON list [hash of the row before, identity, "
    + ", ".join(COLUMNS)
    + "] in ASCII, items separated by a comma and a space, numbers with the fewest digits that read "
    "back equal. The first row follows genesis. Rows of version 1 leave out identity, kind and "
    "version."
)


def is_export(content: bytes) -> bool:
    """Whether a file is such an export: by the columns that it names, in either format."""
    return not content or all(name.encode() in content for name in (*COLUMNS, "ledger"))


def to_json(entries: Sequence[Entry], identity: str) -> str:
    """One object: the rows in `rows`, and how their hashes are made."""
    document = {
        "ledger": identity,
        "genesis": GENESIS,
        "head": entries[-1].hash if entries else GENESIS,
        "recipe": RECIPE,
        "columns": [*COLUMNS, "hash"],
        "rows": [[*entry.row(), entry.hash] for entry in entries],
    }
    return json.dumps(document, indent=1) + "\n"


def to_csv(entries: Sequence[Entry], identity: str) -> str:
    """RFC 4180 with a header; `ledger`, the identity that is hashed with each row, comes last.

    A text that a spreadsheet would take for a formula, or that begins with an apostrophe, has an
    apostrophe before it that is not hashed (``foreign.cell``).
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([*COLUMNS, "hash", "ledger"])
    writer.writerows([*map(cell, entry.row()), entry.hash, identity] for entry in entries)
    return text.getvalue()
