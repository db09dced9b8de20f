"""Whatever ends a process that people start, nothing of it is left behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tomli_w

pytestmark = pytest.mark.slow


def descendants(pid):
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, children.read_text().split()):
                found += [child, *descendants(child)]
    return found


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def eventually(condition):
    until = time.monotonic() + 600
    while not (found := condition()):
        assert time.monotonic() < until
        time.sleep(0.05)
    return found


def ends_whole(process, number, at_least):
    """Whether all that a process had started ends with it."""
    eventually(lambda: len(descendants(process.pid)) >= at_least)
    started = descendants(process.pid)
    process.send_signal(number)
    process.wait(600)
    eventually(lambda: not any(map(alive, started)))


def test_server_and_agent_that_are_told_to_end_leave_nobody(deploy, deployed_job):
    deployment = deploy(deployed_job())
    deployment.start("server", "client-0001")
    # A SuperNode and a worker; a SuperLink.
    for name, children in (("client-0001", 2), ("server", 1)):
        ends_whole(deployment.processes[name], signal.SIGTERM, children)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_a_rehearsal_ends_with_all_that_it_started(number, deployed_job, tmp_path):
    job = tmp_path / "job.toml"
    job.write_text(tomli_w.dumps(deployed_job().model_dump(mode="json", exclude_none=True)))
    command = [sys.executable, "-m", "umbel.cli", "rehearse", job, "--run-dir", tmp_path / "run"]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, env=os.environ)
    try:
        # The server, a SuperLink; three agents, each with a SuperNode and a worker.
        ends_whole(process, number, 11)
    finally:
        process.kill()
