"""Processes of a pool are started without the script that asks for them, whatever other threads do."""

import sys
import threading
from multiprocessing.spawn import get_preparation_data
from types import ModuleType

import pytest

from umbel.simulations.workers import _without_script


@pytest.fixture
def script(monkeypatch):
    """The module of a script that runs."""
    module = ModuleType("__main__")
    module.__file__ = "/somewhere/script.py"
    monkeypatch.setitem(sys.modules, "__main__", module)
    return module


def started_with():
    """The script that a process which is started now would run first."""
    return get_preparation_data("any").get("init_main_from_path")


def test_processes_are_started_without_the_script(script):
    assert started_with() == script.__file__
    with _without_script():
        assert started_with() is None
    assert started_with() == script.__file__


def test_two_threads_that_start_processes_leave_the_script_in_its_place(script):
    entered, left = threading.Event(), threading.Event()
    seen = []

    def start():
        with _without_script():
            entered.set()
            left.wait(600)
            seen.append(started_with())

    thread = threading.Thread(target=start)
    with _without_script():
        thread.start()
        overlapped = entered.wait(0.3)
    left.set()
    thread.join(600)
    assert not overlapped
    assert seen == [None]
    assert started_with() == script.__file__
