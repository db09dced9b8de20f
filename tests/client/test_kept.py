"""An update on the owner's disk: read back whole, by the holder of its key, or not at all."""

import os
import stat
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from umbel.client import sealing
from umbel.client.kept import KeptUpdates
from umbel.errors import FileError

WHAT = b"w" * 32


def update_of(sizes, seed=0):
    random = np.random.default_rng(seed)
    return {f"t{i}": random.normal(size=size).astype(np.float32) for i, size in enumerate(sizes)}


def shapes_of(update):
    return {name: array.shape for name, array in update.items()}


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(sealing, "_CHUNK", 64)


@given(sizes=some.lists(some.one_of(some.integers(0, 40), some.just((3, 5))), max_size=5))
@settings(max_examples=40, deadline=None)
def test_what_was_kept_is_read_back_bit_for_bit(sizes, tmp_path_factory):
    chunk, sealing._CHUNK = sealing._CHUNK, 64
    try:
        store, update = KeptUpdates(tmp_path_factory.mktemp("kept")), update_of(sizes)
        key = store.keep("run", WHAT, update)
        found = store.read("run", WHAT, key, shapes_of(update))
        assert found is not None
        assert list(found) == list(update)
        assert all(found[n].tobytes() == a.tobytes() for n, a in update.items())
        assert all(found[n].shape == a.shape for n, a in update.items())
    finally:
        sealing._CHUNK = chunk


def test_nobody_reads_it_without_its_key_nor_for_another_question(tmp_path, small_chunks):
    store, update = KeptUpdates(tmp_path / "kept"), update_of([50])
    key = store.keep("run", WHAT, update)
    shapes = shapes_of(update)
    [file] = (tmp_path / "kept").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert update["t0"][:8].tobytes() not in file.read_bytes()
    assert store.read("run", WHAT, b"x" * 32, shapes) is None
    assert store.read("run", b"o" * 32, key, shapes) is None
    assert store.read("another", WHAT, key, shapes) is None
    assert store.read("run", WHAT, key, {"t0": (49,)}) is None
    assert store.read("run", WHAT, key, {"t0": (51,)}) is None


def test_no_byte_of_it_can_be_changed_moved_or_cut_off(tmp_path, small_chunks):
    store, update = KeptUpdates(tmp_path), update_of([40])
    key = store.keep("run", WHAT, update)
    shapes, file = shapes_of(update), next(tmp_path.iterdir())
    whole = file.read_bytes()
    chunk = 64 + 16
    swapped = whole[chunk : 2 * chunk] + whole[:chunk] + whole[2 * chunk :]
    for place in range(0, len(whole), 7):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert store.read("run", WHAT, key, shapes) is None
    for damaged in (swapped, whole[:-1], whole[:chunk], whole + b"\0", b""):
        file.write_bytes(damaged)
        assert store.read("run", WHAT, key, shapes) is None
    file.write_bytes(whole)
    assert store.read("run", WHAT, key, shapes) is not None


def test_a_run_keeps_one_update_and_none_when_it_is_closed(tmp_path):
    store, update = KeptUpdates(tmp_path / "kept", tmp_path / "keys"), update_of([9])
    first = store.keep("run", WHAT, update)
    store.remember("run", WHAT, first)
    second = store.keep("run", b"o" * 32, update)
    assert first != second
    assert store.read("run", WHAT, first, shapes_of(update)) is None
    assert store.recall("run", WHAT) == first
    store.remember("run", b"o" * 32, second)
    assert store.recall("run", WHAT) is None
    assert store.recall("run", b"o" * 32) == second
    store.close("run")
    assert not list((tmp_path / "kept").iterdir()) + list((tmp_path / "keys").iterdir())


def test_what_a_run_left_behind_is_deleted_after_a_week(tmp_path):
    store, update = KeptUpdates(tmp_path), update_of([9])
    store.keep("lost", WHAT, update)
    [file] = tmp_path.iterdir()
    week = time.time() - 7 * 24 * 3600
    os.utime(file, (week + 3600, week + 3600))
    store.keep("run", WHAT, update)
    assert file.exists()
    os.utime(file, (week - 60, week - 60))
    store.keep("run", WHAT, update)
    assert not file.exists()


def test_a_disk_that_takes_nothing_says_so(tmp_path):
    (tmp_path / "kept").mkdir()
    store = KeptUpdates(tmp_path / "kept")
    blocker = tmp_path / "kept" / f".{store._file('run').name}.partial"
    blocker.mkdir()
    with pytest.raises(FileError, match="cannot be written"):
        store.keep("run", WHAT, update_of([3]))
