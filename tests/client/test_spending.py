"""The ledger as its owner reads it."""

import json

import pytest

from umbel.cli import owner as owner_commands
from umbel.client.policy import Policy, write_policy_template
from umbel.client.spending import spending
from umbel.errors import LedgerError, UmbelError
from umbel.privacy.accounting.accountant import MechanismEvent, epsilon
from umbel.privacy.ledger.ledger import Ledger

EVENT = MechanismEvent(noise_multiplier=2.0, sampling_rate=0.1, steps=4)
DELTA = Policy().privacy.delta_limit


@pytest.fixture
def home(tmp_path):
    """An owner's folder: one data set in two runs, one of them with a repeated round; another in one."""
    (tmp_path / "client.toml").touch()
    write_policy_template(tmp_path / "policy.toml")
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        for dataset, job, key in (
            ("data1", "job1", "first/1/0"),
            ("data1", "job1", "first/2/0"),
            ("data1", "job1", "first/2/1"),
            ("data2", "job1", "first/1/0"),
            ("data1", "job2", "a/second/1/0"),
        ):
            ledger.reserve(dataset, EVENT, job=job, key=key, delta=1e-6, limit=100)
    return tmp_path


def test_each_data_set_is_shown_with_its_runs_and_what_is_left(home):
    one, two = spending(home / "ledger.sqlite", Policy())
    assert (one.dataset, two.dataset) == ("data1", "data2")
    assert [(r.run, r.job, r.rounds, r.steps) for r in one.runs] == [
        ("first", "job1", 2, 12),
        ("a/second", "job2", 1, 4),
    ]
    assert one.epsilon == epsilon([EVENT] * 4, DELTA)
    assert one.runs[0].epsilon == epsilon([EVENT] * 3, DELTA)
    assert one.left == pytest.approx(10 - one.epsilon)
    assert two.epsilon < one.epsilon < sum(run.epsilon for run in one.runs)


def test_a_limit_that_was_lowered_below_what_is_spent_leaves_nothing(home):
    strict = Policy.model_validate({"privacy": {"epsilon_limit": 0.01}})
    assert [item.left for item in spending(home / "ledger.sqlite", strict)] == [0.0, 0.0]


def test_what_is_left_can_be_spent_and_no_more(home):
    """The view agrees with the ledger's own decision at the policy's delta."""
    one, _ = spending(home / "ledger.sqlite", Policy())
    with Ledger(home / "ledger.sqlite") as ledger:
        assert ledger.spent("data1", one.delta) == one.epsilon
        ledger.ensure_affordable(
            "data1", MechanismEvent(2.0, 0.1, 0), delta=one.delta, limit=one.epsilon
        )


def test_looking_at_a_ledger_that_is_not_there_does_not_begin_one(tmp_path, capsys):
    (tmp_path / "client.toml").touch()
    write_policy_template(tmp_path / "policy.toml")
    owner_commands.show(tmp_path)
    assert capsys.readouterr().out == "Nothing has been spent yet.\n"
    assert not (tmp_path / "ledger.sqlite").exists()


def test_the_command_shows_spent_rounded_up_and_left_rounded_down(home, capsys):
    owner_commands.show(home)
    shown = capsys.readouterr().out
    one, _ = spending(home / "ledger.sqlite", Policy())
    [total] = [line for line in shown.splitlines() if "data1" in line and "all runs" in line]
    spent, left = (float(word) for word in total.split("all runs")[1].split()[:2])
    assert one.epsilon <= spent < one.epsilon + 0.01
    assert one.left - 0.01 < left <= one.left


def test_json_holds_all_of_it(home, capsys):
    owner_commands.show(home, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads(
        json.dumps([item.to_dict() for item in spending(home / "ledger.sqlite", Policy())])
    )
    assert told[0]["runs"][0]["run"] == "first"


def test_a_changed_ledger_is_not_shown_as_if_it_could_be_trusted(home):
    import sqlite3

    with sqlite3.connect(home / "ledger.sqlite") as connection:
        connection.execute("UPDATE entries SET steps = 1 WHERE number = 2")
    with pytest.raises(LedgerError, match="was changed"):
        owner_commands.show(home)


def test_a_folder_without_an_owner_is_refused(tmp_path):
    with pytest.raises(UmbelError, match="not a data owner's folder"):
        owner_commands.show(tmp_path)
