"""The server's supervisor over real folders: runs whose coordinator died, or that cannot begin."""

import json
import subprocess
import sys

import pytest

from umbel.consortium.authority import Consortium
from umbel.errors import DeploymentError
from umbel.job import Job
from umbel.privacy.secagg.roster import Limits
from umbel.run.run_folder import RunFolder
from umbel.server.run_to_lead import RunToLead
from umbel.server.supervisor import _MOST_CRASHES, Supervisor
from umbel.storage.processes import alone


@pytest.fixture
def consortium(tmp_path):
    return Consortium.create(tmp_path / "hospitals", "127.0.0.1", 9443, Limits())


@pytest.fixture
def queued(consortium, store):
    """Place a run as a server finds it that nobody has a roster for yet."""

    def place(name):
        job = Job.build({"data": {"path": "-", "labels": ["no", "yes"]}})
        RunFolder.create(consortium.runs / name, job).write_json("run.json", {"id": f"{name}-id"})
        store.add(name, f"{name}-id", job.training.rounds)
        return consortium.runs / name

    return place


@pytest.fixture
def server(consortium):
    return Supervisor(consortium, "127.0.0.1")


def ended(status):
    """A process that has ended so."""
    process = subprocess.Popen([sys.executable, "-S", "-c", f"raise SystemExit({status})"])
    process.wait(600)
    return process


def dies(server, name, status):
    """The coordinator of a run ends; what the supervisor then does."""
    server._coordinator = (name, 7, ended(status))
    server._lead()


def test_a_run_whose_coordinator_keeps_dying_fails_and_says_where_to_look(
    server, store, queued, caplog
):
    folder = queued("reviews")
    for _ in range(_MOST_CRASHES):
        dies(server, "reviews", 3)
        assert store.run("reviews").status == "queued"
    dies(server, "reviews", 9)
    row = store.run("reviews")
    assert row.status == "failed"
    assert f"died {_MOST_CRASHES + 1} times, the last time with status 9" in row.reason
    assert str(folder / "log") in row.reason
    assert caplog.text.count("started again") == _MOST_CRASHES


def test_deaths_are_forgotten_once_a_coordinator_ended_as_it_should(server, store, queued):
    queued("reviews")
    for _ in range(_MOST_CRASHES):
        dies(server, "reviews", 3)
    # It said how the run ended; somebody has resumed that since.
    dies(server, "reviews", 0)
    assert store.run("reviews").status == "queued"
    dies(server, "reviews", 3)
    assert store.run("reviews").status == "queued"


def test_a_run_that_is_over_is_not_led_again_however_its_coordinator_ended(server, store, queued):
    queued("reviews")
    store.set_status("reviews", "stopped", "Stopped.")
    dies(server, "reviews", 9)
    assert (store.run("reviews").status, server._coordinator) == ("stopped", None)
    assert not server._crashes


def test_a_run_that_is_stopped_while_nobody_leads_it_is_stopped(server, store, queued):
    queued("reviews")
    store.set_status("reviews", "stopping")
    server._lead()
    assert store.run("reviews").status == "stopped"


@pytest.mark.parametrize("lost", ["job.toml", "run.json"])
def test_a_folder_that_cannot_be_read_fails_its_run_and_holds_up_no_other(
    lost, server, store, queued
):
    folder = queued("first")
    queued("second")
    (folder / lost).write_text("{")
    server._lead()
    assert store.run("first").status == "failed"
    assert f"Restore {folder}, then: umbel resume first" in store.run("first").reason
    assert store.run("second").status == "queued"


def test_a_result_that_was_being_sent_stays_one_whatever_becomes_of_its_coordinator(
    server, store, queued
):
    queued("reviews")
    store.set_status("reviews", "delivering", "It ended early.")
    for _ in range(_MOST_CRASHES + 1):
        dies(server, "reviews", 9)
    row = store.run("reviews")
    assert (row.status, row.reason) == ("finished", "It ended early.")


def test_without_members_no_run_begins(server, store, queued):
    queued("reviews")
    server._lead()
    assert server._coordinator is None
    assert store.run("reviews").status == "queued"


def test_two_servers_do_not_serve_one_folder(server, consortium):
    taken = pytest.raises(DeploymentError, match="Another server already runs for")
    with alone(consortium.path / "lock", "taken"), taken:
        server.run()
    assert not (consortium.path / "link.log").exists()


def test_what_is_handed_to_a_coordinator_is_read_as_it_was_written():
    task = RunToLead(
        "/srv/é", "reviews", "127.0.0.1:9", 2**63, "/srv/secret", {"st-mary": 2**62 + 1}
    )
    assert RunToLead.from_json(task.to_json()) == task
    assert "\n" not in task.to_json()
    assert json.loads(task.to_json())["nodes"] == {"st-mary": 2**62 + 1}
