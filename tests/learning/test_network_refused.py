"""Bases, weights, tokenizers and devices that a network cannot be made of."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from umbel.errors import ModelError
from umbel.learning.device import choose_device
from umbel.learning.loading import load_learner

from .networks import network_job, with_size


@pytest.mark.parametrize(("pooling", "adapter"), [("mean", "head"), (None, "lora")])
def test_a_base_that_lacks_weights_for_the_task_is_refused(
    pooling, adapter, job_of, tmp_path, tiny
):
    """transformers would fill the gap with random numbers and go on."""
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(tiny("bert" if pooling else "llama"), tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    dropped = next(name for name in weights if "layers.1." in name or "layer.1." in name)
    del weights[dropped]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"has no weights for .*layers?\.1\."):
        load_learner(network_job(job_of, str(folder), pooling, adapter), 2)


def test_adapter_targets_that_fit_nothing_are_refused(job_of):
    job = job_of(
        "bert",
        model={**with_size(job_of, "bert", {"adapter": "lora"}), "lora": {"target": ["nowhere"]}},
    )
    with pytest.raises(ModelError, match=r"model\.lora\.target matches no module"):
        load_learner(job, 2)


def test_a_base_of_the_wrong_kind_is_refused_in_one_sentence(job_of, tmp_path, tiny):
    folder = Path(shutil.copytree(tiny("bert"), tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "no-such-model"}))
    with pytest.raises(ModelError, match="does not load for text-classification"):
        load_learner(job_of(str(folder)), 2)


def test_weights_cut_in_half_are_refused_in_one_sentence(job_of, tmp_path, tiny):
    folder = Path(shutil.copytree(tiny("bert"), tmp_path / "model"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(ModelError, match="is cut off: .* Download it again"):
        load_learner(job_of(str(folder)), 2)


def test_a_base_without_a_tokenizer_is_refused_in_one_sentence(job_of, tmp_path, tiny):
    folder = Path(shutil.copytree(tiny("bert"), tmp_path / "model"))
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(ModelError, match="no usable tokenizer"):
        load_learner(job_of(str(folder)), 2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ModelError, match="no CUDA device"):
        choose_device("cuda")
