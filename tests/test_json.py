"""Every command that finds or does something answers programs: --json, and nothing else on stdout."""

import csv
import json

import pytest
import typer
from rich.table import Table

from umbel.cli.answers import Answer, answers, plain
from umbel.cli.commands import app
from umbel.client.approvals import Approvals
from umbel.client.policy import NotYet
from umbel.consortium.authority import Consortium
from umbel.job import Job
from umbel.server.signing import signed_order

WITHOUT = {
    "server": "it runs until it is stopped",
    "window": "it runs until it is stopped",
    "client run": "it runs until it is stopped",
    "logs": "it passes on what a coordinator wrote",
    "schema": "what it prints is JSON (or Markdown, if asked)",
    "observer read": "what it prints is JSON",
    "ledger export": "it has --format json",
    "consortium unit": "it prints a file for systemd",
    "client unit": "it prints a file for systemd",
}


def commands(group=None, path=()):
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(commands())


def test_each_command_has_json_but_those_for_which_it_makes_no_sense():
    lacking = {
        name
        for name, command in COMMANDS.items()
        if not any("--json" in option.opts for option in command.params)
    }
    assert lacking == set(WITHOUT)


@pytest.fixture
def asked(umbel):
    """Run a command with --json: its value; and what it says without, if that does no harm."""

    def ask(*arguments, status=0):
        found, out, err = umbel(*arguments, "--json")
        assert found == status, err
        return json.loads(out, parse_constant=pytest.fail)

    return ask


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "notes.csv"
    with path.open("w", newline="") as file:
        rows = [[f"note {n}", ("fine", "ill")[n % 2]] for n in range(400)]
        csv.writer(file).writerows([["text", "label"], *rows])
    return path


def test_a_consortium_and_its_owners_answer_programs(asked, umbel, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    where = tmp_path / "hospitals"
    made = asked("consortium", "create", where, "--host", "localhost")
    assert made["fingerprint"] == Consortium.open(where).card.fingerprint
    card = where / "consortium.json"
    for name in ("mary", "john", "ruth"):
        new = asked("client", "init", name, "--data", data, "--consortium", card, "--yes")
        assert new["declared"]["labels"] == ["fine", "ill"]
        admitted = asked(
            "consortium", "admit", where, new["request"], "--fingerprint", new["fingerprint"]
        )
        assert admitted == {"name": name, "fingerprint": new["fingerprint"], "waits": False}
    assert len(asked("consortium", "members", where)["members"]) == 3
    assert asked("consortium", "renew", where)["days"] > 800
    key = asked("observer", "init", "eyes", "--consortium", card)["key"]
    assert asked("consortium", "observer", where, "eyes", key)["days"] == 365
    assert asked("observer", "trust", card, "eyes")["changed"] is False
    assert asked("client", "trust", card, "mary")["changed"] is False
    assert asked("consortium", "remove", where, "ruth", "--yes")["removed"] is True
    assert asked("consortium", "rotate", where, "operator")["key"] == "operator"
    # At an owner.
    assert asked("client", "publish-size", "mary")["size"] >= 100
    assert asked("client", "jobs", "list", "mary") == asked("client", "models", "mary") == []
    assert [item["left"] for item in asked("ledger", "show", "mary")]
    assert asked("ledger", "verify", "mary")["ledger"]["rows"] == 1
    assert asked("ledger", "recover", "mary")["rows"] == 1
    assert asked("client", "moved", "mary") == {"folder": "mary"}
    assert len(asked("client", "new-account", "mary", "--disjoint")["account"]) == 32
    assert asked("client", "rotate", "mary")["in_use"] is False
    assert isinstance(asked("client", "check", "mary", status=1), list)
    (tmp_path / "job.toml").write_text('[data]\nlabels = ["fine", "ill"]\n')
    assert asked("ledger", "forecast", "job.toml", "john")["job"] == "job"
    job = Job.build({"data": {"labels": ["fine", "ill"]}})
    with pytest.raises(NotYet):
        Approvals(tmp_path / "john" / "jobs").ask(job, "night", "ab" * 32)
    [row] = asked("client", "jobs", "list", "john")
    assert asked("client", "approve", row["id"], "john")["status"] == "approved"
    assert asked("client", "deny", row["id"], "john", "--reason", "no")["reason"] == "no"
    assert asked("client", "jobs", "show", "night", "john")["status"] == "denied"
    # At the server.
    order = signed_order(Consortium.open(where), job, "night")
    order.write(tmp_path / "night.signed")
    taken = asked("take", "night.signed", "--consortium", where)
    assert taken == {"run": "night"}
    [row] = asked("runs", "--consortium", where)
    assert (row["name"], row["status"]) == ("night", "queued")
    assert asked("status", "night", "--consortium", where)["served"] is False
    assert asked("stop", "night", "--consortium", where)["over"] is True
    assert asked("resume", "night", "--consortium", where) == {"run": "night"}
    assert asked("stop", "night", "--consortium", where)["over"] is True
    assert asked("sign", "roster", where, "--out", "r.signed")["signed"] == "r.signed"
    assert asked("sign", "certificate", where)["days"] > 800
    assert asked("consortium", "split", where, "keys")["keys"] == "keys"


def test_an_error_is_said_as_ever_and_standard_output_is_empty(umbel, tmp_path):
    status, out, err = umbel("status", "night", "--consortium", tmp_path, "--json")
    assert (status, out) == (2, "")
    assert err == umbel("status", "night", "--consortium", tmp_path)[2]
    assert err.startswith("umbel: ")


def test_what_is_said_for_people_goes_to_standard_error_and_json_alone_to_standard_output(capsys):
    from umbel.foreign import console, say

    @answers
    def command():
        say("a line")
        print("another")
        console().print(Table("column"))
        return Answer({"epsilon": float("inf"), "of": {1: (2.5, float("nan"))}}, "for people", 3)

    with pytest.raises(typer.Exit) as end:
        command(as_json=True)
    out, err = capsys.readouterr()
    assert end.value.exit_code == 3
    assert json.loads(out) == {"epsilon": "inf", "of": {"1": [2.5, "nan"]}}
    assert "a line" in err
    assert "another" in err
    assert "column" in err
    with pytest.raises(typer.Exit):
        command(as_json=False)
    out, err = capsys.readouterr()
    assert out.startswith("a line\nanother\n")
    assert out.endswith("for people\n")
    assert err == ""


def test_values_that_json_lacks_are_said_in_it():
    from pathlib import Path

    assert plain({"a": Path("b"), "c": {1.0}, "d": None, "e": True}) == {
        "a": "b", "c": [1.0], "d": None, "e": True,
    }  # fmt: skip


def test_no_help_shows_a_backslash_before_a_bracket():
    import click

    for name, command in COMMANDS.items():
        text = command.get_help(click.Context(command, info_name=name))
        assert "\\[" not in text, name
        if any(p.required and p.param_type_name == "argument" for p in command.params):
            assert "[required]" in text, name
