"""How far long work on records has come, for anyone who shows it: how many are done, and nothing of them.

Only a simulation listens. At a data owner nobody does, and nothing is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_heard: Callable[[int], None] | None = None


def records_done(count: int) -> None:
    """Tell that `count` more records are done."""
    if _heard is not None:
        _heard(count)


def listen(callback: Callable[[int], None] | None) -> None:
    """Let `callback` hear of all records in this process from now on; None: nobody."""
    global _heard
    _heard = callback


@contextmanager
def listening(callback: Callable[[int], None] | None) -> Iterator[None]:
    """The same for a while."""
    before = _heard
    listen(callback)
    try:
        yield
    finally:
        listen(before)
