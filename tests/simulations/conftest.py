"""What tests of whole simulations share: listeners that kill a run or end it early, and one check of all."""

import os
import signal
import threading

import pytest

from umbel.errors import Interrupted
from umbel.server.run import Silent
from umbel.simulations.engine import Options, resume, simulate


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


@pytest.fixture
def comes_to_the_same(tmp_path):
    """One worker, two workers, and a run that stopped after its first round come to the same adapter."""

    def check(job):
        def digest(run):
            return run.read_json("result.json")["adapter_sha256"]

        def options(part, workers, stop=None):
            return Options(tmp_path / part, workers=workers, reproducible=True, stop=stop)

        one = digest(simulate(job, options("one", 1)))
        assert digest(simulate(job, options("two", 2))) == one
        stop = threading.Event()
        with pytest.raises(Interrupted):
            simulate(job, options("parts", 1, stop), AfterTheFirst(stop))
        assert digest(resume(tmp_path / "parts", workers=2)) == one

    return check
