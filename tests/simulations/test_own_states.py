"""Simulations whose owners keep a state: resumed, spread over workers, or killed, to the same bits."""

import json
import signal
from pathlib import Path

import pytest

from umbel.client.own_state import OwnStates
from umbel.simulations.engine import Options, resume, simulate


@pytest.fixture
def job(job_of):
    """A head under SCAFFOLD, of which two of four owners train in a round."""
    return job_of(
        strategy={"name": "scaffold"},
        training={"optimizer": "sgd", "learning_rate": 0.5, "rounds": 4, "batch_size": 64},
        privacy={"unit": "none"},
        encryption={"mode": "none"},
        cohort={"size": 2},
        evaluation={"counts": "off"},
        simulation={"encryption_required": False},
    )


def run(job, path, workers=1, listener=None):
    return simulate(job, Options(run_dir=path, workers=workers, reproducible=True), listener)


def sha(folder):
    return json.loads((Path(folder.path) / "result.json").read_text())["adapter_sha256"]


@pytest.mark.parametrize("moment", ["train 2", "round 2", "train 4"])
def test_a_run_that_is_killed_goes_on_with_the_states_that_were_counted(
    moment, job, dies, forked, tmp_path
):
    whole = sha(run(job, tmp_path / "whole"))
    cut = tmp_path / "cut"
    assert forked(lambda: run(job, cut, listener=dies(moment))) == -signal.SIGKILL
    assert list(cut.glob("owners/*/states/*.state"))
    again = resume(cut, 1)
    assert sha(again) == whole
    assert not [event for event in again.read_events() if event.get("restarted")]
    assert not list(cut.glob("owners/*/states/*")), "they are deleted when the run ends"


def test_the_number_of_workers_changes_no_bit_and_losing_a_state_does(job, tmp_path, monkeypatch):
    hashes = {sha(run(job, tmp_path / f"{count}", count)) for count in (1, 2)}
    assert len(hashes) == 1
    monkeypatch.setattr(OwnStates, "propose", lambda *arguments: None)
    forgetful = run(job, tmp_path / "forgetful")
    assert sha(forgetful) not in hashes
    assert [event for event in forgetful.read_events() if event.get("restarted")]
