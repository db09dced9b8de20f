"""Work that goes on while the run does other things, a step at a time.

A secure sum waits for its members in the middle of its trips. Here it does so in a thread of its own, which
runs only while the run's own thread lets it (``Aside.go_on``), until it waits for its clock again. So two
threads never run at once: what they share needs no locks, and in which order things happen follows from the
clock and the answers alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from ..clock import Clock

Result = TypeVar("Result")


class _GivenUp(BaseException):
    """Ends work that nobody waits for any more."""


class Turns:
    """A clock whose waits, within an ``Aside``, let the run go on; elsewhere they are those of `clock`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._here = threading.local()

    def now(self) -> float:
        return self._clock.now()

    def wait_until(self, moment: float) -> None:
        aside: Aside[object] | None = getattr(self._here, "aside", None)
        if aside is None:
            self._clock.wait_until(moment)
        else:
            aside.pause(moment)

    def enter(self, aside: Aside[Result]) -> None:
        """What this thread waits for is a matter of `aside` from now on."""
        self._here.aside = aside


class Aside(Generic[Result]):
    """Work in a thread of its own, which runs only within ``go_on``; nothing of it has run yet."""

    def __init__(self, turns: Turns, work: Callable[[], Result]) -> None:
        self._turns, self._work = turns, work
        self._mine, self._others = threading.Semaphore(0), threading.Semaphore(0)
        self._until, self._given_up = turns.now(), False
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._result: Result | None = None
        self.done = False

    def go_on(self) -> bool:
        """Let it work until it waits, if its time has come; whether it is done. Raises what it raised."""
        if not self.done and self._turns.now() >= self._until:
            self._switch()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self.done

    def result(self) -> Result | None:
        """What came of it; None before it is done."""
        return self._result

    def give_up(self) -> None:
        """End it where it waits."""
        self._given_up = True
        while not self.done and self._thread is not None:
            self._switch()
        self.done, self._error = True, None

    def pause(self, moment: float) -> None:
        """Within the work: let the others go on, until this moment."""
        self._until = moment
        self._others.release()
        self._mine.acquire()
        if self._given_up:
            raise _GivenUp

    def _switch(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="aside", daemon=True)
            self._thread.start()
        else:
            self._mine.release()
        self._others.acquire()
        if self.done:
            self._thread.join()

    def _run(self) -> None:
        self._turns.enter(self)
        try:
            self._result = self._work()
        except _GivenUp:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self.done = True
            self._others.release()
