"""Text that others wrote reaches no terminal, no log and no spreadsheet as anything but text."""

import ast
import csv
import io
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.client.approvals import printable
from umbel.client.asked import asked_lines
from umbel.foreign import PlainFormatter, cell, console, say, shown
from umbel.privacy.ledger.chain import COLUMNS
from umbel.privacy.ledger.export import to_csv
from umbel.run.events import from_json
from umbel.run.store import Store

ROOT = Path(__file__).resolve().parent.parent
BESIDE = ("print", "Console", "echo", "secho")
HOSTILE = [
    "\x1b[2J\x1b[31mfinished\x1b[0m",
    "\x1b]0;a title\x07",
    "\x9b31m",
    "all is well\rNO",
    "line\nfinished: nothing happened",
    "a\u202egnp.exe",
    "zero\u200bwidth",
    "\x00\x08\x7f\u2028\ud800",
]


@given(st.text(st.characters(), max_size=60))
def test_what_is_shown_is_printed_and_nothing_else(text):
    assert shown(text).isprintable()
    assert shown(shown(text)) == shown(text)
    if text.isprintable():
        assert shown(text) == text
    kept = shown(text, lines=True)
    assert kept.count("\n") == text.count("\n")
    assert kept.replace("\n", "").isprintable()
    assert printable(text).isprintable()


@given(st.text(st.characters(), max_size=40), st.text(st.characters(), max_size=40))
def test_two_texts_that_differ_in_what_is_not_printed_are_shown_differently(one, other):
    if one != other and "\\" not in one + other:
        assert shown(one) != shown(other)


def test_a_text_without_end_is_cut():
    assert len(shown("x" * 10**6)) < 20_000


@pytest.mark.parametrize("text", HOSTILE)
def test_a_terminal_gets_no_control_character(text, capsys):
    print(text.encode("utf-8", "replace").decode())  # the attack, as it was printed before
    assert (
        text.isprintable() or not capsys.readouterr().out.strip("\n").isprintable() or "\n" in text
    )
    say(f"st-mary: {text}", text)
    console(highlight=False, width=300).print(text)
    told = capsys.readouterr().out
    assert told.replace("\n", "").isprintable()


@pytest.mark.parametrize("text", HOSTILE)
def test_a_log_gets_none_either(text):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(PlainFormatter("%(asctime)s %(message)s"))
    record = logging.LogRecord("x", logging.ERROR, "x", 1, "%s: %s", ("st-mary", text), None)
    handler.emit(record)
    assert stream.getvalue().replace("\n", "").isprintable()
    # Nor does it begin a line, which would be taken for the agent's or the server's own.
    first, *others = stream.getvalue().rstrip("\n").split("\n")
    assert first.endswith(f"st-mary: {shown(text.partition(chr(10))[0])}")
    assert all(line.startswith("    ") for line in others)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_decision_is_one_line_whatever_the_job_that_it_is_about_says(text):
    step = {"time": "2026-01-01T00:00:00", "event": "job refused", "why": text}
    row = {
        "run": text,
        "status": "refused",
        "job_digest": "0",
        "operator": "",
        "plan": {},
        "job": {},
    }
    for line in asked_lines(row | {"decisions": [step]}):
        assert line.isprintable()


@pytest.mark.parametrize("text", HOSTILE)
def test_an_owners_reason_does_nothing_to_the_operators_terminal(
    text, tmp_path, umbel, consortium_folder
):
    path, database = consortium_folder
    store = Store(database)
    store.add("a-run", "id", 3)
    store.set_status("a-run", "failed", text.encode("utf-8", "replace").decode())
    event = {
        "event": "round", "round": 1, "seconds": 1.0, "clients": [], "aggregated": False,
        "failed": {"st-mary": text.encode("utf-8", "replace").decode()}, "epsilon": {},
    }  # fmt: skip
    store.tell("a-run", from_json(event))
    (path / "runs" / "a-run").mkdir(parents=True)
    (path / "runs" / "a-run" / "log").write_text(text, encoding="utf-8", errors="replace")
    for command in ("status", "logs"):
        status, out, err = umbel(command, "a-run", "--consortium", path)
        assert status == 0, err
        assert out.replace("\n", "").isprintable()
        assert out.strip()


@pytest.fixture
def consortium_folder(tmp_path):
    from umbel.consortium.authority import Consortium
    from umbel.privacy.secagg.roster import Limits

    consortium = Consortium.create(tmp_path / "c", "localhost", 9443, Limits())
    return consortium.path, consortium.database


def test_no_command_prints_by_another_way():
    """Whatever is printed may be somebody else's text, some day."""
    found = [
        f"{file.name}:{call.lineno}"
        for file in ROOT.glob("cli*.py")
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        and (
            getattr(call.func, "id", "") in ("print", "Console")
            or getattr(call.func, "attr", "") in ("echo", "secho")
        )
    ]
    assert not found


FORMULAS = [
    '=cmd|"/c calc"!A1',
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "'=1",
    "=HYPERLINK(1)",
    "\uff1d1",
]


@given(st.one_of(st.sampled_from(FORMULAS), st.text(max_size=20)))
def test_no_cell_is_taken_for_a_formula_and_texts_read_back_equal(text):
    made = cell(text)
    assert made[:1] not in tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
    assert (made[1:] if made.startswith("'") else made) == text
    assert cell(-1.5) == -1.5


@pytest.mark.parametrize("text", FORMULAS)
def test_a_ledgers_export_holds_no_formula_whatever_a_run_is_called(text, ledger_entries):
    entries = ledger_entries(text)
    rows = list(csv.DictReader(io.StringIO(to_csv(entries, "identity"))))
    assert rows[0]["key"] == f"'{text}"
    assert set(COLUMNS) <= set(rows[0])
    assert entries[0].row()[COLUMNS.index("key")] == text


@pytest.fixture
def ledger_entries(tmp_path):
    from umbel.privacy.accounting.accountant import MechanismEvent
    from umbel.privacy.ledger.ledger import Ledger

    def build(run):
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            event = MechanismEvent(5.0, 1.0, 1)
            ledger.reserve("data", event, job="j", key=run, delta=1e-5, limit=9)
            return ledger.entries()

    return build
