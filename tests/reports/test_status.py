"""What an operator reads of a run: who takes part, whether anything goes on, and how sharp a figure is."""

import json
import os
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from umbel.consortium.authority import Consortium
from umbel.consortium.card import Request, public_pem
from umbel.privacy.secagg.keys import Identity
from umbel.privacy.secagg.roster import Limits
from umbel.run.events import from_json
from umbel.run.store import Store
from umbel.server.coordinator import Narrator
from umbel.storage.processes import alone

HEAVY = ["torch", "transformers", "flwr", "numpy", "pyarrow", "matplotlib", "scipy"]


@pytest.fixture
def consortium(tmp_path):
    return Consortium.create(tmp_path / "hospitals", "127.0.0.1", 9443, Limits())


@pytest.fixture
def store(consortium):
    return Store(consortium.database)


@pytest.fixture
def running(store):
    """A run in progress, of which events can be told."""
    store.add("reviews", "reviews-1a2b", 3)
    store.set_status("reviews", "running")

    def tell(event, **said):
        store.tell("reviews", from_json({"event": event, **said}))

    return tell


@pytest.fixture
def ask(umbel, consortium):
    def run(*arguments):
        status, out, err = umbel(*arguments, "--consortium", consortium.path)
        assert status == 0, err
        return out + err

    return run


def member(name, said, takes_part=False):
    return {"client": name, "said": said, "takes_part": takes_part}


def round_(aggregated=True, **said):
    return {
        "round": 1, "attempt": 1, "seconds": 2.0, "clients": [], "failed": {}, "heard": [],
        "aggregated": aggregated, **said,
    }  # fmt: skip


@pytest.mark.parametrize("command", [["status", "reviews"], ["runs"], ["logs", "reviews"]])
def test_that_no_server_runs_is_said_until_one_does(ask, running, consortium, command):
    assert "No server runs for this consortium" in ask(*command)
    with alone(consortium.path / "lock", "taken"):
        assert "o server" not in ask(*command)


def test_a_run_that_nobody_leads_does_not_look_as_if_somebody_did(ask, running, consortium):
    assert "running, no server" in ask("status", "reviews")
    assert json.loads(ask("status", "reviews", "--json"))["served"] is False
    with alone(consortium.path / "lock", "taken"):
        assert "reviews: running, round" in ask("status", "reviews")
        assert json.loads(ask("status", "reviews", "--json"))["served"] is True


def test_looking_does_not_keep_a_server_from_starting(ask, running, consortium):
    for _ in range(20):
        with alone(consortium.path / "lock", "taken"):
            pass
        ask("runs")


@pytest.mark.parametrize("status", ["queued", "running", "stopping"])
def test_without_a_server_a_run_is_stopped_at_once(ask, running, store, status):
    store.set_status("reviews", status)
    assert "reviews is stopped" in ask("stop", "reviews")
    assert store.run("reviews").status == "stopped"


def test_with_a_server_a_run_ends_after_its_round(ask, running, store, consortium):
    with alone(consortium.path / "lock", "taken"):
        assert "after the round in progress" in ask("stop", "reviews")
    assert store.run("reviews").status == "stopping"


def test_a_queued_run_says_for_which_it_waits(ask, running, store, consortium):
    store.add("later", "later-1a2b", 3)
    with alone(consortium.path / "lock", "taken"):
        for command in ("status", "logs"):
            assert "waits until reviews is over" in ask(command, "later")
    store.set_status("reviews", "finished")
    assert "waits until" not in ask("status", "later")


def test_a_run_is_found_by_what_owners_call_it(ask, running):
    assert "reviews: " in ask("status", "reviews-1a2b")


def test_who_refused_at_the_start_is_named_until_it_takes_part(ask, running):
    running("member", **member("st-mary", "not connected"))
    running("member", **member("harbour", "allows epsilon 1"))
    running("member", **member("press", "takes part", takes_part=True))
    shown = ask("status", "reviews")
    assert "Without harbour: allows epsilon 1" in shown
    assert "Without st-mary: not connected" in shown
    assert "press" not in shown
    running("member", **member("st-mary", "takes part", takes_part=True))
    running("ready", clients=["press"], failed={"st-mary": "lost its way"})
    assert "Without st-mary: lost its way" in ask("status", "reviews")
    running("ready", clients=["st-mary"], failed={})
    shown = ask("status", "reviews")
    assert "st-mary" not in shown
    assert "Without harbour" in shown
    # Away when the run was taken up again, and back in a round after that.
    running("round", **round_(clients=["press", "st-mary"]))
    running("ready", clients=["press"], failed={"st-mary": "not connected"})
    assert "Without st-mary: not connected" in ask("status", "reviews")
    running("round", **round_(clients=["press", "st-mary"]))
    assert "Without st-mary" not in ask("status", "reviews")


def test_once_a_run_has_ended_who_was_away_is_said_as_of_then(ask, running, store):
    running("member", **member("st-mary", "not connected"))
    for status in ("stopped", "failed", "finished"):
        store.set_status("reviews", status)
        assert "At the end without st-mary: not connected" in ask("status", "reviews")
    store.set_status("reviews", "running")
    assert "\nWithout st-mary: not connected" in ask("status", "reviews")


def test_of_a_round_that_was_given_up_those_who_answered_are_named(ask, running):
    few = "the groups that are left are too few: Krum needs 3 groups"
    running("round", **round_(False, heard=["a", "b"], failed={"c": "not connected"}, lacks=few))
    shown = ask("status", "reviews")
    assert "Round 1 was given up" in shown
    assert "Answered, but too few: a, b\n" in shown
    assert "c: not connected" in shown
    assert f"\n  T{few[1:]}\n" in shown
    running("round", **round_(clients=["a", "b", "c"], heard=["a", "b", "c"]))
    assert "Answered: a, b, c\n" in ask("status", "reviews")


def test_a_figure_of_noised_counts_stands_with_its_noise(ask, running, consortium):
    folder = consortium.runs / "reviews"
    folder.mkdir()
    tests = {"deviation": 0.0213, "deviation_of": "accuracy"}
    (folder / "plan.json").write_text(json.dumps({"evaluation": tests}))
    running("evaluation", round=1, metrics={"accuracy": 0.81234, "loss": 0.51})
    running("holdout", round=1, metrics={"accuracy": 0.75})
    shown = ask("status", "reviews")
    assert "after round 1: accuracy 0.8123 ± 0.021, loss 0.51" in shown
    running("evaluation", round=2, metrics={})  # nobody could test it
    assert "after round 1: accuracy 0.8123 ± 0.021" in ask("status", "reviews")
    assert "public hold-out: accuracy 0.75\n" in shown  # the server's own records, without noise
    (folder / "plan.json").write_text(json.dumps({"evaluation": {"deviation": None}}))
    assert "±" not in ask("status", "reviews")


@pytest.mark.parametrize("command", ["status", "runs", "logs"])
def test_who_looks_does_not_wait_for_the_libraries_of_models(
    running, store, consortium, command, tmp_path
):
    running("round", **round_(clients=["a"]))
    running("evaluation", round=1, metrics={"accuracy": 0.5})
    names = [] if command == "runs" else ["reviews"]
    code = (
        "import sys\nfrom umbel import cli\n"
        f"sys.argv = {['umbel', command, *names, '--consortium', str(consortium.path)]!r}\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


def test_what_a_member_last_sent_of_its_ledger_is_kept_for_its_keys_alone(
    consortium, store, running
):
    def admit(name, before=None):
        identity = Identity(os.urandom(64))
        node = public_pem(ec.generate_private_key(ec.SECP384R1()).public_key())
        consortium.admit(Request.make(consortium.card, name, identity, node, before))
        return identity

    first = admit("a")
    admit("b")
    narrator = Narrator(store, "reviews", consortium)
    assert narrator.heads() == {}
    sent = round_(clients=["a", "b"]) | {"heads": {"a": "1", "b": "2"}}
    narrator.event(from_json({"event": "round", **sent}))
    later = {"event": "evaluation", "round": 1, "heads": {"a": "3", "stranger": "4"}}
    narrator.event(from_json(later))
    assert Narrator(Store(consortium.database), "later", consortium).heads() == {"a": "3", "b": "2"}
    # Who replaces its keys has the same ledger; whoever comes back with other ones another.
    admit("a", before=first)
    assert Narrator(store, "later", consortium).heads() == {"a": "3", "b": "2"}
    consortium.remove("a")
    admit("a")
    assert Narrator(store, "later", consortium).heads() == {"b": "2"}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("encryption.mode=none", "requires encrypted updates"),
        ("privacy.unit=none", 'the job has "none"'),
        ("privacy.epsilon=100", "allows one job at most epsilon 8"),
        ("training.rounds=3", ""),
    ],
)
def test_what_owners_will_refuse_is_said_before_anybody_is_asked(
    umbel, consortium, tmp_path, given, reason
):
    job = tmp_path / "job.toml"
    job.write_text('name = "weak"\n[data]\n')
    arguments = ["run", job, "--consortium", consortium.path, "--set", given]
    status, _, err = umbel(*arguments)
    assert status == 2  # it names no classes, so nothing was placed
    assert "data.labels is missing" in err
    told = "owners with the policy that umbel client init writes will refuse this job"
    assert (told in err, reason in err) == (bool(reason), True)
