"""The two processes of Flower: their command lines, when they end, and how they wait."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from umbel.errors import DeploymentError
from umbel.flower import link, node
from umbel.flower.link import Link
from umbel.flower.node import BUSY_SECONDS, IDLE_SECONDS, Node

FILES = {"ca": Path("a folder/ca.crt"), "key": Path("node.key"), "secret": Path("secret")}


@pytest.mark.parametrize("proxy", [None, "http://proxy.example.org:3128"])
@pytest.mark.parametrize("wake", [-1, 7])
def test_a_node_is_started_as_it_is_described(wake, proxy):
    described = Node("umbel.example.org:9443", **FILES, port=4711, wake=wake, proxy=proxy)
    assert node.parsed(described.command()[3:]) == described
    assert described.local_address == "127.0.0.1:4711"


def test_a_link_is_started_as_it_is_described():
    rest = {"certificate": Path("server.crt"), "database": Path("state.db")}
    described = Link("0.0.0.0", 9443, 9444, **FILES, **rest)
    assert link.parsed(described.command()[3:]) == described


def test_a_thread_that_fails_ends_the_process_with_what_was_wrong():
    program = (
        "import signal, threading\n"
        "from umbel.flower.node import end_with_any_thread\n"
        "end_with_any_thread()\n"
        "threading.Thread(target=lambda: 1 / 0).start()\n"
        "signal.pause()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 1
    assert "ZeroDivisionError" in ended.stderr


def test_a_message_wakes_the_agent_once_and_makes_the_node_look_more_often(monkeypatch):
    """Flower's loop sleeps long if there is no message, and briefly while it waits for the reply to one."""
    slept = []
    monkeypatch.setattr(
        node, "time", SimpleNamespace(sleep=slept.append, monotonic=lambda: float(len(slept)))
    )
    reading, writing = os.pipe()
    try:
        sleep = node._Sleep(writing)
        sleep(3)
        assert slept == [IDLE_SECONDS]
        for _ in range(5):
            sleep(0.5)
        assert os.read(reading, 10) == b"!"
        sleep(3)
        assert slept[-1] == BUSY_SECONDS
        sleep(0.5)
        assert os.read(reading, 10) == b"!", "the next message is announced again"
        slept += [0.0] * 100  # a while later
        sleep(3)
        assert slept[-1] == IDLE_SECONDS
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("when", ["pull", "confirm", "never"])
def test_a_message_whose_run_ends_meanwhile_is_dropped_by_what_drops_others(when):
    """Flower's own exception for it passes by every ``except Exception`` of its loop."""
    real = import_module("flwr.supernode.start_client_internal")
    over = real.RunNotRunningException
    assert not issubclass(over, Exception)

    def pull_objects(**given):
        if when == "pull":
            raise over

    def confirm():
        if when == "confirm":
            raise over

    def fetch(*, confirm_message_received):
        loop.pull_objects()
        confirm_message_received()
        return "fetched"

    loop = SimpleNamespace(
        RunNotRunningException=over, pull_objects=pull_objects, _pull_and_store_message=fetch
    )
    node._drop_messages_of_ended_runs(loop)
    assert hasattr(real, "pull_objects")
    assert hasattr(real, "_pull_and_store_message")
    if when == "never":
        assert loop._pull_and_store_message(confirm_message_received=confirm) == "fetched"
    else:
        with pytest.raises(DeploymentError, match="the run of this message is over"):
            loop._pull_and_store_message(confirm_message_received=confirm)
