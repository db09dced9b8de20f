"""What an owner's files of a run are called, and when they are deleted that nobody closed.

A run's name comes from the operator and may have any characters, so files are called by its hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterable
from pathlib import Path

_EARLIER = 16
"""Digits of the hash in earlier versions: so few that somebody could make two runs share them."""


def of_run(folder: Path, run: str, ending: str = "", *, beginning: str = "") -> Path:
    """Where a run's file or folder is in `folder`.

    Guarantee: two runs have two places; to find runs that share one is to find a collision of SHA-256. The
    exception is a run whose files an earlier version made, which keeps them.
    """
    digest = hashlib.sha256(run.encode()).hexdigest()
    earlier = folder / f"{beginning}{digest[:_EARLIER]}{ending}"
    return earlier if earlier.exists() else folder / f"{beginning}{digest}{ending}"


def delete_old(paths: Iterable[Path], seconds: float) -> None:
    """Delete those of the files that were last written longer ago than this."""
    now = time.time()
    for path in paths:
        with contextlib.suppress(OSError):
            if now - path.stat().st_mtime > seconds:
                path.unlink()
