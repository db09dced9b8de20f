"""A log that another process writes stays small, and its writer notices nothing."""

import stat
import subprocess
import sys

from umbel.storage.logs import keep_small

WRITER = """
import sys
for line in sys.stdin:
    print("x" * 98, line.strip(), flush=True)
"""


def test_what_another_process_writes_goes_on_in_the_emptied_file(tmp_path):
    path, aside = tmp_path / "log", tmp_path / "log.1"
    with path.open("ab") as log:
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stdout=log, text=True
        )
    path.chmod(0o600)
    put_aside = 0
    for number in range(30):
        before = path.stat().st_size
        writer.stdin.write(f"{number % 10}\n")
        writer.stdin.flush()
        while path.stat().st_size == before:  # ends with the writer, at the latest
            assert writer.poll() is None
        put_aside += keep_small(path, most=500)
        assert path.stat().st_size <= 500
        assert b"\0" not in path.read_bytes()
    writer.stdin.close()
    writer.wait(600)
    assert put_aside == 6
    assert aside.stat().st_size == 505
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600


def test_a_small_log_or_none_is_left_alone(tmp_path):
    assert not keep_small(tmp_path / "log")
    (tmp_path / "log").write_bytes(b"x" * 500)
    assert not keep_small(tmp_path / "log", most=500)
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_where_nothing_can_be_put_aside_the_log_stays_small_all_the_same(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"x" * 501)
    (tmp_path / ".log.1.partial").mkdir()
    assert keep_small(log, most=500)
    assert log.stat().st_size == 0
