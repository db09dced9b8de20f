"""Every child of a deployment ends with its parent, and there is one way to start one."""

import ast
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from umbel.storage import processes

ROOT = Path(__file__).parent.parent
STARTERS = {"Popen", "fork", "forkpty", "posix_spawn", "posix_spawnp", "system", "popen"}
STARTERS |= {"check_call", "check_output", "getoutput", "create_subprocess_exec"}
PACKAGE = [
    *ROOT.glob("*.py"),
    *(
        path
        for folder in ROOT.iterdir()
        if (folder / "__init__.py").is_file() and folder.name not in ("tests", "benchmarks")
        for path in folder.rglob("*.py")
    ),
]


def test_the_package_is_looked_at_whole():
    names = {str(path.relative_to(ROOT)) for path in PACKAGE}
    assert {"storage/processes.py", "client/child.py", "privacy/secagg/journal.py"} <= names


def test_nothing_starts_a_process_by_another_way():
    found = {
        str(path.relative_to(ROOT)): ways
        for path in PACKAGE
        if path.name != "processes.py" and (ways := started_by(path))
    }
    # A pool of Python's own, whose workers wait for its end (``_end_with_parent``).
    assert found == {"simulations/workers.py": {"multiprocessing"}}


def started_by(path):
    """What a file calls that starts processes."""
    calls = [
        node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
    ]
    names = {getattr(func, "attr", getattr(func, "id", "")) for func in calls}
    owners = {func.value.id for func in calls if isinstance(getattr(func, "value", None), ast.Name)}
    return (names & STARTERS) | (owners & {"subprocess", "multiprocessing"})


@pytest.mark.parametrize(
    "how", [["-m", "umbel.storage.units"], ["-c", "import umbel.storage.units"]]
)
def test_a_child_imports_nothing_from_the_folder_that_it_is_started_in(how, tmp_path):
    """Somebody may start a server in a folder that other users of the machine can write."""
    command, planted = [sys.executable, *how], tmp_path / "planted"
    own = f"open({str(planted)!r}, 'w')\nraise SystemExit\n"
    (tmp_path / "umbel").mkdir()
    for name in ("umbel/__init__.py", "re.py"):
        (tmp_path / name).write_text(own)
    assert processes.start(command, cwd=tmp_path).wait(600) == 0
    assert not planted.exists()
    # Weakened: as Python does it.
    subprocess.run(command, cwd=tmp_path, check=True, timeout=600)
    assert planted.exists()


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def eventually_gone(pid):
    end = time.monotonic() + 600
    while not gone(pid) and time.monotonic() < end:
        time.sleep(0.02)
    assert gone(pid)


FOREIGN = "['sleep', '100000']"
OWN = (
    "[sys.executable, '-c', 'import time; from umbel.storage.processes import end_with_parent; "
    "end_with_parent(); time.sleep(100000)']"
)


def parent_of(child, how):
    """A process that starts a child and waits, and the child's process id."""
    script = (
        "import sys, threading, time\nfrom umbel.storage.processes import start\n"
        f"def go(): print(start({child}).pid, flush=True)\n"
        f"{how}\ntime.sleep(100000)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    return parent, int(parent.stdout.readline())


IN_A_THREAD = "t = threading.Thread(target=go); t.start(); t.join()"


@pytest.mark.skipif(sys.platform != "linux", reason="what the kernel does is Linux's")
def test_a_child_that_knows_nothing_of_umbel_ends_with_its_parent():
    parent, child = parent_of(FOREIGN, "go()")
    parent.kill()
    parent.wait(600)
    eventually_gone(child)


@pytest.mark.parametrize("how", ["go()", IN_A_THREAD], ids=["main thread", "another thread"])
def test_a_child_of_umbel_ends_with_its_parent_whatever_thread_started_it(how):
    parent, child = parent_of(OWN, how)
    assert not gone(child)
    parent.kill()
    parent.wait(600)
    eventually_gone(child)


def test_a_child_outlives_the_thread_that_started_it():
    found = []
    thread = threading.Thread(target=lambda: found.append(processes.start(["sleep", "100000"])))
    thread.start()
    thread.join()
    (child,) = found
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(1)
    finally:
        processes.end([child])


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="/proc is Linux's")
def test_a_parent_that_dies_in_any_instant_of_a_start_leaves_nobody(tmp_path):
    """Also between fork and the request to the kernel: the child sees that it is nobody's."""
    mark = f"3600.{os.getpid()}"
    script = (
        "import os, sys\nfrom umbel.storage.processes import start\nsys.stdout.write('x')\n"
        f"sys.stdout.flush()\nstart(['sleep', '{mark}'])\nos.read(0, 1)"
    )
    for moment in range(12):
        parent = subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        parent.stdout.read(1)
        time.sleep(moment * 0.004)
        parent.kill()
        parent.stdin.close()
        parent.stdout.close()
        parent.wait(600)
    until = time.monotonic() + 600
    while (left := started_with(mark)) and time.monotonic() < until:
        time.sleep(0.05)
    assert left == []


def started_with(argument):
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if argument.encode() in words and not gone(int(path.name)):
            found.append(int(path.name))
    return found


def test_sigterm_ends_a_block_in_order():
    script = (
        "import time\nfrom umbel.storage.processes import orderly\n"
        "try:\n    with orderly():\n        print('in', flush=True)\n        time.sleep(100000)\n"
        "finally:\n    print('out', flush=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "in\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=600)[0] == "out\n"
    assert process.returncode == 128 + signal.SIGTERM
