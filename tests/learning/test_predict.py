"""Texts that a language model goes on with: as it was trained and tested, padded if it was."""

import shutil

import numpy as np
import pytest
import torch

from umbel.learning.loading import load_learner
from umbel.learning.predict import Predictor
from umbel.learning.probing.probe import probe
from umbel.learning.tasks import task_for

NEW = 10


@pytest.fixture(scope="module")
def stretching(tiny, texts, tmp_path_factory):
    """A decoder whose rotary positions follow the length of the batch (dynamic NTK)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models") / "stretching"
    shutil.copytree(tiny("llama"), folder)
    config = LlamaConfig.from_pretrained(folder)
    config.max_position_embeddings, config.initializer_range = 8, 0.3
    config.rope_parameters = {"rope_type": "dynamic", "factor": 32.0, "rope_theta": 10000.0}
    torch.manual_seed(3)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight *= 20  # so that it looks at places, and closely
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def learner(job_of):
    def load(base, padding):
        model = {"base": base, "max_length": 40, "padding": padding, "lora": {"rank": 2}}
        return load_learner(job_of(task="causal-lm", model=model, data={"labels": None}), 0)

    return load


def continued(learner, texts):
    return [found.continuation for found in Predictor(learner, []).predict(texts, NEW)]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_padding_changes_no_continuation_of_a_model_that_ignores_it(kind, learner, tiny, texts):
    prompts = [text[:20] for text in texts[::40]]
    usual = continued(learner(tiny(kind), "longest"), prompts)
    assert continued(learner(tiny(kind), "max_length"), prompts) == usual
    assert len(set(usual)) > 1


def test_a_model_whose_padding_matters_goes_on_as_it_was_trained(learner, stretching, texts):
    tried = learner(stretching, "longest")
    assert probe(tried, task_for(tried.job, 0)).padding == "max_length"
    # Fresh ones: it stays as long as the longest text that it has read.
    padded, plain = learner(stretching, "max_length"), learner(stretching, "longest")
    prompts = [text[:20] for text in texts[::10]]
    found = continued(padded, prompts)
    # Otherwise this would show nothing: unpadded, the model says something else.
    assert found != continued(plain, prompts)
    for prompt, continuation in zip(prompts, found, strict=True):
        said = first_word(padded, prompt)
        assert continuation.startswith(padded.tokenizer.decode([said], skip_special_tokens=True))


@torch.no_grad()
def first_word(learner, prompt):
    """The likeliest next token by the logits that training and tests take their losses from."""
    tokens = learner.tokenizer(prompt)["input_ids"]
    logits = learner.network.eval()(learner.batch_of([np.asarray(tokens)]))[0, len(tokens) - 1]
    for token in set(tokens):
        logits[token] = logits[token] / 1.2 if logits[token] > 0 else logits[token] * 1.2
    return int(logits.argmax())


def test_a_text_longer_than_the_model_reads_still_gets_its_continuation(learner, stretching, texts):
    (found,) = Predictor(learner(stretching, "max_length"), []).predict([" ".join(texts[:9])], NEW)
    assert found.continuation


def test_a_prompt_that_holds_half_a_character_gets_no_answer(learner, tiny):
    (found,) = Predictor(learner(tiny("gpt2"), "longest"), []).predict(["a\ud800"], NEW)
    assert not found.said


@pytest.mark.parametrize("padding", ["longest", "max_length"])
def test_a_prompt_is_read_as_texts_are_and_goes_on_where_it_ends(padding, learner, tiny, texts):
    first, second = texts[0].split()[:2]
    ways = [f"{first}\n{second}", f"{first}\r\n{second}", f" \u00a0{first}\r{second}"]
    assert len(set(continued(learner(tiny("gpt2"), padding), ways))) == 1
