"""A round whose line was written before its process died, and its checkpoint not: it is told again."""

import pytest

from umbel.server import run as run_module
from umbel.server.rounds import run_rounds

from .faults import events


class Killed(BaseException):
    pass


@pytest.fixture
def timed(start_run, quick):
    """Makes a run of three rounds in which each client takes a minute on the virtual clock."""

    def make(name="run"):
        run = start_run(quick(), name=name)
        run.pace = {client.name: 60.0 for client in run.plan.clients}
        return run

    return make


def test_it_takes_its_time_on_the_virtual_clock_once(timed):
    save = run_module.save

    def dies(folder, checkpoint):
        if checkpoint.round == 2:
            raise Killed
        return save(folder, checkpoint)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(run_module, "save", dies)
        run_rounds(timed())
    run = timed()
    run.restore()
    run_rounds(run)
    told = [(event["round"], event["virtual"]) for event in events(run, "round")]
    assert told == [(1, 60.0), (2, 120.0), (2, 120.0), (3, 180.0)]
