import errno
import threading

import pytest

from umbel.errors import UmbelError
from umbel.learning.cache import cache_folder, write_once


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
