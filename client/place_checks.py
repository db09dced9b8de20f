"""Whether what must be kept from other users of an owner's machine is: the cache, and the witness."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from .finding import Finding
from .home import Home


def cache(home: Home) -> Iterator[Finding]:
    """What is made from records, kept from other users as the records are."""
    root = home.cache
    found = [root, *root.rglob("*")] if root.is_dir() else []
    # Within a folder that is closed, nobody gets to what is open.
    closed = {p for p in found if p.is_dir() and _closed(p)}
    open_ = [p for p in found[1:] if not _closed(p) and not closed.intersection(p.parents)]
    if open_:
        yield Finding(
            "cache", "bad",
            f"{open_[0]} can be read by other users of this machine ({len(open_)} such files and "
            "folders): they are made from records",
            f"chmod -R go= {root}; if others may have read it, tell the person responsible for the data.",
        )  # fmt: skip
    else:
        yield Finding("cache", "ok", f"{root}, which only this user can read")


def witness(home: Home) -> Iterator[Finding]:
    place, folder = home.membership.witness, home.path.resolve()
    if place is not None and not place.resolve().is_relative_to(folder):
        yield Finding("witness", "ok", f"the journals' witness is kept separately, in {place}")
    else:
        yield Finding(
            "witness", "warning", "journals and their witness are in the same folder, so an old "
            "copy of it would not be noticed",
            f"Exclude {folder} from backups, and never restore or copy it.",
        )  # fmt: skip


def _closed(path: Path) -> bool:
    """Whether other users are kept out of it. A link leads to a model's files, which are no secret."""
    found = path.lstat()
    return stat.S_ISLNK(found.st_mode) or (
        found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077
    )
