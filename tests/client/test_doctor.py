"""What an owner is told before it takes part: what is well, what is not, and what to do about it."""

import fcntl
import json
import sqlite3

import pytest
from typer.testing import CliRunner

from umbel.cli.client import client_app
from umbel.client.audit_log import AuditLog
from umbel.client.doctor import Finding, examine
from umbel.client.home import Home
from umbel.errors import ConsortiumError
from umbel.privacy.accounting.accountant import MechanismEvent
from umbel.privacy.ledger.ledger import Ledger

from .examined import ROWS, SECRET, found, moved, written


def test_an_owner_with_whom_all_is_well(home, consortium, serve):
    consortium.admit(home.request)
    home.roster.write_bytes(consortium.roster())
    home = moved(home, f"localhost:{serve(consortium)}")
    findings = examine(home)
    assert [f.name for f in findings if f.bad] == []
    assert {f.name for f in findings if f.level == "warning"} <= {"witness", "disk"}
    names = [finding.name for finding in findings]
    assert {"settings", "consortium", "keys", "request", "data", "policy", "budget"} <= set(names)
    assert {"audit log", "agent", "software", "device", "disk", "memory"} <= set(names)
    assert {"certificate", "server", "clock", "control API", "roster"} <= set(names)
    text = "\n".join(map(str, findings))
    assert home.request.fingerprint in text
    assert home.card.fingerprint in text
    assert "6 records in 2 classes" in text
    assert "st-mary is a member: epoch 1, with 1 members" in text


def test_a_finding_is_aligned_lines_of_text_and_a_dictionary():
    well = Finding("disk", "ok", "much\nspace\x1b[0m")
    bad = Finding("keys", "bad", "open", "close them")
    assert str(well) == "ok       disk         much space�[0m"
    assert str(bad) == f"bad      keys         open\n{' ' * 22}close them"
    assert (well.bad, bad.bad) == (False, True)
    assert bad.to_dict() == {"name": "keys", "level": "bad", "text": "open", "remedy": "close them"}


def test_the_command_prints_findings_and_fails_where_one_is_bad(home, consortium, serve):
    failed = CliRunner().invoke(client_app, ["check", str(home.path)])
    assert failed.exit_code == 1
    assert "the connection was refused" in failed.output
    moved(home, f"localhost:{serve(consortium)}")
    passed = CliRunner().invoke(client_app, ["check", str(home.path), "--json"])
    assert passed.exit_code == 0, passed.output
    assert {"name", "level", "text", "remedy"} == set(json.loads(passed.output)[0])


def test_a_folder_that_is_none_is_refused_and_a_broken_one_is_examined(home, tmp_path):
    with pytest.raises(ConsortiumError, match="umbel client init"):
        examine(Home(tmp_path))
    home.settings_file.write_text("[")
    levels = {finding.name: finding.level for finding in examine(Home(home.path))}
    assert levels["settings"] == levels["data"] == levels["server"] == "bad"
    assert levels["policy"] == levels["budget"] == "ok"


# Keys


@pytest.mark.parametrize("name", ["identity", "node.key"])
def test_a_key_that_others_can_read_is_bad(home, name):
    (home.path / name).chmod(0o640)
    levels, text = found(home, "keys")
    assert levels == ["bad"]
    assert f"chmod 600 {home.path / name}" in text


def test_a_folder_that_others_can_enter_is_a_warning(home):
    home.path.chmod(0o755)
    assert found(home, "keys")[0] == ["warning"]


def test_damaged_and_exchanged_keys_are_bad(home, consortium, data, tmp_path):
    other = Home.create(tmp_path / "north", consortium.path / "consortium.json", data)
    home.node_public_key.write_bytes(other.node_public_key.read_bytes())
    assert "is not the public half" in found(home, "keys")[1]
    home.node_key.write_bytes(b"nothing")
    assert "is damaged" in found(home, "keys")[1]
    home.identity.unlink()
    assert found(home, "settings")[0] == found(home, "keys")[0] == ["bad"]


# Data


def test_settings_of_an_earlier_version_are_told_what_they_lack(home, data):
    lines = home.settings_file.read_text().splitlines()
    kept = [line for line in lines if "_column =" not in line]
    home.settings_file.write_text("\n".join(kept) + "\n")
    levels, text = found(Home(home.path), "settings")
    assert levels == ["bad"]
    assert "[data] needs text_column, label_column and labels" in text
    assert "umbel client upgrade" in text


def test_a_column_that_is_not_there_is_bad(home, data):
    written(data, ROWS, ("notes", "class"))
    levels, text = found(home, "data")
    assert levels[-1] == "bad"
    assert "Did you mean 'notes'" in text


def test_one_class_is_a_warning_and_no_record_is_bad(home, data):
    written(data, [(text, "fine") for text, _ in ROWS])
    levels, text = found(home, "data")
    assert levels == ["ok", "ok", "warning"]
    assert "no record has the class 'ill'" in text
    written(data, [])
    assert "0 records" in found(home, "data")[1]
    data.write_bytes(b"")
    assert found(home, "data")[0] == ["bad"]
    data.unlink()
    assert "There is no data file" in found(home, "data")[1]


def test_records_that_are_left_out_are_told_to_their_owner_alone(home, data):
    written(data, [(f"text {number}", number) for number in range(30)] + [("", 1), ("no", "")])
    levels, text = found(home, "data")
    assert levels == ["ok", "warning", "warning"]
    assert "0 records in 2 classes, 30 left out (undeclared label)" in text
    assert "1 left out (empty text), 1 left out (no label)" in text


def test_another_encoding_is_named(home, data):
    data.write_bytes("note,class\nGrüße,fine\n".encode("latin1"))
    levels, text = found(home, "data")
    assert levels[0] == "warning"
    assert 'encoding = "cp1252"' in text


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("notes.csv", f'note,class\n"{SECRET}",fine,too,many\n'),
        ("notes.csv", f'note,class\n"{SECRET}'),
        ("notes.jsonl", f'{{"note": ["{SECRET}"], "class": "fine"}}\n'),
        ("notes.jsonl", f'{{"note": "{SECRET}", "class": "fine"}}\n{{"note": {SECRET}\n'),
    ],
)
def test_nothing_of_a_record_is_printed(home, data, tmp_path, file, content):
    (tmp_path / file).write_text(content)
    text = home.settings_file.read_text().replace(str(data), str(tmp_path / file))
    home.settings_file.write_text(text)
    findings = examine(Home(home.path))
    assert any(finding.level != "ok" for finding in findings if finding.name == "data")
    assert "Mary" not in "".join(map(str, findings))


# Policy, budget, audit log, agent


def test_a_laxer_policy_is_a_warning_that_names_the_keys(home):
    text = home.policy.read_text()
    text = text.replace("epsilon_limit = 10.0", "epsilon_limit = 50.0")
    home.policy.write_text(text.replace("\nrequired = true", "\nrequired = false"))
    levels, text = found(home, "policy")
    assert levels == ["warning"]
    assert "privacy.epsilon_limit = 50.0 (default 10.0)" in text
    assert "encryption.required = false (default true)" in text


def test_a_policy_that_cannot_be_read_is_bad(home):
    home.policy.write_text("[privacy]\nepsilon = 1\n")
    assert found(home, "policy")[0] == ["bad"]
    home.policy.unlink()
    assert found(home, "policy")[0] == ["bad"]


def test_the_budget_is_that_of_this_very_account(home):
    assert "nothing has been spent" in found(home, "budget")[1]
    dataset = home.account.name
    with Ledger(home.ledger) as ledger:
        ledger.reserve(
            dataset, MechanismEvent(1.0, 0.1, 10), job="j", key="run/1/0", delta=1e-5, limit=10
        )
    levels, text = found(home, "budget")
    assert levels == ["ok", "ok"]
    assert "of 10 is left at delta 1e-05" in text
    home.policy.write_text("[privacy]\nepsilon_limit = 0.01\n")
    assert found(home, "budget")[0] == ["ok", "warning"]


def test_a_changed_ledger_and_a_changed_audit_log_are_bad(home):
    event = MechanismEvent(1.0, 0.1, 10)
    with Ledger(home.ledger) as ledger:
        ledger.reserve("d", event, job="j", key="run/1/0", delta=1e-5, limit=10)
    with sqlite3.connect(home.ledger) as database:
        database.execute("UPDATE entries SET steps = 1")
    assert found(home, "budget")[0] == ["bad"]
    AuditLog(home.audit).write("agent started", pid=1)
    assert found(home, "audit log")[0] == ["ok"]
    home.audit.write_text(home.audit.read_text().replace('"pid": 1', '"pid": 2'))
    assert found(home, "audit log")[0] == ["bad"]


def test_an_agent_that_runs_is_seen_and_not_disturbed(home):
    assert "no agent runs" in found(home, "agent")[1]
    assert not (home.path / "lock").exists()
    with (home.path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "an agent runs" in found(home, "agent")[1]


def test_a_gpu_is_missed_only_where_the_policy_wants_one(home):
    home.policy.write_text('[resources]\ndevice = "cpu"\n')
    assert found(home, "device")[0] == ["ok"]
    home.policy.write_text('[resources]\ndevice = "cuda"\n')
    levels, text = found(home, "device")
    assert levels == ["ok"] if "GiB free" in text else levels == ["warning"]


# Roster and witness


def test_the_roster_says_whether_this_owner_is_a_member(home, consortium, data, tmp_path):
    levels, text = found(home, "roster")
    assert levels == ["warning"]
    assert "not admitted yet" in text
    other = Home.create(tmp_path / "new" / "st-mary", consortium.path / "consortium.json", data)
    consortium.admit(other.request)
    home.roster.write_bytes(consortium.roster())
    assert "with other keys" in found(home, "roster")[1]
    consortium.remove("st-mary")
    home.roster.write_bytes(consortium.roster())
    assert "does not name st-mary" in found(home, "roster")[1]
    home.roster.write_bytes(b"nothing")
    assert found(home, "roster")[0] == ["bad"]


def test_a_witness_within_the_folder_is_a_warning(home, monkeypatch):
    monkeypatch.setattr(Home, "witness", None)
    levels, text = found(home, "witness")
    assert levels == ["warning"]
    assert "backups" in text


def test_a_cache_that_other_users_can_read_is_bad(home, monkeypatch):
    monkeypatch.delenv("UMBEL_CACHE")
    assert home.cache.parent == home.path.resolve()
    tokens = home.cache / "tokens" / "abc"
    tokens.mkdir(parents=True)
    (tokens / "ids.npy").write_bytes(b"a record")
    for path in (home.cache, tokens.parent, tokens):
        path.chmod(0o755)
    levels, text = found(home, "cache")
    assert levels == ["bad"]
    assert "made from records" in text
    assert f"chmod -R go= {home.cache}" in text
    tokens.parent.chmod(0o700)
    assert found(home, "cache")[0] == ["ok"]


def test_a_witness_that_another_user_may_have_made_is_bad(home, monkeypatch, tmp_path):
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    place = home.witness
    place.rmdir()
    (tmp_path / "elsewhere").mkdir()
    place.symlink_to(tmp_path / "elsewhere")
    levels, text = found(home, "witness")
    assert levels == ["bad"]
    assert "is a link, or belongs to somebody else" in text
