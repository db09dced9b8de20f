"""A clock to wait by, and times as people read them."""

from __future__ import annotations

import time
from datetime import datetime
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


def local(text: str) -> str:
    """A time in ISO 8601, in UTC in what is kept, as the clock on the wall shows it, and the logs."""
    return f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M:%S}"
