"""Strategies that leave a part of the model with each owner, in whole simulations."""

import json
import os
import signal

import numpy as np
import pytest
from safetensors.numpy import load_file

from umbel.client.own_state import OwnStates
from umbel.reports.page import write_page
from umbel.reports.standings import standings
from umbel.run.checkpoint import load_latest
from umbel.run.record import RunRecord
from umbel.simulations import engine
from umbel.simulations.engine import Options, resume, simulate

LORA = {"adapter": "lora"}


def run(job, path, workers=1, listener=None, stop=None):
    options = Options(path, workers=workers, reproducible=True, stop=stop)
    return simulate(job, options, listener)


def shared_and_own(folder):
    """The shared model, and every owner's figures of its own."""
    result = folder.read_json("result.json")
    return result["adapter_sha256"], json.dumps(result["own"])


@pytest.fixture(scope="module")
def whole(job_of, tmp_path_factory):
    """A run of FedSA-LoRA as jobs are by default: encrypted, with example-level privacy."""
    return run(
        job_of(model=LORA, strategy={"name": "fedsa-lora"}), tmp_path_factory.mktemp("own") / "run"
    )


def test_each_owner_ends_with_an_adapter_of_its_own_and_the_same_shared_part(whole):
    shared = load_file(whole.path / "adapter" / "adapter_model.safetensors")
    own = {
        p.name: load_file(p / "adapter_model.safetensors") for p in (whole.path / "own").iterdir()
    }
    heads = {n: load_file(whole.path / "own" / n / "head.safetensors")["weight"] for n in own}
    assert len(own) == 4
    for name, array in shared.items():
        found = {tensors[name].tobytes() for tensors in own.values()}
        if ".lora_A." in name:
            assert found == {array.tobytes()}
        else:
            assert not array.any(), "a global export of a personal part does not exist"
            assert len(found) == len(own)
    assert len({head.tobytes() for head in heads.values()}) == len(own)


def test_what_is_personal_is_nowhere_but_with_its_owner(whole):
    plan, result = whole.read_json("plan.json"), whole.read_json("result.json")
    shapes = {}
    for path in (whole.path / "checkpoints").glob("*.safetensors"):
        names = [n.removeprefix("model/") for n in load_file(path) if n.startswith("model/")]
        assert names
        assert all(".lora_A." in name for name in names)
        shapes = {n.removeprefix("model/"): a.shape for n, a in load_file(path).items()}
    assert load_latest(whole.path / "checkpoints", shapes).arrays.keys() == shapes.keys()
    assert plan["trainable_parameters"] == sum(int(np.prod(shape)) for shape in shapes.values())
    assert plan["owners_keep_bytes"] > 0
    assert "shared part" in result["about"]
    card = (whole.path / "adapter" / "README.md").read_text()
    assert result["about"] in card
    assert "value:" not in card.split("---")[1], "no figures of owners' own models for this adapter"
    assert not list(whole.path.glob("owners/*/states/*")), "they are deleted when the run ends"


def test_own_and_shared_figures_stand_side_by_side_in_result_table_and_page(whole):
    record = RunRecord.read(whole.path)
    own = record.own_models
    assert own["rounds"] == dict.fromkeys(own["clients"], 3)
    assert all({"own", "shared"} == found.keys() for found in own["clients"].values())
    # What an owner tests in the last round is its own model: the same figures, by another way.
    assert {n: c["own"]["confusion"] for n, c in own["clients"].items()} == {
        name: metrics["confusion"] for name, metrics in record.client_final.items()
    }
    labels = [row.label for row in standings(record)]
    assert {"owners' own models", "the shared model alone"} <= set(labels)
    page = write_page(whole.path).read_text()
    assert "the shared model alone" in page
    assert record.result["about"] in page.replace("&#39;", "'")


@pytest.fixture
def head(open_job_of):
    """Ditto of a linear head, of which two of four owners train in a round."""
    return open_job_of(
        strategy={"name": "ditto", "options": {"pull": 0.5}},
        training={"optimizer": "sgd", "learning_rate": 0.5, "rounds": 4, "batch_size": 64},
        privacy={"unit": "none"},
        cohort={"size": 2},
        evaluation={"counts": "off"},
    )


@pytest.mark.parametrize("moment", ["round 2", "train 4", "own"])
def test_a_run_that_is_killed_goes_on_with_what_is_the_owners_own(
    moment, head, dies, forked, tmp_path
):
    expected = shared_and_own(run(head, tmp_path / "whole"))
    cut = tmp_path / "cut"
    assert forked(lambda: run(head, cut, listener=dies(moment))) == -signal.SIGKILL
    again = resume(cut, 1)
    assert shared_and_own(again) == expected
    assert not [event for event in again.read_events() if event.get("restarted")]


def test_a_run_that_is_killed_before_its_result_is_written_still_has_the_owners_own(
    head, forked, tmp_path, monkeypatch
):
    expected = shared_and_own(run(head, tmp_path / "whole"))
    cut = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(engine, "conclude", lambda *given: os.kill(os.getpid(), signal.SIGKILL))
        assert forked(lambda: run(head, cut)) == -signal.SIGKILL
    again = resume(cut, 1)
    assert shared_and_own(again) == expected
    assert not list(cut.glob("owners/*/states/*")), "they are deleted when the run has ended"


def test_an_owner_that_lost_its_own_begins_again_and_the_shared_model_is_the_same(
    head, tmp_path, monkeypatch
):
    shared, own = shared_and_own(run(head, tmp_path / "kept"))
    monkeypatch.setattr(OwnStates, "propose", lambda *arguments: None)
    forgetful = run(head, tmp_path / "forgetful")
    assert shared_and_own(forgetful)[0] == shared, "which never sees it"
    assert shared_and_own(forgetful)[1] != own
    assert [event for event in forgetful.read_events() if event.get("restarted")]
