"""A clock to wait by."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What waits for a time; a test moves its own."""

    def now(self) -> float:
        """Seconds since any moment in the past; never less than before."""
        ...

    def wait_until(self, moment: float) -> None: ...


class SystemClock:
    """This machine's."""

    def now(self) -> float:
        return time.monotonic()

    def wait_until(self, moment: float) -> None:
        time.sleep(max(0.0, moment - self.now()))
