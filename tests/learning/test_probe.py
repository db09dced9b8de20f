"""The probe: which networks it lets through, which it has padded, and which it refuses, and why."""

import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import umbel
from umbel import strategies
from umbel.errors import ModelError, PlanRefused
from umbel.learning import loading
from umbel.learning.invented import invented_texts
from umbel.learning.loading import load_learner
from umbel.learning.model import arrays_digest
from umbel.learning.probing import probe as probing
from umbel.learning.probing.lookups import CheckedLookups
from umbel.learning.probing.probe import fitted, probe, probed, shape_known
from umbel.learning.probing.verdict import INDEPENDENT, Verdict
from umbel.learning.tasks import task_for
from umbel.planning.padding import padding_refusals, padding_warnings
from umbel.privacy.dpsgd import optimizer
from umbel.simulations import engine
from umbel.simulations.engine import plan_job


@pytest.fixture
def learner(job_of):
    """A fresh one each time: tests put things into it."""

    def load(base="bert", adapter="lora", **sections):
        job = job_of(base, model=_model(job_of, base, adapter), **sections)
        return load_learner(job, 0 if job.task == "causal-lm" else 2)

    return load


def _model(job_of, base, adapter):
    return {**job_of(base).model.model_dump(exclude={"adapter"}), "adapter": adapter}


def _probe(learner):
    job = learner.job
    return probe(learner, task_for(job, 0 if job.task == "causal-lm" else 2))


class _Spoilt(nn.Module):
    """A layer whose output something is done to."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.register_buffer("seen", torch.zeros(()))
        self.longest = 0

    def forward(self, x):
        return self.spoil(self.layer(x))


class _DropsLayers(_Spoilt):
    """As layer drop: whole layers are left out at random in training, by numbers of Python's own."""

    def spoil(self, y):
        return y * 0 if self.training and random.random() < 0.3 else y


class _DrawsAndIgnores(_Spoilt):
    """As layer drop with probability 0."""

    def spoil(self, y):
        torch.rand(())
        return y


class _Jitters(_Spoilt):
    """As the noise of a router."""

    def spoil(self, y):
        return y * (1 + 0.01 * torch.randn(1)) if self.training else y


class _Remembers(_Spoilt):
    """As running statistics: what one call leaves behind, the next one reads."""

    def spoil(self, y):
        self.seen = self.seen * 0.9 + y.detach().mean() * 0.1
        return y + 0.0 * self.seen


class _StretchesForGood(_Spoilt):
    """As dynamic rotary positions that never shrink again: a long text changes those after it."""

    def spoil(self, y):
        self.longest = max(self.longest, y.shape[1])
        return y * (1 + 0.01 * max(0, self.longest - 20))


class _StretchesWithTheBatch(_Spoilt):
    """As dynamic rotary positions: the longest text of the batch sets the scale of all."""

    def spoil(self, y):
        return y * (1 + 0.01 * y.shape[1])


class _RoundsByTheBatch(_Spoilt):
    """As int8 with outlier columns: the largest number of the batch sets everybody's steps."""

    def spoil(self, y):
        step = y.detach().abs().amax() / 7
        return y + (torch.round(y / step) * step - y).detach()


class _HasRoomForFew(_Spoilt):
    """As experts with a capacity: who comes after so many tokens is left out."""

    def spoil(self, y):
        kept = torch.arange(y.shape[0] * y.shape[1], device=y.device) < 20
        return y * kept.view(y.shape[0], y.shape[1], 1)


class _MixesRows(_Spoilt):
    """Attention over the wrong axis: texts at the same place see each other."""

    def spoil(self, y):
        return y + 0.1 * y.mean(0, keepdim=True)


def _spoil(learner, kind):
    """Around the second layer's output, behind which the mean head reads."""
    output = learner.network.backbone.get_base_model().encoder.layer[1].output
    output.dense = kind(output.dense)
    return learner


REFUSED = [_DropsLayers, _Jitters, _RoundsByTheBatch, _HasRoomForFew, _MixesRows, _Remembers]


@pytest.mark.parametrize("kind", REFUSED)
def test_neighbours_chance_and_memory_are_refused_however_padded(kind, learner):
    found = _probe(_spoil(learner(), kind))
    assert found.padding is None
    assert found.reason


@pytest.mark.parametrize("kind", [_StretchesWithTheBatch, _StretchesForGood])
def test_what_only_the_length_of_a_batch_changes_is_padded(kind, learner):
    found = _probe(_spoil(learner(), kind))
    assert found.padding == "max_length"
    assert "24 tokens" in found.reason


def test_random_numbers_that_are_drawn_and_ignored_do_no_harm(learner):
    assert _probe(_spoil(learner(), _DrawsAndIgnores)) == INDEPENDENT


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("base", "adapter"), [("bert", "head"), ("bert", "lora"), ("bert", "full"), ("gpt2", "full")]
)
def test_a_sound_model_passes_and_is_left_as_it_was(base, adapter, precision, learner):
    sound = learner(base, adapter, training={"precision": precision})
    before = arrays_digest(sound.network.arrays())
    state = torch.get_rng_state()
    assert _probe(sound) == INDEPENDENT
    assert arrays_digest(sound.network.arrays()) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert not sound.network.training
    assert all(p.grad is None for p in sound.network.parameters())
    assert sound.network.autocast == (precision == "bfloat16")


def test_a_gradient_of_zero_proves_nothing(learner):
    """Every network would pass: nothing differs between one zero and another."""
    frozen = learner(adapter="lora")

    class Cut(nn.Module):
        def forward(self, x):
            return x * 0.0

    frozen.network.mean_head = nn.Sequential(Cut(), frozen.network.mean_head)
    frozen = replace(frozen, initial=frozen.network.arrays())
    for name, parameter in frozen.network.named_parameters():
        if name.startswith("mean_head"):
            parameter.requires_grad_(False)
    frozen.network.__dict__.pop("_trained", None)
    frozen = replace(frozen, initial=frozen.network.arrays())
    with pytest.raises(ModelError, match="zero"):
        _probe(frozen)


def test_outputs_that_are_not_finite_are_refused(learner):
    broken = learner()
    with torch.no_grad():
        layer = broken.network.backbone.get_base_model().encoder.layer[0]
        layer.output.dense.base_layer.bias[0] = float("inf")
    with pytest.raises(ModelError, match="not finite"):
        _probe(broken)


def test_a_verdict_is_remembered_for_the_same_model_and_settings_alone(
    job_of, learner_of, monkeypatch
):
    job = job_of("bert", model=_model(job_of, "bert", "lora"), training={"microbatch": 5})
    assert fitted(job) == job
    asked = []

    def count(*arguments):
        asked.append(1)
        return INDEPENDENT

    monkeypatch.setattr(probing, "probe", count)
    probed(load_learner(job, 2))
    assert not asked
    for changed in (
        {"training": {"microbatch": 4}},
        {"training": {"microbatch": 5, "precision": "bfloat16"}},
        {"training": {"microbatch": 5}, "privacy": {"unit": "none"}},
    ):
        probed(load_learner(job_of("bert", model=_model(job_of, "bert", "lora"), **changed), 2))
    assert len(asked) == 3


def test_a_verdict_is_of_the_code_that_loads_probes_and_takes_gradients():
    root = Path(umbel.__file__).parent
    found = {file.relative_to(root).as_posix() for file in probing._own_files()}
    for module in (probing, loading, optimizer, strategies):
        assert Path(module.__file__).relative_to(root).as_posix() in found


def test_a_plan_from_what_is_known_of_a_model_equals_the_one_that_loaded_it(job_of, monkeypatch):
    job = job_of("bert", model=_model(job_of, "bert", "lora"), training={"microbatch": 3})
    loaded, _ = plan_job(job)
    monkeypatch.setattr(engine, "start_workers", None)  # nothing is loaded any more
    known, _ = plan_job(job)
    assert known == loaded


def test_what_is_known_of_a_model_ends_where_a_file_of_it_changes(job_of, tiny, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny("bert"), folder)
    job = job_of(str(folder), model={"base": str(folder), "max_length": 32})
    plan_job(job)
    assert shape_known(job) is not None
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert shape_known(job) is None


def test_a_plan_pads_what_must_be_padded_and_says_what_it_costs(
    architectures, job_of, tmp_path, umbel
):
    architectures.build(
        "text-classification", "fnet", tmp_path / "fnet", architectures.word_tokenizer()
    )
    plan, federation = plan_job(job_of(str(tmp_path / "fnet")))
    assert plan.job.model.padding == "max_length"
    assert plan.to_dict()["padding"] == "max_length"
    (warning,) = [text for text in plan.warnings if "model.padding" in text]
    assert "times the tokens" in warning
    assert federation.padding_cost() > 1


def test_a_plan_refuses_what_no_padding_mends_under_privacy_and_warns_without(job_of):
    verdict = Verdict(None, "the output of a text changes beside others")
    private = job_of("bert")
    assert "influence each other" in padding_refusals(private, verdict)[0]
    assert not padding_warnings(private, verdict)
    for unit in ("none", "client"):
        job = job_of("bert", privacy={"unit": unit})
        assert not padding_refusals(job, verdict)
        assert "influence each other" in padding_warnings(job, verdict)[0]
    assert padding_refusals(private, None)
    padded = Verdict("max_length", "the output of a text changes beside a text of 24 tokens")
    assert "model.padding" in padding_refusals(private, padded)[0]
    assert not padding_refusals(private.padded(), padded)


@pytest.mark.parametrize("ids", [[0, 10], [-1, 3]])
def test_a_lookup_beyond_a_table_is_noticed_before_it_is_made(ids):
    table = nn.Embedding(10, 2)
    with CheckedLookups(), pytest.raises(IndexError, match="a table of 10 rows"):
        table(torch.tensor(ids))
    with CheckedLookups():
        table(torch.tensor([0, 9]))


def test_invented_texts_are_framed_as_the_tokenizer_frames_texts(learner):
    tokenizer = learner().tokenizer
    texts = invented_texts(tokenizer, [9, 4, 3])
    assert [len(text) for text in texts] == [9, 4, 3]
    real = tokenizer("a")["input_ids"]
    for text in texts:
        assert (text[0], text[-1]) == (real[0], real[-1])
        assert not set(text[1:-1]) & set(tokenizer.all_special_ids)
    assert all(map(np.array_equal, texts, invented_texts(tokenizer, [9, 4, 3])))


def test_a_job_whose_texts_are_too_long_is_refused_by_its_plan(job_of):
    model = {**_model(job_of, "bert", "lora"), "max_length": 90}
    with pytest.raises((ModelError, PlanRefused), match="has room for 72 tokens"):
        plan_job(job_of("bert", model=model))
