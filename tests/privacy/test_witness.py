"""Ledgers that were cut, put back, copied, or left half written, and the ways out."""

import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from umbel.errors import LedgerError
from umbel.privacy.accounting.accountant import MechanismEvent, epsilon
from umbel.privacy.ledger import ledger_file
from umbel.privacy.ledger.ledger import Ledger

DELTA = 1e-5
ROUND = MechanismEvent(1.0, 0.1, 10)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


def charge(path, *keys, event=ROUND):
    with Ledger(path) as ledger:
        for key in keys:
            ledger.reserve("data", event, job="job", key=key, delta=DELTA, limit=100)
        return ledger.spent("data", DELTA)


def witness(path):
    return path.with_suffix(".witness")


def refused(path, text):
    """Every use is refused with `text`, and nothing is written."""
    before = path.read_bytes(), witness(path).read_bytes() if witness(path).exists() else b""
    for use in (
        lambda ledger: ledger.verify(),
        lambda ledger: ledger.head(),
        lambda ledger: ledger.spent("data", DELTA),
        lambda ledger: ledger.entries(),
        lambda ledger: ledger.reserve("data", ROUND, job="j", key="k", delta=DELTA, limit=9),
    ):
        with Ledger(path) as ledger, pytest.raises(LedgerError, match=text):
            use(ledger)
    after = path.read_bytes(), witness(path).read_bytes() if witness(path).exists() else b""
    assert after == before


def recovered(path, **how):
    with Ledger(path, recovering=True) as ledger:
        return ledger.recover(**how)


def test_a_ledger_put_back_from_a_backup_is_refused_and_its_rows_are_brought_back(path, tmp_path):
    charge(path, "1")
    shutil.copy(path, tmp_path / "backup")
    spent = charge(path, "2", "3")
    shutil.copy(tmp_path / "backup", path)
    refused(path, "rolled back: it has 1 rows, but its witness has seen 3")
    assert recovered(path) == 2
    with Ledger(path) as ledger:
        assert [entry.key for entry in ledger.entries()] == ["1", "2", "3"]
        assert ledger.spent("data", DELTA) == spent
    assert charge(path, "4") > spent


@pytest.mark.parametrize("rows", [1, 3])
def test_rows_cut_off_at_the_end_are_noticed(path, rows):
    charge(path, "1", "2", "3")
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM entries WHERE number > ?", (3 - rows,))
    connection.close()
    refused(path, "rolled back")
    assert recovered(path) == rows


def test_a_deleted_ledger_does_not_begin_again(path):
    spent = charge(path, "1", "2")
    path.unlink()
    with pytest.raises(LedgerError, match="witness .* has seen 2 rows"):
        Ledger(path)
    assert recovered(path) == 2
    with Ledger(path) as ledger:
        assert ledger.spent("data", DELTA) == spent


def test_an_edited_ledger_is_not_accepted_but_rebuilt_from_its_witness(path):
    spent = charge(path, "1", "2")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE entries SET steps = 1 WHERE number = 1")
    connection.close()
    refused(path, "row 1 does not follow")
    for accept in (False, True):
        with pytest.raises(LedgerError, match="row 1 does not follow"):
            recovered(path, accept=accept)
    path.rename(path.with_name("edited.sqlite"))
    assert recovered(path) == 2
    with Ledger(path) as ledger:
        assert ledger.spent("data", DELTA) == spent


def test_a_chain_that_was_made_anew_is_not_what_the_witness_has_seen(path):
    """Whoever edits a row and every hash after it has another head."""
    charge(path, "1", "2", "3")
    other = path.parent / "forged" / path.name
    with Ledger(other) as ledger:
        with sqlite3.connect(other) as connection:
            with Ledger(path) as real:
                identity = real.identity
            connection.execute("UPDATE identity SET id = ?", (identity,))
        connection.close()
        ledger._witness.begin(identity)
    charge(other, "1", "2", "another")
    shutil.copy(other, path)
    refused(path, "differs from its witness in row 3")


def test_another_owners_ledger_is_refused(path, tmp_path):
    other = tmp_path / "other" / "ledger.sqlite"
    charge(path, "1")
    charge(other, "1", "2", "3")
    shutil.copy(other, path)
    refused(path, "copied from another owner")
    with pytest.raises(LedgerError, match="copied from another owner"):
        recovered(path)


def test_a_ledger_without_its_witness_is_refused_until_the_owner_accepts_it(path):
    spent = charge(path, "1", "2")
    witness(path).unlink()
    refused(path, "has no witness")
    with pytest.raises(LedgerError, match="has no witness"):
        recovered(path)
    assert recovered(path, accept=True) == 0
    with Ledger(path) as ledger:
        assert ledger.spent("data", DELTA) == spent
        assert [entry.key for entry in ledger.entries()] == ["1", "2", "accepted by the owner"]
    assert charge(path, "3") > spent


def test_ledger_and_witness_move_together(path, tmp_path):
    spent = charge(path, "1")
    moved = tmp_path / "new" / "ledger.sqlite"
    moved.parent.mkdir()
    shutil.move(path, moved)
    shutil.move(witness(path), witness(moved))
    with Ledger(moved) as ledger:
        assert ledger.spent("data", DELTA) == spent


def test_a_crash_between_row_and_witness_is_made_good_by_the_next_charge(path):
    charge(path, "1")
    before = witness(path).read_bytes()
    charge(path, "2")
    full = witness(path).read_bytes()
    for torn in (before, full[:-5], full[:-1], full[:-1] + b"\0\0\0"):
        witness(path).write_bytes(torn)
        with Ledger(path) as ledger:
            assert ledger.verify() == 2
    charge(path, "3")
    path.unlink()
    assert recovered(path) == 3


def test_a_process_killed_at_any_moment_leaves_ledger_and_witness_in_order(path):
    script = """
import sys
from umbel.privacy.accounting.accountant import MechanismEvent
from umbel.privacy.ledger.ledger import Ledger
for n in range(1000):
    with Ledger(sys.argv[1]) as ledger:
        ledger.reserve("data", MechanismEvent(9.0, 1.0, 1), job="j", key=f"{sys.argv[2]}/{n}",
                       delta=1e-5, limit=1e4)
    print(n, flush=True)
"""
    promised = set()
    for turn in range(4):
        command = [sys.executable, "-c", script, str(path), str(turn)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for _ in range(3 + turn):
            promised.add(f"{turn}/{process.stdout.readline().strip()}")
        process.kill()
        process.communicate(timeout=600)
        with Ledger(path) as ledger:
            keys = [entry.key for entry in ledger.entries()]
            assert promised <= set(keys)
            assert len(keys) == len(set(keys))
            ledger.reserve("data", ROUND, job="j", key=f"after {turn}", delta=DELTA, limit=1e4)
    path.unlink()
    assert recovered(path) == len(keys) + 1


def test_a_crash_before_the_ledger_has_its_identity_begins_it_all_the_same(path):
    Ledger(path).close()
    path.unlink()
    assert charge(path, "1") > 0
    with Ledger(path) as ledger:
        assert ledger.verify() == 1


def test_a_copy_by_sqlite_itself_has_other_bytes_and_is_checked_row_by_row(path, tmp_path):
    charge(path, *map(str, range(5)))
    with sqlite3.connect(path) as connection:
        connection.execute("VACUUM INTO ?", (str(tmp_path / "copy"),))
    connection.close()
    shutil.copy(tmp_path / "copy", path)
    with Ledger(path) as ledger:
        assert ledger.verify() == 5
    charge(path, "6")


def test_a_head_kept_elsewhere_finds_both_files_put_back(path, tmp_path):
    charge(path, "1")
    backup = tmp_path / "backup"
    shutil.copytree(path.parent, backup)
    charge(path, "2")
    with Ledger(path) as ledger:
        head = ledger.head()
        assert ledger.verify(head) == 2
    charge(path, "3")
    with Ledger(path) as ledger:
        assert ledger.verify(head) == 3  # it has gone on since
    with Ledger(backup / path.name) as old:
        assert old.verify() == 1
        with pytest.raises(LedgerError, match=f"never ended with {head}"):
            old.verify(head)


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test can turn, in days."""

    class Clock(datetime):
        shift = timedelta()

        @classmethod
        def now(cls, zone=None):
            return datetime.now(zone) + cls.shift

    monkeypatch.setattr(ledger_file, "datetime", Clock)

    def turn(days):
        Clock.shift = timedelta(days=days)

    return turn


def test_a_clock_that_was_set_back_charges_nothing_and_refills_nothing(path, clock):
    spent = charge(path, "1")
    clock(-400)
    with Ledger(path) as ledger:
        assert ledger.spent("data", DELTA) == spent
        with pytest.raises(LedgerError, match="Set the clock right"):
            ledger.reserve("data", ROUND, job="j", key="2", delta=DELTA, limit=100)
    clock(0)
    assert charge(path, "2") > spent


def test_a_clock_that_was_ahead_is_a_matter_for_the_owner(path, clock):
    clock(400)
    spent = charge(path, "1")
    clock(0)
    with pytest.raises(LedgerError, match="recover --accept"):
        charge(path, "2")
    recovered(path, accept=True)
    assert charge(path, "2") > spent
    with Ledger(path) as ledger:
        assert ledger.entries()[-1].recorded <= datetime.now(UTC).isoformat()


def version_1(path, rows):
    """A ledger as Umbel wrote it before there were kinds, identities and witnesses."""
    connection = sqlite3.connect(path)
    connection.executescript(
        "CREATE TABLE entries (number INTEGER PRIMARY KEY, dataset TEXT NOT NULL, "
        "noise_multiplier REAL NOT NULL, sampling_rate REAL NOT NULL, steps INTEGER NOT NULL, "
        "job TEXT NOT NULL, key TEXT NOT NULL, delta REAL NOT NULL, epsilon_limit REAL NOT NULL, "
        "replay INTEGER NOT NULL, recorded TEXT NOT NULL, hash TEXT NOT NULL);"
        f"PRAGMA application_id = {0x554D424C}; PRAGMA user_version = 1;"
    )
    previous = hashlib.sha256(b"umbel privacy ledger").hexdigest()
    for n in range(1, rows + 1):
        row = (n, "data", 1.0, 0.1, 10, "job", f"old/{n}/0", DELTA, 10.0, 0,
               "2026-01-01T00:00:00+00:00")  # fmt: skip
        previous = hashlib.sha256(json.dumps([previous, *row]).encode()).hexdigest()
        connection.execute(f"INSERT INTO entries VALUES ({', '.join('?' * 12)})", (*row, previous))
    connection.commit()
    connection.close()
    return previous


def test_a_ledger_of_version_1_goes_on_with_its_chain_and_its_spending(path):
    head = version_1(path, 3)
    with Ledger(path) as ledger:
        assert ledger.head() == head
        assert ledger.verify(head) == 3
        assert ledger.spent("data", DELTA) == epsilon([ROUND] * 3, DELTA)
    assert charge(path, "new") == epsilon([ROUND] * 4, DELTA)
    with Ledger(path) as ledger:
        assert [entry.version for entry in ledger.entries()] == [1, 1, 1, 2]
        assert ledger.verify(head) == 4
    path.unlink()
    assert recovered(path) == 4


def test_an_edited_ledger_of_version_1_is_not_taken_over(path):
    version_1(path, 3)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE entries SET steps = 1 WHERE number = 2")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="row 2 does not follow"):
        Ledger(path)
    assert path.read_bytes() == before
    assert not witness(path).exists()


def test_a_row_of_version_1_cannot_become_another_kind(path):
    version_1(path, 2)
    charge(path, "new")
    with sqlite3.connect(path) as connection:
        connection.execute(
            "UPDATE entries SET kind = 'concentrated', sampling_rate = 1 WHERE number = 1"
        )
    connection.close()
    refused(path, "row 1 does not follow")


def test_kinds_are_charged_as_what_they_are(path):
    counts = MechanismEvent(20.0, 1.0, 3, "concentrated")
    charge(path, "1")
    charge(path, "2", event=counts)
    with Ledger(path) as ledger:
        assert ledger.events("data") == [ROUND, counts]
        assert ledger.spent("data", DELTA) == epsilon([ROUND, counts], DELTA)


def test_a_witness_that_cannot_be_read_is_named(path):
    charge(path, "1")
    witness(path).write_text("something else\n")
    refused(path, re.escape(str(witness(path))) + " is not the witness")


def test_long_rows_are_witnessed_too(path):
    with Ledger(path) as ledger:
        for n in range(3):
            ledger.reserve("data", ROUND, job="j" * 30_000, key=str(n), delta=DELTA, limit=100)
    assert os.path.getsize(witness(path)) > 90_000
    path.unlink()
    assert recovered(path) == 3
