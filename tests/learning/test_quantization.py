"""Bases in four and eight bits: trained privately, tested, exported and answered as one model."""

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from umbel.client.policy import Policy
from umbel.client.rules import JobRules
from umbel.errors import JobError, ModelError
from umbel.learning import loading
from umbel.learning.loading import load_learner
from umbel.learning.merging import merge
from umbel.learning.probing import probe
from umbel.learning.probing.probe import probed
from umbel.learning.quantization import numbers_of, weight_of
from umbel.simulations.engine import Options, simulate

KINDS = ["nf4", "int8"]


@pytest.fixture(scope="module")
def wide(tiny, tmp_path_factory):
    """A BERT whose weights come in whole blocks, as those of real models do."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("wide") / "bert"
    shutil.copytree(tiny("bert"), folder)
    known = json.loads((folder / "config.json").read_text())
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=known["vocab_size"], hidden_size=128, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=2,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def job(job_of):
    def build(kind, base="bert", **sections):
        model = {"adapter": "lora", "quantization": kind, **sections.pop("model", {})}
        return job_of(base, model=model, **sections)

    return build


def packs_weights():
    from bitsandbytes.nn.modules import has_avx512bf16

    return has_avx512bf16()


def gradients(learner):
    """Of a plain step on invented texts."""
    network = learner.network.train()
    rows = learner.inputs.invented([9, 7])
    network.zero_grad(set_to_none=True)
    network(learner.inputs.collate(rows, network.device, None)).square().sum().backward()
    return {name: p.grad for name, p in network.trained_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", ["bert", "llama"])
def test_a_quantised_base_passes_the_probe_and_an_evaluation_changes_no_gradient(job, base, kind):
    learner = probed(load_learner(job(kind, base), 2))
    assert learner.verdict.padding == "longest"
    before = gradients(learner)
    with torch.no_grad():
        rows = learner.inputs.invented([8])
        learner.network.eval()(learner.inputs.collate(rows, learner.network.device, None))
    after = gradients(learner)
    assert all(torch.equal(after[name], before[name]) for name in before)
    plain = load_learner(job(None, base), 2)
    assert learner.shape().total_parameters == plain.shape().total_parameters


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["example", "none"])
def test_weights_that_an_evaluation_packs_are_not_trained_on(job, wide, monkeypatch, unit):
    if not packs_weights():
        pytest.skip("this processor packs none")
    weakened = job("nf4", wide, privacy={"unit": unit})
    assert probed(load_learner(weakened, 2)).verdict.padding == "longest"
    monkeypatch.setattr(loading, "keep_gradients", lambda model: None)
    monkeypatch.setattr(probe, "shape_known", lambda job, shaping: None)
    with pytest.raises(ModelError, match="cannot run"):
        probed(load_learner(weakened, 2))


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["example", "none"])
def test_the_probe_finds_that_an_evaluation_costs_gradients(job, monkeypatch, unit):
    monkeypatch.setattr(probe, "shape_known", lambda job, shaping: None)
    learner = load_learner(job("int8", privacy={"unit": unit}), 2)
    second, tested = learner.network.backbone.base_model.model.encoder.layer[1], []

    def lose(layer, inputs):
        tested.append(True) if not layer.training else None
        return (inputs[0].detach(), *inputs[1:]) if tested else None

    second.register_forward_pre_hook(lose)
    with pytest.raises(
        ModelError, match=r"once the model was tested, .*layer\.0.* gets no gradient"
    ):
        probed(learner)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_private_runs_are_equal(job, kind, tmp_path):
    runs = [
        simulate(job(kind), Options(tmp_path / name, reproducible=True)) for name in ("one", "two")
    ]
    first, second = (run.read_json("result.json")["adapter_sha256"] for run in runs)
    assert first == second
    with pytest.raises(ModelError, match="tuned on a base model that is held as"):
        merge(tmp_path / "one", tmp_path / "merged")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", ["fed-sb", "flora", "fedex-lora", "flexlora"])
def test_strategies_that_look_at_the_base_take_a_quantised_one(job, kind, strategy, tmp_path):
    run = simulate(job(kind, strategy={"name": strategy}), Options(tmp_path / "run"))
    assert run.read_json("result.json")["adapter_sha256"]


@pytest.mark.slow
def test_the_code_of_a_card_answers_as_umbel_does(cards, job_of, tiny, texts, tmp_path, python):
    made = cards.Cards(tmp_path, job_of, texts)
    for kind in KINDS:
        model = {"quantization": kind}
        made.add(f"texts {kind}", tiny("bert"), "lora", "mean", model=model)
        made.add(f"language {kind}", tiny("llama"), "lora", model=model)
    said = made.outside(python)
    for name in said:
        made.check(said, name)
        assert made.inside_together(name) == made.inside(name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_near_those_of_the_files(job, wide, kind):
    plain, held = (load_learner(job(one, wide), 2).network for one in (None, kind))
    layers = [
        dict(network.backbone.named_modules())[name].get_base_layer()
        for network in (plain, held)
        for name in ["base_model.model.encoder.layer.0.intermediate.dense"]
    ]
    exact, found = map(weight_of, layers)
    far = (found - exact).norm() / exact.norm()
    assert 0 < far < {"nf4": 0.12, "int8": 0.01}[kind]
    assert sum(map(numbers_of, held.parameters())) == sum(map(numbers_of, plain.parameters()))


def test_what_cannot_be_quantised_is_refused(job):
    with pytest.raises(JobError, match='model.quantization = "nf4" holds the base model frozen'):
        job("nf4", model={"adapter": "full"})
    with pytest.raises(JobError, match='model.pooling = "mean"'):
        job("int8", model={"pooling": "own"})
    with pytest.raises(JobError, match="'nf4' or 'int8'"):
        job("int4")


def test_an_owner_may_demand_it(job):
    policy = Policy(jobs=JobRules(quantization=["nf4"]))
    said = '"nf4" (jobs.quantization), but the job has'
    assert [r for r in policy.reasons(job(None)) if f'{said} "none"' in r]
    assert [r for r in policy.reasons(job("int8")) if f'{said} "int8"' in r]
    assert not [r for r in policy.reasons(job("nf4")) if "quantization" in r]


def test_a_job_without_it_keeps_its_digest(job):
    assert "quantization" not in job(None).to_json()
    assert "nf4" in job("nf4").to_json()


@pytest.mark.skipif(bool(find_spec("bitsandbytes")), reason="the extra is installed")
def test_without_the_extra_the_message_names_it(job):
    with pytest.raises(ModelError, match=r"needs the extra: pip install 'umbel\[quantized\]'"):
        load_learner(job("nf4"), 2)


@pytest.mark.slow
def test_nothing_is_fetched_with_the_package_kernels(tmp_path):
    """bitsandbytes would load code from the model hub with it, if it is installed."""
    (tmp_path / "kernels.py").write_text(
        "def get_kernel(*named, **options):\n    print('fetched')\n    raise ImportError\n"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", f"{first}import peft, bitsandbytes"],
            env={"PYTHONPATH": str(tmp_path), "PATH": ""},
            capture_output=True, text=True, timeout=600, check=True,
        ).stdout
        for first in ("import umbel.learning; ", "")
    ]  # fmt: skip
    assert not found[0]
    assert bool(found[1]) == packs_weights()
