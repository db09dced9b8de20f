"""The exported folder, opened by the code that its own README gives, without Umbel."""

import json
import os
import re
import stat

import numpy as np
import pytest
import torch

from umbel.errors import ModelError
from umbel.learning.export import export_adapter
from umbel.learning.predict import Predictor
from umbel.learning.reading.names import clean_text

KINDS = [
    ("bert", "mean", "head"),
    ("bert", "mean", "lora"),
    ("bert", "mean", "full"),
    ("bert", "layers", "head"),
    ("bert", "layers", "lora"),
    ("bert", "layers", "full"),
    ("roberta", "layers", "head"),
    ("llama", "layers", "lora"),
    ("gpt2", "layers", "head"),
    ("bert", "own", "head"),
    ("bert", "own", "lora"),
    ("bert", "own", "full"),
    ("bert-without-pooler", "own", "head"),
    ("bert-without-pooler", "own", "lora"),
    ("roberta", "own", "head"),
    ("roberta", "own", "lora"),
    ("llama", "own", "lora"),
    ("llama", None, "lora"),
    ("llama", None, "full"),
    ("gpt2", None, "lora"),
    ("bert", "mean", "lora", "fed-sb"),
    ("gpt2", None, "lora", "fed-sb"),
    ("bert", "own", "lora", "ffa-lora"),
    ("bert", "mean", "lora", "fedsa-lora"),
    ("bert", "own", "lora", "local-head"),
    ("bert", "own", "lora", "flora"),
    ("gpt2", None, "lora", "fedex-lora"),
]


def _job(job_of, base, pooling, adapter, strategy="fedavg"):
    model = {
        **job_of(base).model.model_dump(exclude={"lora"}),
        "lora": {"rank": 2},
        "adapter": adapter,
        "max_length": 64,
        **({"pooling": pooling} if pooling else {}),
    }
    task = "text-classification" if pooling else "causal-lm"
    return job_of(base, task=task, model=model, strategy={"name": strategy})


def _trained(learner):
    """Arrays as training might leave them: all have moved, personal ones among them."""
    generator = np.random.default_rng(0)
    return {
        name: array + generator.normal(scale=0.2, size=array.shape).astype(np.float32)
        for name, array in {**learner.initial, **learner.personal}.items()
    }


def _python_of(readme):
    return re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1]


def _logits(learner, text):
    inputs = learner.tokenizer([text], return_tensors="pt")
    learner.network.eval()
    with torch.no_grad():
        return learner.network({n: inputs[n] for n in ("input_ids", "attention_mask")})[0].numpy()


@pytest.fixture
def exported(job_of, learner_of, tmp_path):
    def export(kind):
        learner = learner_of(_job(job_of, *kind))
        export_adapter(learner, _trained(learner), tmp_path / "adapter")
        return learner, tmp_path / "adapter"

    return export


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_readmes_code_gives_umbels_logits(kind, exported, texts, monkeypatch):
    """Executed here, word for word, in the folder above, as its paths are written."""
    learner, folder = exported(kind)
    code = _python_of((folder / "README.md").read_text())
    monkeypatch.chdir(folder.parent)
    scope = {}
    exec(code, scope)
    for text in ("a", " a\r\nb\t", "e\u0301\r", "\u00a0", ""):
        assert scope["read"](text) == clean_text(text, goes_on="answer" not in scope)
    for text in texts[:3]:
        expected = torch.tensor(_logits(learner, text))
        if "answer" in scope:
            (found,) = scope["answer"]([text])
            expected = expected.softmax(-1).tolist()
            assert list(found.values()) == pytest.approx(expected, abs=1e-5)
            continue
        inputs = scope["tokenizer"]([text], return_tensors="pt")
        with torch.no_grad():
            logits = scope["model"](
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
            ).logits
        assert logits[0].numpy() == pytest.approx(expected.numpy(), abs=1e-4)


@pytest.mark.parametrize("kind", [("bert", "own", "lora"), ("bert", "own", "full")], ids=str)
def test_the_readmes_code_says_where_its_folder_is_missing(kind, exported, tmp_path, monkeypatch):
    _, folder = exported(kind)
    code = _python_of((folder / "README.md").read_text())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(SystemExit, match=r"no folder .*elsewhere/adapter: say where it is"):
        exec(code, {})


@pytest.mark.parametrize(
    "kind",
    [
        ("bert", "mean", "lora"),
        ("bert", "mean", "lora", "fed-sb"),
        ("bert", "mean", "lora", "flora"),
        ("bert", "layers", "head"),
        ("llama", "layers", "full"),
        ("bert", "own", "full"),
        ("roberta", "own", "head"),
    ],
    ids=str,
)
def test_a_prediction_is_that_of_the_exported_model(kind, exported, texts):
    learner, folder = exported(kind)
    expected = [torch.tensor(_logits(learner, text)).softmax(-1).tolist() for text in texts[:4]]
    found = list(Predictor.load(folder, "cpu").predict(texts[:4]))
    for prediction, chances in zip(found, expected, strict=True):
        assert prediction.probabilities["negative"] == pytest.approx(chances[0], abs=1e-4)
        assert prediction.probabilities["positive"] == pytest.approx(chances[1], abs=1e-4)


def test_a_prediction_reads_as_much_of_a_text_as_training_does(exported, texts):
    _, folder = exported(("bert", "mean", "lora"))
    # Blanks are no tokens: without the cut, what comes after them would decide.
    long = [texts[0].split()[0] + " " * 4096 + end for end in texts[:2]]
    found = Predictor.load(folder, "cpu").predict([*long, texts[0]])
    one, other, text = (prediction.probabilities for prediction in found)
    assert one == other
    assert text != one


def test_one_text_has_one_answer_however_it_was_written_down(exported, texts):
    _, folder = exported(("bert", "mean", "lora"))
    word = "cafe\u0301"
    first, second = texts[0].split()[:2]
    ways = [
        f"{first}\n{word} {second}",
        f"{first}\r\n{word} {second}",
        f"  \u00a0{first}\rcaf\u00e9 {second}",
    ]
    ways.append(f"\t{ways[0]} \r\n")
    found = list(Predictor.load(folder, "cpu").predict(ways))
    assert len({str(one.probabilities) for one in found}) == 1
    assert [one.text for one in found] == ways


def test_an_adapter_folder_holds_the_adapter_and_not_the_base(exported):
    _, folder = exported(("bert", "mean", "lora"))
    names = {path.name for path in folder.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "head.safetensors"} <= names
    assert "model.safetensors" not in names
    sizes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert sizes < 20_000


def test_the_card_names_what_it_takes_to_build_the_model_again(exported, tiny):
    learner, folder = exported(("bert", "own", "lora"))
    card = json.loads((folder / "umbel.json").read_text())
    assert card["labels"] == ["negative", "positive"]
    assert card["base"] == tiny("bert")
    assert card["base_sha256"] == learner.shape().base_digest
    assert card["model"]["lora"]["rank"] == 2


def test_a_full_classifier_names_its_labels_to_transformers(exported):
    from transformers import AutoModelForSequenceClassification

    _, folder = exported(("bert", "own", "full"))
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.id2label == {0: "negative", 1: "positive"}


def test_nothing_is_left_of_an_export_that_failed(exported, job_of, learner_of, tmp_path):
    learner = learner_of(_job(job_of, "bert", "own", "lora"))
    missing = dict(list(learner.initial.items())[1:])
    with pytest.raises(KeyError):
        export_adapter(learner, missing, tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


def test_a_moved_base_is_exported_as_one_adapter_of_the_rank_that_it_has(exported):
    learner, folder = exported(("bert", "own", "lora", "flora"))
    config = json.loads((folder / "adapter_config.json").read_text())
    card = json.loads((folder / "umbel.json").read_text())
    assert config["r"] == card["model"]["lora"]["rank"] == 2 + 16
    assert config["lora_alpha"] / config["r"] == 16 / 2  # as the job says it of rank 2
    assert learner.network.backbone.peft_config["default"].r == 2


def test_a_base_that_did_not_move_adds_no_rank(job_of, learner_of, tmp_path):
    learner = learner_of(_job(job_of, "bert", "mean", "lora", "fedex-lora"))
    export_adapter(learner, learner.initial, tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 2


def test_a_private_adapter_is_its_owners_alone_whatever_the_umask(job_of, learner_of, tmp_path):
    learner = learner_of(_job(job_of, "bert", "mean", "lora", "fedavg"))
    before = os.umask(0)
    try:
        export_adapter(learner, learner.initial, tmp_path / "adapter", private=True)
    finally:
        os.umask(before)
    paths = [tmp_path / "adapter", *(tmp_path / "adapter").rglob("*")]
    modes = {stat.S_IMODE(path.stat().st_mode) for path in paths}
    assert modes == {0o700, 0o600}


def test_a_layer_that_is_not_linear_has_no_residual(job_of, learner_of):
    job = _job(job_of, "bert", "mean", "lora", "flora")
    lora = job.model.lora.model_copy(update={"target": ["word_embeddings"]})
    job = job.model_copy(update={"model": job.model.model_copy(update={"lora": lora})})
    with pytest.raises(ModelError, match=r"word_embeddings is not a linear layer.*lora\.target"):
        learner_of(job)
