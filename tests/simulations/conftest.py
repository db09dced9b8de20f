"""What tests of whole simulations share: listeners that kill a run or end it early, and one check of all."""

import hashlib
import os
import signal
import threading

import pytest

from umbel.errors import Interrupted
from umbel.server.run import Silent
from umbel.simulations.engine import Options, resume, simulate
from umbel.strategies import leaves_own_model


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


def came_to(run):
    """The shared adapter and every owner's own, by digest."""
    own = {
        str(file.relative_to(run.path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(run.path.glob("own/*/*.safetensors"))
    }
    return run.read_json("result.json")["adapter_sha256"], own


@pytest.fixture
def simulated(tmp_path):
    """A simulation of a job, with so many workers."""

    def run(job, workers=1):
        return simulate(job, Options(tmp_path / f"{workers}", workers=workers, reproducible=True))

    return run


@pytest.fixture
def comes_to_the_same(simulated, tmp_path):
    """One worker, two workers, and a run that stopped after its first round come to the same adapters."""

    def check(job):
        one = came_to(simulated(job))
        assert bool(one[1]) == leaves_own_model(job.strategy)
        assert came_to(simulated(job, 2)) == one
        stop = threading.Event()
        options = Options(tmp_path / "parts", workers=1, reproducible=True, stop=stop)
        with pytest.raises(Interrupted):
            simulate(job, options, AfterTheFirst(stop))
        assert came_to(resume(tmp_path / "parts", workers=2)) == one

    return check


@pytest.fixture
def quick(job_of):
    """A head on features at four sites, with privacy, or without it where that does not matter."""

    def build(unit="none", **sections):
        # Steps that see all records: their noise is found without a search over sampled ones.
        sections["training"] = {"batch_size": 64, **sections.get("training", {})}
        sections["privacy"] = {"unit": unit, "delta": 1e-3, **sections.get("privacy", {})}
        return job_of("bert", **sections)

    return build


@pytest.fixture
def start(tmp_path):
    def run(job, name="run", workers=1, reproducible=True, listener=None, **options):
        options = Options(
            run_dir=tmp_path / name, workers=workers, reproducible=reproducible, **options
        )
        return simulate(job, options, listener)

    return run
