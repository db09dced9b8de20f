"""Asynchronous rounds between real processes: encrypted, private, over the real exchange."""

import tomllib
from collections import Counter
from datetime import datetime

import pytest
import tomli_w

from umbel.privacy.ledger.ledger import Ledger
from umbel.simulations.rehearsal import rehearse

SLOW = "client-0004"


@pytest.fixture
def job(deployed_job):
    """Sums of three owners of four or six, or of all three."""

    def build(owners, **sections):
        simulation = {"slow": {SLOW: 2.5}} if owners == 4 else {}
        return deployed_job(
            owners,
            strategy={"name": "fedbuff", "options": {"buffer": 3, "max_staleness": 2}},
            training={"rounds": 4, "local_steps": 2},
            simulation={"clients": owners, **simulation, **sections.pop("simulation", {})},
            cohort={"deadline": 120.0, **sections.pop("cohort", {})},
            **sections,
        )

    return build


@pytest.mark.slow
def test_a_rehearsal_comes_to_the_adapter_of_a_simulation(job, reference, tmp_path):
    run, result = rehearse(job(4), tmp_path / "rehearsal")
    assert result["adapter_sha256"] == reference(job(4))
    staleness = [event["staleness"] for event in run.read_events() if event["event"] == "round"]
    assert max(max(ages.values()) for ages in staleness) == 2


@pytest.fixture
def by_arrival(deploy, monkeypatch):
    """A deployment whose agents draw their noise from the system, and whose sums are of whoever is ready."""

    def build(job, late=None, hours=()):
        deployment = deploy(job)
        if late:
            write_hours(deployment.owners[late], hours)
        command = deployment.command
        plain = lambda name: [word for word in command(name) if word != "--rehearsal"]  # noqa: E731
        monkeypatch.setattr(deployment, "command", plain)
        return deployment.start()

    return build


def write_hours(home, hours):
    """Have an owner's policy let training start at these hours alone."""
    policy = tomllib.loads(home.policy.read_text())
    policy["jobs"]["hours"] = hours
    home.policy.write_text(tomli_w.dumps(policy))


def charges(deployment, run):
    """How often each owner was charged for each round that it trained."""
    found = {}
    for name, home in deployment.owners.items():
        with Ledger(home.ledger) as ledger:
            rows = ledger.entries_of(deployment.store.run(run).id)
            found[name] = Counter(int(row.what) for row in rows if not row.is_test)
    return found


def closed():
    """Hours of an owner's policy that this hour is not in."""
    hour = (datetime.now().hour + 6) % 24
    return [f"{hour:02}:00-{(hour + 1) % 24:02}:00"]


@pytest.mark.slow
def test_an_owner_that_is_not_ready_holds_nobody_up_and_no_death_costs_anybody_budget(
    job, by_arrival
):
    late = SLOW
    deployment = by_arrival(job(4, cohort={"deadline": 600.0}), late, closed())
    run = deployment.place(reproducible=False)
    fast = sorted(deployment.owners.keys() - {late})
    assert deployment.round(run, 1)["clients"] == fast
    deployment.said(run, r"round 1 summed .* 3 clients \(versions behind: 0, 0, 0\)")
    deployment.kill("coordinator")
    assert deployment.round(run, 2)["clients"] == fast
    deployment.kill("agent", late)
    write_hours(deployment.owners[late], [])
    deployment.start(late)
    deployment.said(fast[0], "trains, round 3")  # what it was asked dies with it
    deployment.kill("agent", fast[0])
    deployment.start(fast[0])
    deployment.finished(run)
    summed = [event for event in deployment.events(run, "round") if event["aggregated"]]
    # Which may be told twice: a process that dies after a sum, and before its checkpoint, opens it again.
    assert {event["round"] for event in summed} == {1, 2, 3, 4}
    assert any(late in event["clients"] for event in summed)
    found = charges(deployment, run)
    assert all(count == 1 for one in found.values() for count in one.values()), found
    assert not deployment.uploads.twice


@pytest.mark.faults
def test_a_silent_member_holds_up_its_own_sum_alone_and_that_sum_outlives_the_server(
    job, by_arrival
):
    # Longer than the test has patience: who waits for one of them fails.
    patient = job(6, cohort={"deadline": 1800.0}, encryption={"deadline": 1800.0})
    deployment = by_arrival(patient)
    run = deployment.place(reproducible=False)
    *others, silent = held = deployment.summing(run)
    deployment.freeze("agent", silent)
    for number in (1, 2):
        assert not set(held) & set(deployment.round(run, number)["clients"])
    deployment.kill("coordinator")
    deployment.kill("agent", others[0])
    deployment.thaw("agent", silent)
    deployment.start(others[0])
    deployment.finished(run)
    summed = [event for event in deployment.events(run, "round") if event["aggregated"]]
    assert {event["round"] for event in summed} == {1, 2, 3, 4}
    assert any(event["clients"] == held for event in summed)
    found = charges(deployment, run)
    assert all(count == 1 for one in found.values() for count in one.values()), found
    assert not deployment.uploads.twice
