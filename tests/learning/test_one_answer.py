"""One text, one answer: from Umbel alone, in company, and from the code of the model's card without Umbel."""

import itertools
import json

import numpy as np
import pytest
import torch

from umbel.learning.examples import Examples, tokenise
from umbel.learning.features import with_features
from umbel.learning.loading import load_learner
from umbel.learning.predict import Predictor
from umbel.learning.reading.names import clean_text
from umbel.simulations.engine import Options, simulate
from umbel.strategies import OURS, ours

CLOSE = 1e-5

# In 24 tokens there is no room for a dialogue.
CHAT = {"task": "chat", "model": {"max_length": 60}}
PLAIN_CHAT = {"task": "chat", "model": {"max_length": 60, "template": "plain"}}

# name: (model, habits, adapter, pooling, other sections)
FEW = {
    "left, a quote in its path": ("bert", ["left", "short"], "head", "mean", {}),
    "saved padding": ("bert", ["fixed"], "lora", "layers", {}),
    "llama without padding": ("llama", ["no-pad", "left"], "lora", "own", {}),
    "padding ends each text": ("gpt2", ["pad-is-end", "ends-texts"], "head", "own", {}),
    "whole, padding ends each text": ("gpt2", ["pad-is-end", "ends-texts", "left"], "full", "own", {}),
    "labels in another order": ("bert", ["own-order", "left"], "lora", "own", {}),
    "whole, other order": ("bert", ["own-order"], "full", "own", {}),
    "positions by padding": ("roberta", ["pad-is-end", "cuts-left"], "full", "own", {}),
    "padded to one length": ("bert", ["left"], "lora", "mean", {"model": {"padding": "max_length"}}),
    "bfloat16": ("bert", [], "lora", "mean", {"training": {"precision": "bfloat16"}}),
    "language": ("llama", ["left", "ends-texts"], "lora", None, {}),
    "whole language": ("gpt2", ["samples", "begins-texts"], "full", None, {}),
    "chat": ("llama", ["chats", "left"], "lora", None, CHAT),
    "whole chat": ("gpt2", [], "full", None, PLAIN_CHAT),
    "padded language": ("gpt2", ["left"], "lora", None, {"model": {"padding": "max_length"}}),
}  # fmt: skip


def _folder(root, name):
    return root / f'it\'s "{name}" ü` 模型'


@pytest.fixture(scope="module")
def few(tiny, job_of, texts, cards, tmp_path_factory, python):
    """The few cases, and what their cards' code said in one other process."""
    root = tmp_path_factory.mktemp("cards")
    made = cards.Cards(root, job_of, texts)
    for name, (kind, habits, adapter, pooling, sections) in FEW.items():
        made.add(
            name, cards.base(tiny(kind), _folder(root, name), *habits), adapter, pooling, **sections
        )
    package = root / "packages" / "bases_of_cards"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    cards.base(tiny("bert"), package / "inside")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root / "packages"))
        patch.setenv("PYTHONPATH", str(root / "packages"))
        made.add("package", "package:bases_of_cards/inside", "lora", "mean")
        yield made, made.outside(python)


@pytest.mark.parametrize("name", [*FEW, "package"])
def test_the_code_of_a_card_answers_as_umbel_does(few, name):
    few[0].check(few[1], name)


@pytest.mark.parametrize("name", [*FEW, "package"])
def test_what_is_said_of_a_text_does_not_depend_on_the_other_texts(few, name):
    made, _ = few
    assert made.inside_together(name) == made.inside(name)


@pytest.mark.parametrize("name", ["left, a quote in its path", "llama without padding"])
def test_nor_does_it_where_several_texts_go_through_together(few, name):
    made, _ = few
    alone = made.predictors[name]
    several = Predictor(alone._learner, alone._labels, at_once=4)
    together = list(several.predict(made.texts))
    for one, text in zip(together, made.texts, strict=True):
        assert [one] == list(several.predict([text]))
    for one, other in zip(together, made.inside(name), strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=CLOSE)


def test_a_whole_classifier_is_named_as_the_job_names_it(few):
    made, said = few
    assert said["whole, other order"]["names"] == ["negative", "positive"]
    assert said["labels in another order"]["names"] == ["negative", "positive"]


@pytest.mark.parametrize("adapter", ["head", "lora", "full"])
def test_a_classifier_that_names_its_labels_in_another_order_begins_with_its_own_answers(
    adapter, tiny, job_of, cards, texts, tmp_path
):
    from transformers import pipeline

    base = cards.base(tiny("bert"), tmp_path / "base", "own-order")
    job = job_of(base, model={"adapter": adapter, "pooling": "own"})
    found = Predictor(load_learner(job, 2), ["negative", "positive"]).predict(texts[:6])
    its_own = pipeline("text-classification", model=base, top_k=None)(
        texts[:6], truncation=True, max_length=24
    )
    for one, other in zip(found, its_own, strict=True):
        expected = {answer["label"].lower(): answer["score"] for answer in other}
        assert one.probabilities == pytest.approx(expected, abs=CLOSE)


def test_a_decoders_head_reads_the_same_token_in_features_as_in_the_whole_model(
    tiny, job_of, cards, texts, tmp_path
):
    base = cards.base(tiny("gpt2"), tmp_path / "base", "pad-is-end", "ends-texts")
    learner = load_learner(job_of(base, model={"adapter": "head", "pooling": "own"}), 2)
    read = [clean_text(text) for text in cards.awkward(texts) if clean_text(text)]
    store = tokenise(read, np.arange(len(read)) % 2, learner.tokenizer, 24)
    examples = Examples(store, np.arange(len(read)))
    featured = with_features(learner, examples)
    assert featured.features is not None
    learner.network.eval()
    with torch.no_grad():
        whole = learner.network(learner.batch(examples, range(len(read))))
        parts = learner.network(learner.batch(featured, range(len(read))))
    assert parts.numpy() == pytest.approx(whole.numpy(), abs=CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2", "llama"])
def test_every_habit_of_a_tokenizer_with_every_adapter_and_pooling(
    kind, tiny, job_of, texts, cards, tmp_path, python
):
    habits = [
        [], ["left"], ["no-pad"], ["pad-is-end", "left"], ["fixed"], ["cuts-left", "short"],
        ["long", "no-pad"], ["ends-texts", "pad-is-end"], ["begins-texts", "left"], ["own-order", "no-pad"],
    ]  # fmt: skip
    made = cards.Cards(tmp_path, job_of, texts)
    for habit in habits:
        base = cards.base(tiny(kind), _folder(tmp_path, " ".join(habit)), *habit)
        own = "own-order" in habit
        ways = [
            *itertools.product(
                ("lora", "head", "full"), ("own",) if own else ("mean", "layers", "own")
            )
        ]
        if kind in ("gpt2", "llama") and not own:
            ways += [("lora", None), ("full", None)]
        for adapter, pooling in ways:
            for padding in ("longest", "max_length") if len(habit) < 2 else ("longest",):
                name = f"{habit} {adapter} {pooling} {padding}"
                made.add(name, base, adapter, pooling, model={"padding": padding})
    said, wrong = made.outside(python), {}
    for name in said:
        try:
            made.check(said, name)
            assert made.inside_together(name) == made.inside(name)
        except AssertionError as error:
            wrong[name] = str(error)[:600]
    assert not wrong, f"{len(wrong)} of {len(said)}: {json.dumps(wrong, indent=1)}"


@pytest.mark.slow
def test_the_result_of_every_rule_that_takes_different_ranks_answers_alike_without_umbel(
    job_of, texts, cards, tmp_path, python
):
    """Whole runs with owners of ranks 1 and 2, and of one rank; the last rules put products into the base."""
    made, ranked = cards.Cards(tmp_path, job_of, texts), [n for n in OURS if ours(n).ranked]
    assert {"flexlora", "lora-fair", "hetlora", "flora", "fedex-lora"} <= {*ranked}
    for name, ranks in itertools.product(ranked, ([1, 2], [2])):
        job = job_of(
            "bert",
            model={"adapter": "lora"},
            strategy={"name": name},
            privacy={"unit": "none"},
            training={"rounds": 2, "learning_rate": 0.05},
            evaluation={"counts": "off"},
            simulation={"ranks": ranks},
        )
        case = f"{name} {ranks}"
        folder = tmp_path / case / "run"
        simulate(job, Options(folder, workers=1, reproducible=True))
        config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
        assert (config["r"] > 2) == bool(ours(name)().residual)
        made.add_run(case, folder)
    said = made.outside(python)
    assert len(said) == 2 * len(ranked)
    for case in said:
        made.check(said, case)
