"""An owner's intake over real data files: what stands between a request and the data."""

import dataclasses
import json
import stat
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from umbel.client import decisions
from umbel.client.intake import Intake
from umbel.client.policy import Policy
from umbel.client.spending import spending
from umbel.consortium.warrants import sign_job
from umbel.flower import stamp, take_server_identity
from umbel.quantities import epsilon_text
from umbel.simulations.rehearsal import set_up
from umbel.wire.arrays import to_array_record
from umbel.wire.packing import SECAGG, to_bytes_record
from umbel.wire.requests import ASSIGNMENT, COMMIT, EVALUATE, LEDGER, PREPARE, TRAIN, Assignment


@pytest.fixture
def owner_of(sound, moved_clock, tmp_path):
    """An owner with data of its own, and a way to send it the operator's requests."""

    class Owner:
        def __init__(self, job):
            self.stage = set_up(job, tmp_path)
            self.home = self.stage.owners[0]
            self.clock = moved_clock
            self.intake = Intake(self.home, bench=sound, clock=self.clock)

        @property
        def has_read(self):
            """Whoever reads records keeps their marks, beside the account."""
            folder = self.home.source.marks.folder
            return folder.exists() and any(folder.iterdir())

        def ask(self, run, job=None, kind=PREPARE, told=None, **changes):
            from flwr.app import ConfigRecord, Message, RecordDict

            take_server_identity(1)
            stage = self.stage
            job = (job or stage.job).to_json()
            signature = sign_job(stage.consortium.operator, stage.consortium.card.id, run, job)
            assignment = Assignment(
                version="0.1.0",
                run=run,
                job=job,
                round=0,
                attempt=0,
                participations=stage.job.training.rounds,
                signature=signature,
            )
            assignment = dataclasses.replace(assignment, **changes)
            content = RecordDict({ASSIGNMENT: assignment.to_record()})
            if told is not None:
                content[LEDGER] = ConfigRecord(told)
            if kind == COMMIT:
                content[SECAGG] = to_bytes_record(request=b"commit")
            if kind in (TRAIN, EVALUATE):
                desk = self.intake._desk
                shapes = desk.agent._work.shapes if desk else {"weight": (1,)}
                zeros = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
                content["arrays"] = to_array_record(zeros)
            message = Message(content, dst_node_id=2, message_type=kind)
            stamp(message)
            return self.intake.handle(message)

    return Owner


@pytest.fixture
def owner(owner_of, open_job_of):
    return owner_of(open_job_of())


def test_a_job_that_pads_less_than_the_owners_own_probe_demands_is_refused_uncharged(
    owner_of, open_job_of, architectures, tmp_path
):
    """Whatever the operator's probe said: between machines nobody takes another's word for it."""
    folder = tmp_path / "fnet"
    architectures.build("text-classification", "fnet", folder, architectures.word_tokenizer())
    owner = owner_of(open_job_of(str(folder)))
    assert owner.stage.job.model.padding == "longest"
    refused = owner.ask("first")
    assert refused.has_error()
    assert 'model.padding = "max_length"' in refused.error.reason
    assert not owner.home.ledger.exists()
    answered = owner.ask("second", owner.stage.job.padded())
    assert not answered.has_error(), answered.error.reason


def test_a_run_goes_on_with_data_that_changed_under_the_same_account_and_published_size(owner):
    from pyarrow import parquet

    data = owner.home.data
    first = owner.ask("first")
    parquet.write_table(parquet.read_table(data).slice(1), data)
    for run in ("first", "second"):
        again = owner.ask(run)
        assert not again.has_error(), again.error.reason
        assert again.content["readiness"] == first.content["readiness"]


@pytest.mark.parametrize("strategy", ["fedbuff", "fedavg"])
def test_what_runs_only_in_a_simulation_is_refused_by_an_owner_too(owner, strategy):
    """Whoever signs it: an operator's other tool may not look."""
    job = owner.stage.job.changed(
        {
            "strategy.name": strategy,
            "simulation.attackers": 0.25,
            "evaluation.counts": "exact",
            "evaluation.every": 1,
            "encryption.mode": "secure-sum",
        }
    )
    reply = owner.ask("first", job)
    assert ("updates that wait for a sum" in reply.error.reason) == (strategy == "fedbuff")
    assert "simulation.attackers applies only to umbel simulate" in reply.error.reason
    assert not owner.has_read


def test_what_public_numbers_forbid_is_refused_before_a_record_is_read(owner):
    """Otherwise the time of the refusal would tell how many there are, and how long."""
    asked = [(COMMIT, {}), ("query.unknown", {})]
    for kind in (PREPARE, TRAIN, EVALUATE):
        asked += [(kind, {"tests": -1}), (kind, {"participations": -1})]
    for kind, changes in asked:
        assert owner.ask("first", kind=kind, **changes).has_error()
        assert not owner.has_read, (kind, changes)
    assert owner.clock.time == 0
    # The hours of a run count what answers should have taken. This clock moves by waiting alone: until the
    # records are read, and no more.
    reply = owner.ask("first", kind=TRAIN, round=1)
    assert not reply.has_error(), reply.error.reason
    assert owner.has_read
    waited, spent = owner.clock.time, owner.intake.notes.seconds("first")
    assert spent > waited > 0
    assert not owner.ask("first", kind=TRAIN, round=2).has_error()
    assert owner.clock.time == waited
    assert owner.intake.notes.seconds("first") - spent == pytest.approx(spent - waited)


def test_an_answer_for_which_records_are_read_first_leaves_at_its_time_also_as_a_refusal(owner):
    home = owner.home
    data = home.settings.data.model_copy(update={"smallest_size": 10**6})
    home.__dict__["settings"] = home.settings.model_copy(update={"data": data})
    refused = owner.ask("first")
    assert "smallest_size" in refused.error.reason
    assert owner.has_read
    waited = owner.clock.time
    assert waited > 0
    # From now on the size is known, and the refusal needs no record.
    assert owner.ask("first").error.reason == refused.error.reason
    assert owner.clock.time == waited


def test_every_job_is_kept_with_what_was_decided_and_what_it_did_here(owner, umbel):
    home, job = owner.home, owner.stage.job
    owner.ask("first")
    [kept] = home.decisions.list()
    assert (kept.status, kept.plan) == ("job accepted", {})
    assert json.loads(json.dumps(kept.job)) == json.loads(job.to_json())
    assert kept.operator == owner.stage.consortium.operator.public.signing.hex()
    owner.ask("first", kind=TRAIN, round=1)
    privacy = job.privacy.model_copy(update={"epsilon": 10**6})
    assert owner.ask("second", job.model_copy(update={"privacy": privacy})).has_error()
    assert owner.ask("third", signature="00" * 64).has_error()
    first, second, third = home.decisions.list()
    assert first.plan["epsilon"] <= job.privacy.epsilon < first.plan["epsilon_at_most"] * 1.001
    assert first.plan["rounds_here"] == job.training.rounds
    assert (second.status, second.operator) == ("job refused", kept.operator)
    assert "epsilon" in second.decisions[0]["why"]
    assert (third.status, third.operator) == ("job refused", "")
    folder = home.decisions.folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    # As its owner reads it.
    status, out, _ = umbel("client", "jobs", home.path)
    assert status == 0
    assert all(word in out for word in ("accepted", "refused", "first", "second", "third"))
    status, out, _ = umbel("client", "jobs", "show", "sec", home.path)
    assert status == 0
    assert "job refused: " in out
    assert '"epsilon": 1000000.0' in out
    _, out, _ = umbel("client", "jobs", "show", "first", home.path, "--json")
    assert json.loads(out)["plan"] == first.plan
    status, _, err = umbel("client", "jobs", "show", "fourth", home.path)
    assert status == 2
    assert "No run here begins with 'fourth'" in err


def test_the_record_of_processing_of_a_run_says_what_it_does_here_and_has_cost(owner, umbel):
    home, job = owner.home, owner.stage.job
    owner.ask("first")
    owner.ask("first", kind=TRAIN, round=1)
    owner.ask("second", signature="00" * 64)
    status, out, err = umbel("client", "record", "first", home.path, "--json")
    assert status == 0, err
    found = json.loads(out)
    said = {e["name"]: e["text"] for part in found["parts"] for e in part["entries"]}
    [kept] = [one for one in home.decisions.list() if one.run == "first"]
    [account] = spending(home.ledger, Policy.read(home.policy))
    assert (found["owner"], found["run"], said["Controller"]) == (home.name, "first", home.name)
    assert said["SHA-256 of the job"] == job.digest()
    assert said["Key of the operator who signed"] == kept.operator
    assert said["Published size (noised)"] == f"{home.account.sizes.data:,} records"
    assert said["Epsilon that it has cost"].startswith(epsilon_text(account.runs[-1].epsilon))
    assert epsilon_text(account.epsilon) in said["All jobs on these data"]
    # The plan's own words, and what only a person knows left empty.
    assert "differential privacy for one record added or removed" in said["Exactly"]
    assert said["In plain words"].startswith("an attacker who knows everything except one record")
    assert "NOT PRIVATE" in said  # a rehearsal
    assert {"Purpose", "Legal basis", "Contact", "Data-protection officer"} <= {
        name for name, text in said.items() if text is None
    }
    assert any(text and text.startswith("job accepted") for text in said.values())
    for file in map(Path, found["files"]):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert file.parent == home.path / "records"
    # Of one that was refused nothing is promised, since nothing was done.
    _, out, _ = umbel("client", "record", "second", home.path, "--json", "--out", home.path)
    said = {e["name"]: e["text"] for p in json.loads(out)["parts"] for e in p["entries"]}
    assert said["Exactly"] is None
    assert said["Extent"] == "it has not trained here"
    assert "Epsilon that it has cost" not in said


def test_a_decision_is_written_down_once_also_by_an_agent_that_starts_again(owner, sound):
    for _ in range(2):
        for _ in range(2):
            owner.ask("first")
        owner.intake = Intake(owner.home, bench=sound, clock=owner.clock)
    [kept] = owner.home.decisions.list()
    assert [step["event"] for step in kept.decisions] == ["job accepted"]
    events = [entry.event for entry in owner.intake.audit.entries()]
    assert events.count("job accepted") == 1


def test_refused_jobs_do_not_fill_the_disk_and_what_ran_stays(owner, monkeypatch):
    owner.ask("ran")
    monkeypatch.setattr(decisions, "MOST_REFUSED", 3)
    for number in range(6):
        owner.ask(f"refused-{number}", signature="00" * 64)
    runs = [kept.run for kept in owner.home.decisions.list()]
    assert runs[0] == "ran"
    assert runs[1:] == [f"refused-{number}" for number in (3, 4, 5)]


def test_a_folder_that_was_put_back_from_a_copy_answers_nothing_from_its_records(
    owner, sound, umbel
):
    """Also on a machine that has forgotten what it saw: the request itself brings what it lacks."""
    home, files = owner.home, [owner.home.ledger, owner.home.ledger.with_suffix(".witness")]
    owner.ask("first")
    copies = [file.read_bytes() for file in files]
    told = dict(owner.ask("first", kind=TRAIN, round=1).content[LEDGER])
    assert not owner.ask("first", kind=TRAIN, round=2, told=told).has_error()
    for file, copy in zip(files, copies, strict=True):
        file.write_bytes(copy)
    if home.seen_head is not None:
        home.seen_head.unlink(missing_ok=True)
    owner.intake = Intake(home, bench=sound, clock=owner.clock)
    before = home.ledger.read_bytes()
    for kind, round_ in ((PREPARE, 0), (TRAIN, 1), (EVALUATE, 1)):
        reply = owner.ask("first", kind=kind, round=round_, told=told)
        assert "its own log says why" in reply.error.reason
    assert home.ledger.read_bytes() == before
    status, out, _ = umbel("client", "check", home.path)
    assert status == 1
    assert "umbel client moved" in out


def test_a_server_without_the_operators_key_keeps_no_agent_busy_and_fills_no_disk(owner):
    """It can send any bytes, for ever."""
    keys = ", ".join(f'"k{number}": 1' for number in range(100_000))
    for text in ("[" * 100_000, "", "{" + keys + "}", "[]"):
        job = SimpleNamespace(to_json=lambda text=text: text)
        reply = owner.ask("strange", job, signature="00" * 64)
        # On the code before, each was looked into first, and one kept the agent for long.
        assert "is not signed by the operator" in reply.error.reason
    for number in range(120):
        owner.ask(f"run-{number}", signature="00" * 64)
    refused = [e for e in owner.intake.audit.entries() if e.event == "job refused"]
    assert len(refused) <= 100
    # Whoever has the key is heard as before.
    assert not owner.ask("signed").has_error()
    assert [e.run for e in owner.intake.audit.entries() if e.event == "job accepted"] == ["signed"]


def test_a_request_for_what_no_plan_has_costs_nothing_and_is_refused_in_words(owner):
    """A server may put any number into a request; none of them charges the owner, or is told to others."""
    assert not owner.ask("first").has_error()
    assert not owner.ask("first", kind=TRAIN, round=1).has_error()
    ledger = owner.home.ledger.read_bytes()
    for kind in (PREPARE, TRAIN, EVALUATE):
        for number in (-1, -(2**63), 2**63 - 1, 2**53, owner.stage.job.training.rounds + 1):
            reason = owner.ask("first", kind=kind, round=number).error.reason
            assert f"is for round {number}" in reason
    assert "attempt -1" in owner.ask("first", kind=TRAIN, round=2, attempt=-1).error.reason
    assert "the first round is 1" in owner.ask("first", kind=TRAIN, round=0).error.reason
    nested = owner.ask("first", kind=TRAIN, round=2, naming="[" * 100_000)
    assert nested.error.reason == "A request names malformed groups"
    assert owner.home.ledger.read_bytes() == ledger
    assert owner.ask("first").content["readiness"]["round"] == 1
