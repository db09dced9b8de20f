"""Logs: they are added to line by line, by this process or by a child, and kept within a size."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import BinaryIO

MOST_BYTES = 8 * 2**20
"""At most twice this is on disk: the log, and the part that was put aside before."""


def append_line(path: Path, line: str, *, lasting: bool = False) -> None:
    """Add a line to a log, in a folder that is made if it is missing. A crash may leave a part of it.

    lasting: it has survived a crash when this returns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")
        if lasting:
            stream.flush()
            os.fsync(stream.fileno())


def opened(path: Path) -> BinaryIO:
    """A log for a child to write to, behind what is in it."""
    return path.open("ab")


def keep_small(path: Path, most: int = MOST_BYTES) -> bool:
    """Put a log aside, as NAME.1, once it has grown beyond `most` bytes; whether it was.

    Anyone who writes continues with the same file, empty now, so it must append. What is written at this
    instant may be lost, as may all of it on a full disk.
    """
    aside = path.with_name(f"{path.name}.1")
    partial = path.with_name(f".{aside.name}.partial")
    try:
        if path.stat().st_size <= most:
            return False
        with contextlib.suppress(OSError):
            shutil.copyfile(path, partial)
            shutil.copymode(path, partial)
            os.replace(partial, aside)
        os.truncate(path, 0)
    except OSError:
        return False
    return True


def last_line(path: Path) -> str:
    """The last line of a log that says anything; for people, who read there why something ended."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[-50:]
    except OSError:
        return "it left no log"
    return next((line.strip() for line in reversed(lines) if line.strip()), "its log is empty")
