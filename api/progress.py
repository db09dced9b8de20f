"""Whether, and where, progress is shown."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from ..reports.progress import Progress
from ..server.run import Listener, Silent


def shown(progress: bool) -> AbstractContextManager[Listener]:
    """A bar in a terminal or a notebook, lines elsewhere; or nothing."""
    return Progress() if progress else nullcontext(Silent())
