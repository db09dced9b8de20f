import os
import signal
import sqlite3
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.errors import BudgetExceeded, LedgerError
from umbel.privacy.accounting.accountant import MechanismEvent, epsilon
from umbel.privacy.ledger.ledger import Ledger

DELTA = 1e-5
DATA = "3f2a9c81d0e4b765" * 4
ROUND = MechanismEvent(1.0, 0.1, 10)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


def reserve(ledger, event=ROUND, *, dataset=DATA, job="job", key="r1", limit=100.0, replay=False):
    return ledger.reserve(dataset, event, job=job, key=key, delta=DELTA, limit=limit, replay=replay)


def run_python(script, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_twenty_rounds_cost_their_composition_and_not_one_round(path):
    with Ledger(path) as ledger:
        after = [reserve(ledger, key=f"r{n}") for n in range(20)]
        assert after[0] == pytest.approx(2.85, abs=0.01)
        assert after[-1] == pytest.approx(9.97, abs=0.01)
        assert ledger.spent(DATA, DELTA) == after[-1]
        assert ledger.events(DATA) == [ROUND] * 20


@given(
    st.lists(
        st.builds(
            MechanismEvent,
            st.sampled_from([0.8, 1.0, 3.0]),
            st.sampled_from([0.02, 0.1]),
            st.integers(1, 20),
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=8, deadline=None)
def test_what_is_spent_is_the_composition_of_all_events(tmp_path_factory, schedule):
    with Ledger(tmp_path_factory.mktemp("ledger") / "ledger.sqlite") as ledger:
        for n, event in enumerate(schedule):
            after = reserve(ledger, event, key=f"r{n}")
            assert after == epsilon(schedule[: n + 1], DELTA)
        assert ledger.spent(DATA, DELTA) == after


def test_data_sets_are_charged_apart(path):
    with Ledger(path) as ledger:
        reserve(ledger)
        assert ledger.spent("another", DELTA) == 0.0
        assert reserve(ledger, dataset="another") == ledger.spent(DATA, DELTA)


def test_the_rows_of_a_run_are_those_of_its_very_name(path):
    with Ledger(path) as ledger:
        for key in ("run/1/0", "run-2/1/0", "a/run/1/0", "run/2/0", "Run/1/0", "r%n/1/0"):
            reserve(ledger, key=key)
        assert [entry.key for entry in ledger.entries_of("run")] == ["run/1/0", "run/2/0"]
        assert ledger.entries_of("r%n") == [ledger.entries()[-1]]
        assert ledger.entries_of("none") == []


def test_a_request_beyond_the_limit_is_refused_in_words_and_not_charged(path):
    with Ledger(path) as ledger:
        first = reserve(ledger, limit=3.0)
        with pytest.raises(BudgetExceeded) as refusal:
            reserve(ledger, key="r2", limit=3.0)
        assert ledger.spent(DATA, DELTA) == first
        assert len(ledger.entries()) == 1
    message = str(refusal.value)
    both = epsilon([ROUND, ROUND], DELTA)
    for part in (f"{first:.4g}", f"{both:.4g}", f"{3 - first:.4g} left", "limit 3"):
        assert part in message
    assert DATA[:8] not in message  # the text goes to the server, who may guess at the data


def test_a_limit_can_be_spent_to_the_last_bit(path):
    exactly = epsilon([ROUND], DELTA)
    with Ledger(path) as ledger:
        assert reserve(ledger, limit=exactly) == exactly
        with pytest.raises(BudgetExceeded):
            reserve(ledger, MechanismEvent(1000.0, 0.1, 1), limit=exactly)


def test_a_limit_that_is_not_a_number_refuses(path):
    with Ledger(path) as ledger, pytest.raises(BudgetExceeded):
        reserve(ledger, limit=float("nan"))


def test_a_whole_job_is_checked_without_being_charged(path):
    job = MechanismEvent(1.0, 0.1, 200)
    with Ledger(path) as ledger:
        assert ledger.ensure_affordable(DATA, job, delta=DELTA, limit=10.0) == epsilon([job], DELTA)
        reserve(ledger)
        with pytest.raises(BudgetExceeded):
            ledger.ensure_affordable(DATA, job, delta=DELTA, limit=10.0)
        assert len(ledger.entries()) == 1


def test_a_repeated_request_is_charged_again(path):
    with Ledger(path) as ledger:
        assert reserve(ledger) < reserve(ledger)
        assert ledger.events(DATA) == [ROUND, ROUND]


def test_a_reproducible_repetition_is_charged_once(path):
    with Ledger(path) as ledger:
        first = reserve(ledger, replay=True)
        assert reserve(ledger, replay=True) == first
        assert reserve(ledger, key="r2", replay=True) > first
        assert ledger.events(DATA) == [ROUND, ROUND]


def test_a_key_charged_with_fresh_noise_cannot_be_replayed_for_free(path):
    with Ledger(path) as ledger:
        first = reserve(ledger, replay=False)
        assert reserve(ledger, replay=True) > first


@pytest.mark.parametrize(
    "changed", [{"event": MechanismEvent(1.0, 0.1, 11)}, {"job": "another job"}]
)
def test_one_key_cannot_stand_for_two_reproducible_values(path, changed):
    with Ledger(path) as ledger:
        reserve(ledger, replay=True)
        with pytest.raises(LedgerError, match="r1"):
            reserve(ledger, replay=True, **changed)
        assert ledger.events(DATA) == [ROUND]


def test_a_reservation_survives_a_kill_right_after_it_returned(path):
    script = """
import os, signal, sys
from umbel.privacy.accounting.accountant import MechanismEvent
from umbel.privacy.ledger.ledger import Ledger
ledger = Ledger(sys.argv[1])
for n in range(3):
    ledger.reserve("data", MechanismEvent(5.0, 0.1, 1), job="j", key=str(n), delta=1e-5, limit=9)
os.kill(os.getpid(), signal.SIGKILL)
"""
    process = run_python(script, path)
    process.communicate(timeout=600)
    assert process.returncode == -signal.SIGKILL
    with Ledger(path) as ledger:
        assert ledger.verify() == 3
        assert ledger.events("data") == [MechanismEvent(5.0, 0.1, 1)] * 3


def test_a_process_killed_inside_its_turn_leaves_the_ledger_as_it_was(path):
    with Ledger(path) as ledger:
        reserve(ledger)
    script = """
import os, signal, sys
from umbel.privacy.ledger import ledger as room
from umbel.privacy.accounting.accountant import MechanismEvent
append = room.Ledger._append
def append_and_die(self, *arguments):
    append(self, *arguments)
    os.kill(os.getpid(), signal.SIGKILL)
room.Ledger._append = append_and_die
room.Ledger(sys.argv[1]).reserve(
    "data", MechanismEvent(5.0, 0.1, 1), job="j", key="k", delta=1e-5, limit=9)
"""
    process = run_python(script, path)
    process.communicate(timeout=600)
    assert process.returncode == -signal.SIGKILL
    with Ledger(path) as ledger:
        assert ledger.events("data") == []
        assert ledger.verify() == 1
        reserve(ledger, key="r2")


def test_processes_that_charge_at_once_lose_no_event_and_never_pass_the_limit(path):
    script = """
import sys
from umbel.errors import BudgetExceeded
from umbel.privacy.accounting.accountant import MechanismEvent
from umbel.privacy.ledger.ledger import Ledger
for n in range(6):
    with Ledger(sys.argv[1]) as ledger:
        try:
            ledger.reserve("data", MechanismEvent(5.0, 1.0, 1), job="j", key=f"{sys.argv[2]}/{n}",
                           delta=1e-5, limit=float(sys.argv[3]))
            print(f"{sys.argv[2]}/{n}")
        except BudgetExceeded:
            pass
"""
    limit = epsilon([MechanismEvent(5.0, 1.0, 14)], DELTA)
    processes = [run_python(script, path, name, limit) for name in "abc"]
    answers = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], answers
    charged = [key for output, _ in answers for key in output.split()]
    with Ledger(path) as ledger:
        assert sorted(entry.key for entry in ledger.entries()) == sorted(charged)
        assert len(charged) == 14
        assert ledger.spent("data", DELTA) == limit


@pytest.mark.parametrize(
    ("change", "row"),
    [
        ("UPDATE entries SET steps = 1 WHERE number = 2", 2),
        ("UPDATE entries SET noise_multiplier = 1.0000000000000002 WHERE number = 1", 1),
        ("UPDATE entries SET dataset = 'other' WHERE number = 3", 3),
        ("UPDATE entries SET recorded = x'00' WHERE number = 3", 3),
        ("DELETE FROM entries WHERE number = 2", 3),
        ("DELETE FROM entries WHERE number = 1", 2),
        ("UPDATE entries SET key = 'x', hash = (SELECT hash FROM entries WHERE number = 1)"
         " WHERE number = 2", 2),
    ],
)  # fmt: skip
def test_an_edited_ledger_is_recognised_and_charges_nothing(path, change, row):
    with Ledger(path) as ledger:
        for n in range(4):
            reserve(ledger, key=f"r{n}")
    with sqlite3.connect(path) as connection:
        connection.execute(change)
    connection.close()
    with Ledger(path) as ledger:
        for use in (ledger.verify, lambda: reserve(ledger), lambda: ledger.spent(DATA, DELTA)):
            with pytest.raises(LedgerError, match=f"row {row} "):
                use()


def test_the_head_commits_to_the_whole_ledger(path, tmp_path):
    heads = []
    with Ledger(path) as ledger:
        heads.append(ledger.head())
        for n in range(2):
            reserve(ledger, key=f"r{n}")
            heads.append(ledger.head())
        assert ledger.head() == ledger.entries()[-1].hash
    assert len(set(heads)) == 3
    with Ledger(path) as ledger:
        assert ledger.head() == heads[-1]


def test_an_empty_ledger_has_spent_nothing(path):
    with Ledger(path) as ledger:
        assert ledger.spent(DATA, DELTA) == 0.0
        assert ledger.verify() == 0


def test_a_file_that_is_no_ledger_is_refused_and_left_alone(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but long enough to have a header of its own" * 50)
    before = text.read_bytes()
    with pytest.raises(LedgerError, match="not a database"):
        Ledger(text)
    assert text.read_bytes() == before

    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()
    before = other.read_bytes()
    with pytest.raises(LedgerError, match="not a privacy ledger"):
        Ledger(other)
    assert other.read_bytes() == before


def test_a_version_that_is_not_known_is_refused(path):
    Ledger(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(LedgerError, match="version 99"):
        Ledger(path)


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path):
    with pytest.raises(LedgerError, match="cannot be opened"):
        Ledger(tmp_path)


def test_a_full_disk_charges_nothing_and_says_so(path):
    with Ledger(path) as ledger:
        reserve(ledger)
    script = """
import os, resource, sys
from umbel.errors import LedgerError
from umbel.privacy.accounting.accountant import MechanismEvent
from umbel.privacy.ledger.ledger import Ledger
ledger = Ledger(sys.argv[1])
size = os.path.getsize(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
try:
    event = MechanismEvent(5.0, 0.1, 1)
    ledger.reserve("data", event, job="j" * 20000, key="k", delta=1e-5, limit=9)
except LedgerError as error:
    print(error)
"""
    output, errors = run_python(script, path).communicate(timeout=600)
    assert "Nothing was spent, because nothing ran" in output, errors
    with Ledger(path) as ledger:
        assert ledger.verify() == 1
        assert ledger.events("data") == []


def test_a_ledger_that_another_process_holds_is_waited_for_and_then_reported(path):
    with Ledger(path) as ledger:
        reserve(ledger)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with Ledger(path, patience=0.1) as ledger, pytest.raises(LedgerError, match="locked"):
        reserve(ledger)
    holder.execute("ROLLBACK")
    holder.close()


def test_one_owner_has_a_ledger_and_its_witness(path):
    with Ledger(path) as ledger:
        reserve(ledger)
    assert sorted(os.listdir(path.parent)) == ["ledger.sqlite", "ledger.witness"]
