"""Whoever waits for another process says how long: a test that hangs would take the whole suite with it."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
RUNNING = {"run", "call", "check_call", "check_output", "getoutput", "getstatusoutput"}


def endless(text):
    """Line numbers of calls in a module that wait for a process for however long it takes."""
    tree = ast.parse(text)
    plain = {
        name.asname or name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "subprocess"
        for name in node.names
        if name.name in RUNNING
    }
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    # At its end such a block waits for the process.
    blocks = [
        item.context_expr for n in ast.walk(tree) if isinstance(n, ast.With) for item in n.items
    ]
    return sorted(
        {call.lineno for call in calls if waits(call, plain) and not limited(call)}
        | {
            call.lineno
            for call in blocks
            if isinstance(call, ast.Call) and name_of(call) == "Popen"
        }
    )


def name_of(call):
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def waits(call, plain):
    """Whether a call waits for a process, or for anything by a method of that name."""
    if isinstance(call.func, ast.Name):
        return call.func.id in plain
    name, of = name_of(call), getattr(call.func, "value", None)
    if isinstance(of, ast.Name) and of.id == "subprocess":
        return name in RUNNING
    return name in ("wait", "communicate")


def limited(call):
    """Whether it gives up after a time that it names."""
    named = [word.value for word in call.keywords if word.arg == "timeout"]
    place = {"wait": 0, "communicate": 1}.get(name_of(call), len(call.args))
    given = [*named, *call.args[place : place + 1]]
    return any(not (isinstance(v, ast.Constant) and v.value is None) for v in given)


def test_no_test_waits_for_a_process_without_end():
    found = {
        str(path.relative_to(TESTS)): lines
        for path in sorted(TESTS.rglob("*.py"))
        if (lines := endless(path.read_text(encoding="utf-8")))
    }
    assert not found, (
        "name a timeout that is far beyond what a busy machine takes, such as timeout=600"
    )


@pytest.mark.parametrize(
    "line",
    [
        "subprocess.run(command)",
        "subprocess.run(command, **options)",
        "subprocess.run(command, timeout=None)",
        "subprocess.check_output(command)",
        "subprocess.call(command)",
        "from subprocess import run as go; go(command)",
        "process.wait()",
        "self.processes[name].wait()",
        "process.wait(None)",
        "start(command).communicate()",
        "process.communicate(text)",
        "with subprocess.Popen(command) as process: process.kill()",
    ],
)
def test_every_way_to_wait_without_end_is_found(line):
    assert endless(line), line


@pytest.mark.parametrize(
    "line",
    [
        "subprocess.run(command, timeout=600)",
        "subprocess.check_output(command, timeout=seconds)",
        "process.wait(30)",
        "process.wait(timeout=30)",
        "process.communicate(text, 600)",
        "process.communicate(timeout=600)",
        "process = subprocess.Popen(command)",
        "asked.wait(10)",
        "job.run(command)",
    ],
)
def test_a_wait_that_ends_is_not(line):
    assert not endless(line), line
