"""The process that leads one run: what it leaves in the store, however it ends."""

import logging
import socket

import pytest

from umbel.consortium.authority import Consortium
from umbel.job import Job
from umbel.privacy.secagg.roster import Limits
from umbel.run.events import Round, Said, Spare
from umbel.run.run_folder import RunFolder
from umbel.server.coordinator import Narrator, _advice, coordinate
from umbel.server.muster import TAKES_PART
from umbel.server.run_to_lead import RunToLead


@pytest.fixture
def consortium(tmp_path):
    return Consortium.create(tmp_path / "hospitals", "127.0.0.1", 9443, Limits())


@pytest.fixture
def task(consortium, store, tmp_path):
    """A run whose SuperLink is gone: its port is bound, and nobody listens there."""
    job = Job.build({"data": {"path": "-", "labels": ["no", "yes"]}})
    RunFolder.create(consortium.runs / "reviews", job)
    store.add("reviews", "its-id", job.training.rounds)
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 32)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        yield RunToLead(str(consortium.path), "reviews", address, 7, str(secret), {"clinic": 2})


def test_a_task_travels_whole(task):
    assert RunToLead.from_json(task.to_json()) == task


def test_a_run_whose_superlink_is_gone_fails_with_the_reason(task, store):
    store.set_status("reviews", "running")
    coordinate(task)
    row = store.run("reviews")
    assert row.status == "failed"
    assert f"{task.address} does not answer" in row.reason


def test_a_run_whose_result_was_being_sent_is_finished_whatever_comes(task, store):
    store.set_status("reviews", "delivering", "ended early")
    coordinate(task)
    row = store.run("reviews")
    assert (row.status, row.reason) == ("finished", "ended early")


def given_up(number):
    """A round that one client answered, and one failed."""
    nothing = {"trips": {}, "loss": None, "clipped": 0, "unable": 0, "epsilon": {}, "tested": False}
    return Round(
        round=number, attempt=2, seconds=1.5, clients=["clinic"], heard=[], bytes_up=1, bytes_down=1,
        failed={"praxis": "the disk is full"}, encrypted=True, aggregated=False,
        heads={"stranger": "f" * 64}, doubted={"clinic": "clinic reports an epsilon of 9"}, **nothing,
    )  # fmt: skip


def test_what_a_run_tells_is_in_the_store_and_in_the_log(consortium, store, caplog):
    store.add("reviews", "its-id", 3)
    narrator = Narrator(store, "reviews", consortium)
    caplog.set_level(logging.INFO)
    narrator.member("clinic", "not connected")
    narrator.member("clinic", TAKES_PART)
    narrator.event(Spare(2, 1, "few rounds to spare"))
    narrator.event(given_up(2))
    said = [event for _, event in store.of_kinds("reviews", Said)]
    assert [(one.client, one.takes_part) for one in said] == [("clinic", False), ("clinic", True)]
    assert "few rounds to spare" in caplog.text
    assert store.last("reviews", Spare)[0][1].text == "few rounds to spare"
    assert "round 2 given up after 1.5 s: 1 clients; praxis: the disk is full" in caplog.text
    assert "clinic reports an epsilon of 9" in caplog.text
    assert store.run("reviews").round == 0, "it gave no model"
    assert store.last("reviews", Round)[0][1] == given_up(2)
    assert narrator.heads() == store.heads() == {}, "of a stranger nothing is kept"


def test_how_to_go_on_is_said_with_what_there_is_to_keep():
    assert "umbel resume reviews" in _advice("reviews", 0)
    assert "umbel finish" not in _advice("reviews", 0)
    assert "umbel finish reviews" in _advice("reviews", 2)
