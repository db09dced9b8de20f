"""The audit log: what it keeps through crashes, and what it notices."""

import json
import signal
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.client import audit_log
from umbel.client.audit_log import AuditLog
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
    with pytest.raises(LedgerError, match="its last line is not the one that was written"):
        log.write("agent started")
    assert log.path.read_bytes() == changed


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_a_last_line_that_a_crash_cut_off_is_dropped_and_noted(log, kept):
    *lines, last = lines_of(log)
    log.path.write_bytes(b"".join(lines) + last[:kept])
    # A line has its witness once it is on disk, whole.
    log.witness.write_text(json.loads(lines[-1])["hash"])
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


@given(count=st.integers(2, 9), data=st.data())
@settings(deadline=None, max_examples=40)
def test_lines_that_were_swapped_cut_or_doubled_are_noticed_wherever(count, data, tmp_path_factory):
    log = AuditLog(tmp_path_factory.mktemp("log") / "audit.jsonl")
    for number in range(count):
        log.write("job waits", run=str(number))
    lines = lines_of(log)
    kind = data.draw(st.sampled_from(["swap", "cut", "end", "double", "none"]))
    place = data.draw(st.integers(0, count - 2))
    changed = {
        "swap": [*lines[:place], lines[place + 1], lines[place], *lines[place + 2 :]],
        "cut": lines[:place] + lines[place + 1 :],
        "end": lines[: place + 1],
        "double": [*lines[:place], lines[place], *lines[place:]],
        "none": lines,
    }[kind]
    log.path.write_bytes(b"".join(changed))
    if kind == "none":
        assert log.verify() == count
        return
    with pytest.raises(LedgerError, match="was changed|was cut off at its end"):
        log.verify()


@pytest.mark.parametrize("left", [0, 1, 2])
def test_an_end_that_was_cut_off_is_never_built_upon(log, left):
    cut = b"".join(lines_of(log)[:left])
    log.path.write_bytes(cut)
    with pytest.raises(LedgerError, match="was cut off at its end"):
        log.write("agent started")
    assert log.path.read_bytes() == cut
    log.path.unlink()
    with pytest.raises(LedgerError, match="was cut off at its end"):
        log.verify()


def test_a_witness_that_is_gone_is_noted(log):
    log.witness.unlink()
    assert log.verify() == 3
    log.write("agent started")
    *_, noted, started = log.entries()
    assert (noted.event, noted.details) == ("log continued", {"witness": "missing"})
    assert log.verify() == 5


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A log whose files are put aside after two or three lines."""
    monkeypatch.setattr(audit_log, "MOST_BYTES", 700)
    return AuditLog(tmp_path / "audit.jsonl")


def fill(log, lines, start=0):
    for number in range(start, start + lines):
        log.write("job waits", run=str(number))


def runs(log):
    return [entry.run for entry in log.entries() if entry.event == "job waits"]


def test_a_log_that_has_grown_large_goes_on_in_another_file_and_its_chain_with_it(small):
    fill(small, 12)
    assert len(small.archives) >= 3
    assert all(path.stat().st_size < 1400 for path in [small.path, *small.archives])
    assert {stat.S_IMODE(path.stat().st_mode) for path in small.archives} == {0o600}
    assert runs(small) == [str(number) for number in range(12)]
    head = small.head()
    fill(AuditLog(small.path), 1, 12)  # another process
    assert runs(small)[-1] == "12"
    assert head in {entry.previous for entry in small.entries()}


def test_an_archive_that_is_missing_or_changed_is_noticed_and_the_oldest_may_be_moved_away(small):
    fill(small, 12)
    archives = small.archives
    middle = archives[1].read_bytes()
    archives[1].unlink()
    with pytest.raises(LedgerError, match="line 1 does not follow"):
        small.verify()
    archives[1].write_bytes(middle.replace(b"waits", b"knows"))
    with pytest.raises(LedgerError, match=archives[1].name):
        small.verify()
    archives[1].write_bytes(middle)
    archives[0].unlink()
    first = next(iter(small.entries()))
    assert (first.event, first.details) == ("log continued", {"after": archives[0].name})
    fill(small, 1, 12)
    assert runs(small)[-1] == "12"


def test_so_many_archives_are_kept(small, monkeypatch):
    monkeypatch.setattr(audit_log, "MOST_ARCHIVES", 3)
    fill(small, 30)
    assert len(small.archives) == 3
    assert small.archives[-1].name > "audit-000004.jsonl"
    assert runs(small)[-1] == "29"


def test_a_crash_before_the_next_file_is_there_costs_nothing(small):
    fill(small, 3)
    small.path.rename(small.path.with_name("audit-000001.jsonl"))
    small.write("agent started")
    assert [entry.event for entry in small.entries()][-2:] == ["log continued", "agent started"]
    assert runs(small) == ["0", "1", "2"]


def test_writers_and_readers_take_turns_while_files_are_put_aside(small):
    def write(number):
        AuditLog(small.path).write("job waits", run=str(number))
        return AuditLog(small.path).verify()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(write, range(40)))
    assert sorted(runs(small), key=int) == [str(number) for number in range(40)]


def test_no_link_is_followed(log, tmp_path):
    target = tmp_path / "elsewhere"
    target.write_bytes(log.path.read_bytes())
    log.path.unlink()
    log.path.symlink_to(target)
    with pytest.raises(LedgerError):
        log.write("agent started")


def test_umbel_ledger_verify_looks_at_the_audit_log_too(tmp_path, log, umbel):
    (tmp_path / "client.toml").touch()
    status, out, _ = umbel("ledger", "verify", tmp_path)
    assert status == 0
    assert "The audit log verifies: 3 lines" in out
    log.path.write_bytes(b"".join(lines_of(log)[:2]))
    status, _, err = umbel("ledger", "verify", tmp_path)
    assert status == 2
    assert "was cut off at its end" in err
