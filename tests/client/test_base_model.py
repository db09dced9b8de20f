"""What a job's base model can make an agent do before anybody has allowed it: nothing."""

import contextlib
import dataclasses
import os
import sys

import pytest

from umbel.client.child import Bench
from umbel.client.home import Home
from umbel.client.intake import Intake
from umbel.consortium.warrants import sign_job
from umbel.errors import ConsortiumError, ModelError
from umbel.flower import stamp, take_server_identity
from umbel.learning.base_model import base_folder, named_digest
from umbel.privacy.randomness import reproducible_stream
from umbel.simulations.rehearsal import set_up
from umbel.wire.requests import ASSIGNMENT, PREPARE, Assignment

WATCHED: list[list[str]] = []
NOT_HERE = "0" * 64


def _watch(event, args):
    if WATCHED and event in ("socket.connect", "socket.getaddrinfo"):
        WATCHED[-1].append(f"{event} {args}")


sys.addaudithook(_watch)


@contextlib.contextmanager
def contacts():
    """Every attempt of this process to reach another machine within the block."""
    WATCHED.append([])
    try:
        yield WATCHED[-1]
    finally:
        WATCHED.pop()


@pytest.fixture
def asked(open_job_of, sound, moved_clock, tmp_path):
    """An intake, which the operator asks to prepare for a job on another base model."""
    stage = set_up(open_job_of(), tmp_path)
    home = stage.owners[0]

    def ask(base=None, sha256="", policy=""):
        from flwr.app import Message, RecordDict

        take_server_identity(1)
        model = stage.job.model
        changes = {"base": base or model.base, "sha256": model.sha256 if sha256 == "" else sha256}
        job = stage.job.model_copy(update={"model": model.model_copy(update=changes)}).to_json()
        consortium = stage.consortium
        signature = sign_job(consortium.operator, consortium.card.id, "run", job)
        assignment = Assignment("0.1.0", "run", job, 0, 0, 1, signature=signature)
        message = Message(
            RecordDict({ASSIGNMENT: assignment.to_record()}), dst_node_id=2, message_type=PREPARE
        )
        stamp(message)
        text = home.policy.read_text()
        for line in policy.splitlines():
            key = line.partition(" =")[0]
            text = "\n".join(
                line if old.startswith(f"{key} =") else old for old in text.splitlines()
            )
        home.policy.write_text(text)
        reply = Intake(home, bench=sound, clock=moved_clock).handle(message)
        return reply.error.reason if reply.has_error() else "answered"

    return ask


@pytest.mark.parametrize(
    "base", ["package:this.x", "package:this.x/model", "package:antigravity.y"]
)
def test_a_job_has_no_module_imported(asked, base):
    name = base.removeprefix("package:").split(".")[0]
    sys.modules.pop(name, None)
    assert "has no base model" in asked(base, NOT_HERE)
    assert name not in sys.modules


def test_finding_a_name_with_a_dot_as_before_imports_what_stands_before_it(capsys):
    """The attack, on what the code did before."""
    import importlib.util

    sys.modules.pop("this", None)
    with pytest.raises(ModuleNotFoundError):
        importlib.util.find_spec("this.x")
    assert "this" in sys.modules


def test_the_model_hub_is_asked_only_where_the_owners_policy_says_so(asked, monkeypatch):
    nobody = "http://127.0.0.1:9"  # the hub, as far as this test goes
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", nobody)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    base = "somebody/a-model-that-is-not-here"
    with contacts() as found:
        assert "has no base model" in asked(base, NOT_HERE)
    assert not found
    with contacts() as found, pytest.raises(ModelError):
        named_digest(base)  # as it was: whoever wrote the job decided
    assert found


def test_a_workers_process_is_told_to_leave_the_hub_alone(asked, tmp_path, open_job_of):
    home = set_up(open_job_of(), tmp_path / "more").owners[0]
    for hub, expected in ((False, "1"), (True, "None")):
        environment = home.environment(hub=hub)
        assert str(environment.get("HF_HUB_OFFLINE")) == expected
    bench = Bench([sys.executable, "-c", "pass"], home.environment())
    assert bench._environment["HF_HUB_OFFLINE"] == "1"
    bench.close()


def test_a_foreign_gguf_file_is_not_parsed(asked, tmp_path):
    file = tmp_path / "foreign.gguf"
    file.write_bytes(b"GGUF" + os.urandom(64))
    with pytest.raises(ModelError, match=r"cannot be converted|needs the extra") as parsed:
        base_folder(str(file))  # as it was: the digest was that of what came out
    assert "has no base model" in asked(str(file), NOT_HERE)
    assert str(parsed.value)
    assert len(named_digest(str(file))) == 64


def test_a_job_that_names_no_digest_is_refused(asked):
    assert "the job must give model.sha256" in asked(sha256=None)


def test_a_digest_that_the_policy_does_not_list_is_refused_before_anything_is_looked_up(asked):
    reason = asked("package:this.x", NOT_HERE, policy=f'base_models = ["{"1" * 64}"]')
    assert "does not accept the base model with SHA-256 0000" in reason
    assert "jobs.base_models" in reason


def test_a_refusal_does_not_tell_what_lies_at_the_owner(asked, tiny, caplog):
    """Else an operator would name a folder of records and learn the hash of its files."""
    folder = tiny("roberta")
    found = named_digest(folder)
    reason = asked(folder, NOT_HERE)
    assert "has no base model" in reason
    assert found[:12] not in reason
    assert found[:12] in caplog.text


def test_the_model_that_was_signed_for_is_taken(asked):
    assert asked() == "answered"


def test_an_assignment_cannot_name_the_digest_beside_the_signed_job(asked):
    names = {field.name for field in dataclasses.fields(Assignment)}
    assert not {name for name in names if "sha" in name or "digest" in name or "model" in name}


def test_an_agent_whose_noise_is_no_secret_takes_part_in_rehearsals_alone(open_job_of, tmp_path):
    """Started as a rehearsal's by mistake, its noise would follow from the seed that the operator chose."""
    home = set_up(open_job_of(), tmp_path).owners[0]
    Intake(home, reproducible_stream).close()
    real = home.card.model_copy(update={"rehearsal": False})
    real.write(home.card_file)
    with pytest.raises(ConsortiumError, match="is not a rehearsal"):
        Intake(Home(home.path), reproducible_stream)
