"""Folders and files that other users of a machine can neither read, nor make, nor lead elsewhere."""

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from umbel.client.home import Home
from umbel.errors import FileError
from umbel.storage.files import private_folder, write_durably

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")


@pytest.fixture
def shared():
    """A folder in which every user may make files, such as /dev/shm, below folders that all can enter."""
    with tempfile.TemporaryDirectory(
        dir="/dev/shm" if os.path.isdir("/dev/shm") else "/tmp"
    ) as name:
        os.chmod(name, 0o1777)
        yield Path(name)


def by_another_user(code, *arguments):
    """Run Python as a user who is neither root nor this one."""
    # Started as this one, who alone may be able to read where Python lies.
    other = f"import os, sys; os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n{code}"
    command = [sys.executable, "-I", "-S", "-c", other, *map(str, arguments)]
    subprocess.run(command, check=True, timeout=600)


def made_or_found(path):
    """What stood in the place of ``private_folder``: a folder that was there already is taken."""
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def keep_a_key(folder):
    write_durably(folder / "witness", b"sealing key", secret=True)


MAKE = "os.umask(0); os.mkdir(sys.argv[1], 0o777)"
READ = "open(sys.argv[1]).read()"


@as_root
def test_another_user_who_made_the_folder_first_reads_no_key(shared):
    place = shared / "umbel-witness"
    by_another_user(MAKE, place)
    keep_a_key(made_or_found(place))
    os.chown(place / "witness", NOBODY, NOBODY)  # who owns the folder can do as much
    by_another_user(READ, place / "witness")  # the attack, on the code before
    (place / "witness").unlink()
    with pytest.raises(FileError, match="belongs to another user"):
        keep_a_key(private_folder(place))
    assert not list(place.iterdir())


@as_root
def test_another_users_link_leads_to_no_file_of_this_user(shared, tmp_path):
    ledger = tmp_path / "ledger.sqlite"
    ledger.write_text("spent")
    place = shared / "umbel-witness"
    by_another_user(
        "os.mkdir(sys.argv[1], 0o755); os.symlink(sys.argv[2], sys.argv[1] + '/head')",
        place,
        ledger,
    )
    (made_or_found(place) / "head").write_text("overwritten")  # the attack, on the code before
    assert ledger.read_text() == "overwritten"
    ledger.write_text("spent")
    with pytest.raises(FileError):
        (private_folder(place) / "head").write_text("overwritten")
    assert ledger.read_text() == "spent"


def test_a_link_in_the_place_of_the_folder_is_refused(shared, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (shared / "umbel-witness").symlink_to(elsewhere)
    with pytest.raises(FileError, match="is a link, or belongs to somebody else"):
        private_folder(shared / "umbel-witness")
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
def test_a_folder_that_others_may_write_into_is_refused(shared, mode):
    place = shared / "umbel-witness"
    place.mkdir()
    place.chmod(mode)
    with pytest.raises(FileError, match="can be written by other users"):
        private_folder(place)


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_folder_above_in_which_others_may_replace_it_is_refused(shared, mode):
    above = shared / "above"
    above.mkdir()
    above.chmod(mode)
    with pytest.raises(FileError, match="can be written by other users"):
        private_folder(above / "umbel-witness")


@as_root
def test_a_folder_above_that_is_another_users_is_refused(shared):
    above = shared / "above"
    by_another_user(MAKE, above)
    with pytest.raises(FileError, match="belongs to another user"):
        private_folder(above / "umbel-witness")


def test_a_folder_of_ones_own_is_made_closed_and_found_again(shared):
    place = shared / "umbel-witness"
    before = os.umask(0)
    try:
        assert private_folder(place) == place
    finally:
        os.umask(before)
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    place.chmod(0o755)  # as an earlier version left it
    keep_a_key(private_folder(place))
    assert stat.S_IMODE(place.stat().st_mode) == 0o700


def test_a_place_where_others_could_replace_the_witness_is_passed_by(shared, tmp_path, monkeypatch):
    """As a volume in memory that a cluster made open to everybody."""
    open_to_all = tmp_path / "run"
    open_to_all.mkdir()
    open_to_all.chmod(0o2777)
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(open_to_all))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(shared))
    assert Home(tmp_path).witness.parent == shared


def test_an_owners_witness_is_refused_where_a_link_stands_in_its_place(
    shared, tmp_path, monkeypatch
):
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(shared))
    home = Home(tmp_path)
    place = home.witness
    assert place.parent == shared
    place.rmdir()
    place.symlink_to(tmp_path)
    with pytest.raises(FileError):
        _ = home.witness
