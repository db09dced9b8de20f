import errno
import os
import stat
import threading

import pytest

from umbel.errors import UmbelError
from umbel.storage.cache import cache_folder, write_once


def test_the_cache_lies_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("UMBEL_CACHE", str(tmp_path / "here"))
    assert cache_folder("tokens") == tmp_path / "here" / "tokens"
    monkeypatch.delenv("UMBEL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("tokens") == tmp_path / "xdg" / "umbel" / "tokens"


def test_a_cache_folder_that_cannot_be_made_is_an_error_that_says_what_to_set(
    tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UMBEL_CACHE", str(tmp_path / "file"))
    with pytest.raises(UmbelError, match="Set UMBEL_CACHE"):
        cache_folder("tokens")


def test_what_is_in_the_cache_is_not_written_again(tmp_path):
    calls = []

    def write(path):
        calls.append(path)
        path.write_text("content")

    assert write_once(tmp_path / "a", write).read_text() == "content"
    assert write_once(tmp_path / "a", write).read_text() == "content"
    assert len(calls) == 1


def test_a_writer_that_fails_leaves_nothing_behind(tmp_path):
    def write(path):
        path.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UmbelError, match="Free some disk space"):
        write_once(tmp_path / "a", write)
    assert list(tmp_path.iterdir()) == []


def test_of_two_writers_at_once_both_succeed_and_one_result_stands(tmp_path):
    both_write = threading.Barrier(2)

    def write(path):
        path.mkdir()
        both_write.wait(10)
        (path / "file").write_text("content")

    threads = [threading.Thread(target=write_once, args=(tmp_path / "a", write)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (tmp_path / "a" / "file").read_text() == "content"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_no_other_user_reads_what_is_kept_whatever_the_umask(tmp_path, monkeypatch, umask):
    monkeypatch.setenv("UMBEL_CACHE", str(tmp_path / "cache"))
    in_the_making = []

    def write(path):
        (path / "deep").mkdir(parents=True)
        (path / "deep" / "ids.npy").write_bytes(b"a record")
        in_the_making.append(stat.S_IMODE(path.parent.stat().st_mode))

    before = os.umask(umask)
    try:
        made = write_once(cache_folder("tokens") / "a", write)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [made, *made.rglob("*")]}
    assert modes == {"a": 0o700, "deep": 0o700, "ids.npy": 0o600}
    assert in_the_making == [0o700]
    assert stat.S_IMODE(made.parent.stat().st_mode) == 0o700


def test_a_cache_that_an_earlier_version_left_open_is_closed(tmp_path, monkeypatch):
    monkeypatch.setenv("UMBEL_CACHE", str(tmp_path))
    (tmp_path / "tokens").mkdir(mode=0o755)
    assert stat.S_IMODE(cache_folder("tokens").stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_a_cache_of_another_user_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("UMBEL_CACHE", str(tmp_path))
    (tmp_path / "tokens").mkdir()
    os.chown(tmp_path / "tokens", 65534, 65534)
    with pytest.raises(UmbelError, match="belongs to another user"):
        cache_folder("tokens")
