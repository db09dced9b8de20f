"""What does not load, or cannot do what the job asks, is one sentence that says what to do."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from umbel.errors import ModelError
from umbel.job import Job
from umbel.learning.hugging_face import one_sentence
from umbel.learning.loading import load_learner
from umbel.learning.probing.probe import probed
from umbel.learning.steps import PrivateSteps
from umbel.learning.tasks import task_for
from umbel.learning.tokenizer import load_tokenizer
from umbel.learning.trainer import StepRange, train

SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}


@pytest.fixture(scope="module")
def words(architectures):
    return architectures.word_tokenizer()


@pytest.fixture(scope="module")
def save(tmp_path_factory, words):
    """Save a model of random weights with a tokenizer; its folder."""

    def write(model, tokenizer=words):
        folder = tmp_path_factory.mktemp("model")
        model.eval().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return write


@pytest.fixture(scope="module")
def bert(save, architectures):
    import transformers as t

    torch.manual_seed(0)
    return save(t.BertModel(t.BertConfig(vocab_size=architectures.VOCABULARY, **SIZE)))


@pytest.fixture
def copied(bert, tmp_path):
    return Path(shutil.copytree(bert, tmp_path / "model"))


def _job(folder, adapter="head", labels=("a", "b"), task="text-classification", **model):
    return Job.build(
        {
            "task": task,
            "model": {"base": str(folder), "adapter": adapter, "max_length": 12, **model},
            "data": {"path": "-", "labels": list(labels) if task != "causal-lm" else None},
            "training": {"device": "cpu"},
        }
    )


def _load(folder, *arguments, **named):
    job = _job(folder, *arguments, **named)
    return probed(load_learner(job, len(job.data.labels or ())))


def _edit(folder, file="config.json", **values):
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def _quantised(folder, method):
    _edit(folder, quantization_config={"quant_method": method, "bits": 4, "load_in_4bit": True})


def _not_numbers(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _cut(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "sizes as strings": (lambda f: _edit(f, hidden_size="32"), "hidden_size"),
    "an unknown activation": (lambda f: _edit(f, hidden_act="nosuch"), "nosuch"),
    "a padding token of the configuration beyond the vocabulary": (
        lambda f: _edit(f, pad_token_id=5000),
        "adding",
    ),
    "a tokenizer that was cut": (lambda f: _cut(f, "tokenizer.json"), "no usable tokenizer"),
    "a configuration that was cut": (lambda f: _cut(f, "config.json"), "cannot be read"),
    "a configuration that is a list": (
        lambda f: (f / "config.json").write_text("[1]"),
        "does not load",
    ),
    "weights that are not numbers": (_not_numbers, "NaN"),
    "GPTQ": (lambda f: _quantised(f, "gptq"), "is quantised already"),
    "bitsandbytes": (lambda f: _quantised(f, "bitsandbytes"), "is quantised already"),
    "other sizes than its weights have": (
        lambda f: _edit(f, vocab_size=7),
        "the sizes of its weights differ from its config.json",
    ),
    "ten million layers": (lambda f: _edit(f, num_hidden_layers=10_000_000), "10,000,000"),
    "a kind that is no word": (
        lambda f: _edit(f, model_type=["bert"]),
        "may be damaged, or made for another version",
    ),
    "code of its own": (
        lambda f: _edit(f, model_type="none", auto_map={"AutoConfig": "x.Y", "AutoModel": "x.Z"}),
        "does not load",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_what_does_not_load_is_one_sentence(what, copied):
    damage, words = DAMAGE[what]
    damage(copied)
    with pytest.raises(ModelError, match=words) as caught:
        _load(copied)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


class _Odd(BaseException):
    pass


@pytest.mark.parametrize("error", [Exception("x"), AssertionError(), StopIteration(), KeyError(1)])
def test_any_exception_of_a_library_becomes_one_sentence(error):
    """tokenizers raises bare exceptions, and others whatever Python gave them."""
    with pytest.raises(ModelError, match="it does not load: "), one_sentence("it does not load"):
        raise error


def test_what_stops_the_process_is_not_taken_for_a_failure_to_load():
    with pytest.raises(_Odd), one_sentence("it does not load"):
        raise _Odd


@pytest.mark.parametrize("adapter", ["head", "lora"])
@pytest.mark.parametrize("pad", [0, 1])
def test_texts_longer_than_the_positions_are_refused_with_the_length_that_fits(
    pad, adapter, save, architectures
):
    """RoBERTa counts positions from behind its padding number, so it has fewer than its size says."""
    import transformers as t

    sizes = {"vocab_size": architectures.VOCABULARY, "pad_token_id": pad, **SIZE}
    folder = save(t.RobertaModel(t.RobertaConfig(**sizes)))
    fits = SIZE["max_position_embeddings"] - 1 - pad
    with pytest.raises(ModelError) as caught:
        _load(folder, adapter, max_length=60)
    assert f"has room for {fits} tokens" in str(caught.value)


def test_a_head_for_other_labels_is_refused(save, architectures):
    import transformers as t

    config = t.BertConfig(vocab_size=architectures.VOCABULARY, num_labels=3, **SIZE)
    folder = save(t.BertForSequenceClassification(config))
    with pytest.raises(ModelError, match="for 3 labels, but the job names 2"):
        _load(folder, pooling="own")
    _load(folder, pooling="own", labels=("a", "b", "c"))


def _word_level(folder, known, **special):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {
        word: n for n, word in enumerate(["[PAD]", "[UNK]", *(f"w{n}" for n in range(60))])
    }
    unknown = {"unk_token": "[UNK]"} if known else {}
    made = Tokenizer(models.WordLevel(vocabulary, **unknown))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    for old in folder.glob("*token*"):
        old.unlink()
    PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(folder)


def test_a_tokenizer_without_a_token_to_pad_with_is_refused(copied):
    _word_level(copied, True)
    with pytest.raises(ModelError, match="no padding, end or unknown token"):
        _load(copied)


def test_a_tokenizer_that_cannot_read_unknown_words_is_refused_without_a_record(copied):
    _word_level(copied, False, pad_token="[PAD]")
    with pytest.raises(ModelError, match="no token for unknown words"):
        load_tokenizer(copied)
    _word_level(copied, True, pad_token="[PAD]")
    load_tokenizer(copied)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(copied, architectures):
    tokenizer = architectures.word_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[NEW]"})
    tokenizer.save_pretrained(copied)
    with pytest.raises(ModelError, match="do not belong together"):
        _load(copied)


def test_a_model_that_sees_later_tokens_is_no_language_model(save, architectures):
    import transformers as t

    folder = save(t.BertForMaskedLM(t.BertConfig(vocab_size=architectures.VOCABULARY, **SIZE)))
    for unit in ("example", "none"):
        job = _job(folder, "lora", task="causal-lm")
        job = job.model_copy(update={"privacy": job.privacy.model_copy(update={"unit": unit})})
        with pytest.raises(ModelError, match="not a causal language model"):
            probed(load_learner(job, 0))


def _trains(learner):
    """One private step on texts of its own tokenizer moves what is trained."""
    from umbel.learning.examples import Examples, tokenise
    from umbel.learning.features import with_features

    texts = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w1 w2", "w3 w3"]
    store = tokenise(texts, np.array([0, 1, 0, 1]), learner.tokenizer, 12)
    steps = PrivateSteps(1.0, 4.0, 0.0, 1.0, key=bytes(32))
    examples = with_features(learner, Examples(store, np.arange(4)))
    task = task_for(learner.job, 2)
    found = train(
        learner, task, learner.initial, examples, StepRange(0, 1, 1), seed=0, who="a", private=steps
    )
    return any(array.any() for array in found.update.values())


def _encoder_decoders(vocabulary):
    import transformers as t

    t5 = {"vocab_size": vocabulary, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2}
    bart = {
        "vocab_size": vocabulary,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "max_position_embeddings": 40,
    }
    special = {"pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 3}
    return {
        "t5": lambda: t.T5ForConditionalGeneration(t.T5Config(num_heads=2, **t5, **special)),
        "bart": lambda: t.BartModel(t.BartConfig(bos_token_id=2, **bart, **special)),
    }


@pytest.mark.pairs
@pytest.mark.parametrize("pooling", ["mean", "layers", "own"])
@pytest.mark.parametrize("adapter", ["head", "lora"])
@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_encoder_decoders_are_tuned_by_their_encoder_or_by_their_own_head(
    kind, adapter, pooling, save, architectures
):
    torch.manual_seed(1)
    folder = save(_encoder_decoders(architectures.VOCABULARY)[kind]())
    assert _trains(_load(folder, adapter, pooling=pooling))


def test_the_code_of_an_exported_encoder_gives_the_same_logits(save, architectures, tmp_path):
    """A BART's encoder has no class of its own to load it with."""
    from umbel.learning.export import export_adapter

    torch.manual_seed(1)
    folder = save(_encoder_decoders(architectures.VOCABULARY)["bart"]())
    learner = _load(folder, "lora")
    generator = np.random.default_rng(0)
    arrays = {n: generator.normal(0, 0.1, a.shape).astype("f4") for n, a in learner.initial.items()}
    export_adapter(learner, arrays, tmp_path / "adapter")
    text = (tmp_path / "adapter" / "README.md").read_text()
    code = (
        text.split("```python")[1].split("```")[0].replace("'adapter'", repr(f"{tmp_path}/adapter"))
    )
    names: dict = {}
    exec(code, names)
    (found,) = names["answer"](["w1 w2 w3"])
    tokens = np.asarray(learner.tokenizer("w1 w2 w3")["input_ids"])
    with torch.no_grad():
        expected = learner.network.eval()(learner.batch_of([tokens])).softmax(-1)[0].tolist()
    assert list(found.values()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("adapter", ["head", "lora"])
def test_a_configuration_in_parts_is_read_for_its_text(adapter, architectures, words, tmp_path):
    architectures.build("text-classification", "gemma3", tmp_path / "model", words)
    assert _trains(_load(tmp_path / "model", adapter))


@pytest.mark.parametrize(
    ("kind", "adapters"),
    [("OPT", ["head"]), ("SqueezeBert", ["head"]), ("LayoutLM", ["head", "lora"])],
)
def test_widths_and_poolers_are_found_out_by_trying(kind, adapters, save, architectures):
    """OPT projects its states to another width; the others call a pooler that we have no use for."""
    import transformers as t

    special = {
        "OPT": {"word_embed_proj_dim": 16, "ffn_dim": 64},
        "SqueezeBert": {"embedding_size": 32},
        "LayoutLM": {},
    }[kind]
    sizes = {"vocab_size": architectures.VOCABULARY, "pad_token_id": 0, **SIZE, **special}
    model = getattr(t, f"{kind}Model")(getattr(t, f"{kind}Config")(**sizes))
    folder = save(model)
    for adapter in adapters:
        assert _trains(_load(folder, adapter))


def test_tokenizers_without_a_fast_backend_are_used(save):
    import transformers as t

    config = t.T5Config(vocab_size=384, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2)
    assert _trains(_load(save(t.T5ForConditionalGeneration(config), t.ByT5Tokenizer()), "lora"))


@pytest.mark.slow
def test_a_model_that_cannot_read_a_short_text_alone_gets_it_padded(save):
    """CANINE reads characters in groups, and fails on a text of fewer."""
    import transformers as t

    config = t.CanineConfig(
        num_hash_buckets=64,
        num_hash_functions=2,
        **{**SIZE, "max_position_embeddings": 128},
    )
    folder = save(t.CanineModel(config), t.CanineTokenizer())
    learner = _load(folder, "head", max_length=32)
    assert learner.verdict.padding == "max_length"
