"""`umbel client check`."""

from __future__ import annotations

from .home import Home


def examine(home: Home) -> list:
    raise NotImplementedError
