"""What tests of whole simulations share: listeners that kill a run, or end it early."""

import os
import signal

import pytest

from umbel.server.run import Silent


class Dies(Silent):
    """Kills its process when a stage begins, or an event was written."""

    def __init__(self, moment):
        self.moment = moment

    def started(self, what, total):
        if what == self.moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def event(self, event):
        self.started(f"{event.kind} {getattr(event, 'round', '')}", 0)


class AfterTheFirst(Silent):
    """Ends a run once its first round is written."""

    def __init__(self, stop):
        self._stop = stop

    def event(self, event):
        if event.kind == "round":
            self._stop.set()


@pytest.fixture(scope="session")
def dies():
    """A listener by the moment in which it kills its process."""
    return Dies


@pytest.fixture(scope="session")
def after_the_first():
    """A listener by the event that asks the run to end."""
    return AfterTheFirst
