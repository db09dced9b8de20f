"""Every strategy of the registry, however it runs: with one worker or two, stopped and resumed, rehearsed.

A strategy that is added to the registry is tried without a line here. A unit of privacy, or a run between
machines, is left out only where the strategy's own declarations refuse it.
"""

import inspect

import pytest

from umbel.errors import PlanRefused
from umbel.planning.refusals import deployment_refusals, job_refusals
from umbel.simulations.rehearsal import rehearse
from umbel.strategies import NAMES, ours

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
def job_it_takes(job_with):
    """The same with the first unit of privacy that is not refused."""

    def build(name, **sections):
        jobs = (job_with(name, unit, **sections) for unit in UNITS)
        return next(job for job in jobs if not job_refusals(job))

    return build


@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_goes_with_some_unit_of_privacy(name, job_it_takes):
    assert job_it_takes(name).strategy.name == name


@pytest.mark.slow
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", NAMES)
def test_one_worker_two_workers_and_a_run_that_stopped_come_to_the_same(
    name, unit, job_with, comes_to_the_same
):
    job = job_with(name, unit)
    if reasons := job_refusals(job):
        pytest.skip(reasons[0])
    try:
        comes_to_the_same(job)
    except PlanRefused as refused:
        if unit == "none":
            raise
        pytest.skip(str(refused))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_rehearsal_comes_to_the_adapter_of_a_simulation(name, job_it_takes, simulated, tmp_path):
    job = job_it_takes(
        name,
        simulation={"partition": "iid", "clients": 3},
        encryption={"deadline": 600.0},
        cohort={"deadline": 600.0},
    )
    if reasons := list(deployment_refusals(job)):
        pytest.skip(reasons[0])
    run, result = rehearse(job, tmp_path / "rehearsal")
    assert result["adapter_sha256"] == simulated(job).read_json("result.json")["adapter_sha256"]
    assert not [event for event in run.read_events() if event.get("restarted")]
