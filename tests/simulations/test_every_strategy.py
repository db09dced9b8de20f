"""Every strategy of the registry, however it runs: with one worker or two, stopped and resumed, rehearsed.

A strategy that is added to the registry is tried without a line here. Client-level privacy is left out only
if the job's refusals name it; nothing else is.
"""

import inspect

import pytest
from safetensors.numpy import load_file

from umbel.client.home import Home
from umbel.client.own_model import write_own_model
from umbel.errors import FileError, UmbelError
from umbel.planning.refusals import deployment_refusals, job_refusals
from umbel.simulations.rehearsal import rehearse
from umbel.strategies import NAMES, leaves_own_model, ours

UNITS = ("example", "client", "none")


@pytest.fixture
def job_with(job_of):
    """A small job of a strategy and a unit of privacy; encrypted, unless it compares what owners send."""

    def build(name, unit, **sections):
        kind = ours(name)
        compares = kind.sees != "SUM"
        options = {"attackers": 0.0} if "attackers" in inspect.signature(kind).parameters else {}
        plain = {
            "model": {"adapter": kind.fits[0]},
            "strategy": {
                "name": name,
                "options": options,
                **({"weighting": "equal"} if compares else {}),
            },
            "training": {"optimizer": "sgd", "learning_rate": 0.1, "rounds": 3},
            "privacy": {"unit": unit, "delta": 0.1 if unit == "client" else 1e-3},
            "encryption": {"mode": "none"} if compares else {},
            "simulation": {
                "encryption_required": not compares,
                **({"ranks": [1, 2]} if kind.ranked else {}),
            },
        }
        for section, values in sections.items():
            plain[section] = {**plain.get(section, {}), **values}
        return job_of("bert", **plain)

    return build


@pytest.fixture
def asked_for(sweep):
    """Skip a strategy that is not in the part of a sweep that is asked for."""

    def check(kind, name):
        if name not in sweep.drawn(kind, NAMES):
            pytest.skip(f"not in the third of the {kind} that UMBEL_SEED={sweep.seed()} draws")

    return check


@pytest.mark.parametrize("name", NAMES)
def test_a_strategy_is_refused_under_client_level_privacy_alone_and_for_it(name, job_with):
    assert job_refusals(job_with(name, "example")) == []
    assert job_refusals(job_with(name, "none")) == []
    for reason in job_refusals(job_with(name, "client")):
        assert "privacy.unit" in reason or "client-level privacy" in reason
    assert list(deployment_refusals(job_with(name, "example"))) == []


@pytest.mark.slow
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", NAMES)
def test_one_worker_two_workers_and_a_run_that_stopped_come_to_the_same(
    name, unit, job_with, comes_to_the_same, asked_for
):
    asked_for("simulations", name)
    job = job_with(name, unit)
    if unit == "client" and (reasons := job_refusals(job)):
        pytest.skip(reasons[0])
    comes_to_the_same(job)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_rehearsal_comes_to_what_a_simulation_comes_to_at_every_owner(
    name, job_with, simulated, asked_for, tmp_path
):
    asked_for("rehearsals", name)
    job = job_with(
        name,
        "example",
        simulation={"partition": "iid", "clients": 3},
        encryption={"deadline": 600.0},
        cohort={"deadline": 600.0},
    )
    simulation = simulated(job)
    run, result = rehearse(job, tmp_path / "rehearsal")
    assert result["adapter_sha256"] == simulation.read_json("result.json")["adapter_sha256"]
    assert not [event for event in run.read_events() if event.get("restarted")]
    identity = run.read_json("run.json")["id"]
    places = sorted(file.parent for file in (tmp_path / "rehearsal/owners").glob("*/client.toml"))
    assert len(places) == 3
    for place in places:
        home, own = Home.open(place), tmp_path / "own" / place.name
        assert not list((place / "states").glob("*")), "it is deleted when the result has come"
        if not leaves_own_model(job.strategy):
            with pytest.raises(UmbelError, match="no model of the owner's own"):
                write_own_model(home, identity)
            continue
        written = write_own_model(home, identity, own)
        with pytest.raises(FileError, match="exists already"):
            write_own_model(home, identity, own)
        assert tensors_of(own) == tensors_of(simulation.path / "own" / place.name) != {}
        assert {file.stat().st_mode & 0o077 for file in (own, *own.rglob("*"))} == {0}
        assert written.round == 3
        assert written.metrics["examples"] > 0
        assert written.line.endswith("held-out records")


def tensors_of(folder):
    """The bytes of every tensor of a model's files."""
    return {
        (file.name, name): array.tobytes()
        for file in folder.glob("*.safetensors")
        for name, array in load_file(file).items()
    }
