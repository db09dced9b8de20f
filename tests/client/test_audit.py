"""The audit log: what it keeps through crashes, and what it notices."""

import json
import signal
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from umbel.client.audit import AuditLog
from umbel.errors import LedgerError


@pytest.fixture
def log(tmp_path):
    log = AuditLog(tmp_path / "audit.jsonl")
    log.write("job accepted", run="one", job="abc", operator="key")
    log.write("budget reserved", run="one", job="abc", round=1, epsilon=0.5)
    log.write("job finished", run="one", job="abc")
    return log


def lines_of(log):
    return log.path.read_bytes().splitlines(keepends=True)


def test_a_log_tells_who_when_and_what_and_holds_together(log):
    first, second, third = log.entries()
    assert (first.event, first.run, first.job) == ("job accepted", "one", "abc")
    assert second.details == {"round": 1, "epsilon": 0.5}
    assert second.previous == first.hash
    assert first.time.endswith("+00:00")
    assert log.verify() == 3
    assert log.head() == third.hash


def test_where_nothing_was_written_there_is_nothing_to_doubt(tmp_path):
    assert AuditLog(tmp_path / "audit.jsonl").verify() == 0
    assert not (tmp_path / "audit.jsonl").exists()


def test_only_the_owner_can_read_it(log):
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("place", [1, 2, 3])
def test_an_edited_line_is_named(log, place):
    lines = lines_of(log)
    lines[place - 1] = lines[place - 1].replace(b'"one"', b'"two"')
    log.path.write_bytes(b"".join(lines))
    with pytest.raises(LedgerError, match=f"line {place} does not follow"):
        log.verify()


def test_a_line_that_was_cut_out_is_noticed_at_the_next(log):
    first, _, third = lines_of(log)
    log.path.write_bytes(first + third)
    with pytest.raises(LedgerError, match="line 2 does not follow"):
        log.verify()


def test_an_edited_last_line_is_never_built_upon(log):
    *lines, last = lines_of(log)
    changed = b"".join([*lines, last.replace(b"finished", b"accepted")])
    log.path.write_bytes(changed)
    with pytest.raises(LedgerError, match="its last line is not as it was written"):
        log.write("agent started")
    assert log.path.read_bytes() == changed


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_a_last_line_that_a_crash_cut_off_is_dropped_and_noted(log, kept):
    *lines, last = lines_of(log)
    log.path.write_bytes(b"".join(lines) + last[:kept])
    assert log.verify() == 2
    log.write("agent started")
    *_, repaired, started = log.entries()
    assert repaired.event == "log repaired"
    assert repaired.details == {"bytes_dropped": len(last[:kept])}
    assert started.event == "agent started"
    assert log.verify() == 4


def test_a_first_line_that_a_crash_cut_off_is_dropped_too(tmp_path):
    log = AuditLog(tmp_path / "audit.jsonl")
    log.path.write_bytes(b'{"time": "2026')
    log.write("agent started")
    assert [entry.event for entry in log.entries()] == ["log repaired", "agent started"]


def test_what_was_written_before_a_kill_is_there(log, forked):
    import os

    def write_and_die():
        log.write("model loaded", base="abc")
        os.kill(os.getpid(), signal.SIGKILL)

    assert forked(write_and_die) == -signal.SIGKILL
    assert [entry.event for entry in log.entries()][-1] == "model loaded"


def test_writers_take_turns(log):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: AuditLog(log.path).write("job waits", run=str(n)), range(40)))
    assert log.verify() == 43


def test_texts_of_others_are_cut_and_cannot_reach_the_terminal(log):
    details = {f"text{n}": "\x1b[2J\U0001f600" * 10_000 for n in range(16)}
    log.write("job refused", run="\n" * 5_000, job="é" * 5_000, **details)
    line = lines_of(log)[-1]
    assert line.isascii()
    assert b"\x1b" not in line
    assert all(len(text) == 1_000 for text in json.loads(line)["details"].values())
    log.write("agent stopped")
    assert log.verify() == 5
