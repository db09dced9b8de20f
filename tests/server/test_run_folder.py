import errno
import json
import os
import stat
import subprocess

import pytest

from umbel.errors import RunFolderError
from umbel.run.events import Ended, Restored
from umbel.run.run_folder import RunFolder


@pytest.fixture
def job(job_of):
    return job_of()


@pytest.fixture
def folder(tmp_path, job):
    return RunFolder.create(tmp_path / "runs" / "one", job)


def test_the_job_comes_back_as_it_was(folder, job):
    assert RunFolder.open(folder.path).job == job


def test_a_folder_that_holds_something_is_never_written_over(folder, job, tmp_path):
    with pytest.raises(RunFolderError, match=f"{folder.path} exists already.*--resume"):
        RunFolder.free_path(folder.path, job)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="exists already"):
        RunFolder.free_path(tmp_path / "file", job)


def test_a_new_or_empty_folder_is_free_and_asking_makes_nothing(job, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    assert RunFolder.free_path(tmp_path / "empty", job) == tmp_path / "empty"
    assert RunFolder.free_path(tmp_path / "new", job) == tmp_path / "new"
    monkeypatch.chdir(tmp_path)
    assert RunFolder.free_path(None, job).match("runs/quick-*")
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "runs").exists()


def test_a_folder_without_a_job_is_no_run(tmp_path):
    with pytest.raises(RunFolderError, match="holds no run"):
        RunFolder.open(tmp_path)
    with pytest.raises(RunFolderError, match="holds no run"):
        RunFolder.open(tmp_path / "missing")


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path, job):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be made"):
        RunFolder.create(tmp_path / "file" / "run", job)


def test_events_come_back_in_order(folder):
    events = [Ended(number, "figures", "enough") for number in range(5)]
    for event in events:
        folder.append(event)
    assert RunFolder.open(folder.path).told(Ended) == events


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_line_that_a_crash_cut_in_half_is_repaired_and_the_next_one_is_whole(folder, cut):
    events = [Ended(number, "figures", "enough") for number in range(3)]
    for event in events:
        folder.append(event)
    os.truncate(folder.events, folder.events.stat().st_size - cut)
    again = RunFolder.open(folder.path)
    again.append(Restored(9, 10))
    assert again.told(Ended, Restored) == [*events[:2], Restored(9, 10)]


def test_a_first_line_cut_in_half_leaves_no_events(folder):
    folder.events.write_text('{"event": "ro')
    assert RunFolder.open(folder.path).read_events() == []


def test_latest_names_the_newest_run(folder, job):
    RunFolder.create(folder.path.parent / "two", job)
    assert (folder.path.parent / "latest").resolve() == folder.path.parent / "two"


def test_a_file_called_latest_is_left_alone(tmp_path, job):
    (tmp_path / "latest").write_text("mine")
    RunFolder.create(tmp_path / "one", job)
    assert (tmp_path / "latest").read_text() == "mine"


def test_a_run_may_itself_be_called_latest(tmp_path, job):
    RunFolder.create(tmp_path / "latest", job)
    assert RunFolder.open(tmp_path / "latest").job == job


def test_a_damaged_json_file_is_named(folder):
    (folder.path / "run.json").write_text('{"id": ')
    with pytest.raises(RunFolderError, match=r"run\.json cannot be read"):
        folder.read_json("run.json")


@pytest.fixture
def full_disk(tmp_path, folder):
    """The run's folder on a file system of 64 kB; skipped where nobody may mount one."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False, timeout=600).returncode:
        pytest.skip("mounting needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=600)


def test_on_a_full_disk_the_old_file_stays_whole_and_the_error_says_so(full_disk, job):
    folder = RunFolder.create(full_disk / "run", job)
    folder.write("result.json", b"old")
    with pytest.raises(RunFolderError, match="No space left on device.*free some space.*--resume"):
        folder.write("result.json", b"x" * 100_000)
    assert (folder.path / "result.json").read_bytes() == b"old"
    assert not list(folder.path.glob(".*.partial"))


def test_on_a_full_disk_events_fail_clearly_and_are_repaired_later(full_disk, job):
    folder = RunFolder.create(full_disk / "run", job)
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl cannot be written"):
        for number in range(1000):
            folder.append(Ended(number, "figures", "x" * 500))
    again = RunFolder.open(folder.path)
    events = again.read_events()
    assert [event["round"] for event in events] == list(range(len(events)))
    assert len(events) > 10


def test_on_a_full_disk_the_last_checkpoint_stays_whole(full_disk, job):
    import numpy as np

    from umbel.run.checkpoint import Checkpoint, load_latest, save

    folder = RunFolder.create(full_disk / "run", job)
    small, large = ({"w": np.ones(n, np.float32)} for n in (100, 50_000))
    save(folder.path / "checkpoints", Checkpoint(1, small, {}))
    with pytest.raises(RunFolderError, match="cannot be written: No space left"):
        save(folder.path / "checkpoints", Checkpoint(2, large, {}))
    assert load_latest(folder.path / "checkpoints", {"w": (100,)}).round == 1
    assert len(list((folder.path / "checkpoints").iterdir())) == 1


def test_a_file_too_large_for_the_process_leaves_the_old_one_whole(folder, python):
    """The same without root: the process may write files of 4 kB only."""
    folder.write("result.json", b"old")
    script = f"""
import resource, signal
from pathlib import Path
from umbel.errors import RunFolderError
from umbel.run.run_folder import RunFolder

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    RunFolder(Path({str(folder.path)!r})).write("result.json", b"x" * 100_000)
except RunFolderError as error:
    print(error)
"""
    process = python(script)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert os.strerror(errno.EFBIG) in out
    assert (folder.path / "result.json").read_bytes() == b"old"
    assert not list(folder.path.glob(".*.partial"))


def test_json_is_written_for_people_to_read(folder):
    folder.write_json("plan.json", {"a": [1]})
    assert json.loads((folder.path / "plan.json").read_text()) == {"a": [1]}
    assert (folder.path / "plan.json").read_text().endswith("\n")


def test_what_is_written_is_there_after_a_power_cut_under_its_name(folder, monkeypatch):
    """The file's bytes are flushed before it gets its name, and then the folder, which holds the name."""
    steps, flush, replace = [], os.fsync, os.replace

    def flushed(descriptor):
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        flush(descriptor)

    def replaced(*paths):
        steps.append("named")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", replaced)
    folder.write_json("slots.json", {})
    assert steps == ["file", "named", "folder"]
    steps.clear()
    folder.append(Ended(1, "figures", "first"))
    folder.append(Ended(2, "figures", "second"))
    assert steps == ["file", "folder", "file"]
