"""One record moves the clipped sum by at most the clipping norm, whatever model loads, or it is refused.

Models of every architecture are built small and go through features, training and tests as an owner's
records do, padded as the model's own batches fall. Each either keeps the bound, as it is or padded to one
length, or the probe refuses it: nothing else may happen.
"""

import collections
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from umbel.errors import ModelError
from umbel.job import Job
from umbel.learning import trainer
from umbel.learning.counts import counting
from umbel.learning.examples import Examples, tokenise
from umbel.learning.features import with_features
from umbel.learning.loading import load_learner
from umbel.learning.probing.probe import probe, probed
from umbel.learning.probing.verdict import INDEPENDENT
from umbel.learning.steps import PrivateSteps
from umbel.learning.tasks import task_for
from umbel.learning.trainer import StepRange, train
from umbel.privacy.noise.counts_noise import LOSS_STEPS

CLASSIFICATION, LANGUAGE = "text-classification", "causal-lm"
ADAPTERS = {CLASSIFICATION: ("head", "lora", "full"), LANGUAGE: ("lora", "full")}
LABELS = ["a", "b"]
MAX_LENGTH, MICROBATCH, RECORDS, CLIP = 14, 6, 23, 1.0
FEW = [
    "bert",
    "distilbert",
    "fnet",
    "gpt2",
    "llama",
    "longformer",
    "mobilebert",
    "roberta",
    "t5",
    "xlnet",
]
# What was measured with transformers 5.24: as many are built small, so that the rest is not silently more.
LEAST_BUILT = {CLASSIFICATION: 437, LANGUAGE: 153}


@pytest.fixture(scope="module")
def tokenizer(architectures):
    return architectures.word_tokenizer()


@pytest.fixture(scope="module")
def folder_of(architectures, tokenizer, tmp_path_factory):
    root, made = tmp_path_factory.mktemp("architectures"), {}

    def build(task, kind):
        if (task, kind) not in made:
            folder = root / f"{task}-{kind}"
            architectures.build(task, kind, folder, tokenizer)
            made[task, kind] = folder
        return made[task, kind]

    return build


@pytest.fixture(scope="module")
def store(tokenizer):
    """Texts of 1 to 12 words."""
    generator = random.Random(8)
    words = [f"w{n}" for n in range(60)]
    texts = [" ".join(generator.choices(words, k=1 + n % 12)) for n in range(RECORDS)]
    return tokenise(texts, np.arange(RECORDS) % 2, tokenizer, MAX_LENGTH)


def _learner(folder, task, adapter, **model):
    values = {
        "task": task,
        "model": {"base": str(folder), "adapter": adapter, "max_length": MAX_LENGTH, **model},
        "data": {"path": "-", "labels": LABELS if task == CLASSIFICATION else None},
        "evaluation": {"counts": "private"},
        "training": {
            "device": "cpu",
            "optimizer": "sgd",
            "learning_rate": 1.0,
            "microbatch": MICROBATCH,
        },
    }
    return load_learner(Job.build(values), _classes(task))


def _classes(task):
    return len(LABELS) if task == CLASSIFICATION else 0


def _random_weights(learner):
    """Away from the start, where every gradient of an adapter is zero."""
    generator = np.random.default_rng(5)
    return {
        name: array + generator.normal(0, 0.05, array.shape).astype(np.float32)
        for name, array in learner.initial.items()
    }


def _sum_of(learner, weights, examples):
    """What one step at rate 1 adds up, without noise: float64, all tensors in one."""
    steps = PrivateSteps(1.0, 1.0, 0.0, CLIP, key=bytes(32))
    task = task_for(learner.job, _classes(learner.job.task))
    examples = with_features(learner, examples)
    whole = StepRange(0, 1, 1)
    update = train(learner, task, weights, examples, whole, seed=0, who="a", private=steps).update
    return -np.concatenate([array.ravel() for array in update.values()]).astype(np.float64)


def _counts_of(learner, weights, examples):
    job = learner.job
    task = counting(job, task_for(job, _classes(job.task)))
    return trainer.test(learner, task, weights, with_features(learner, examples))


def _most_moved(learner, store):
    """By how many clipping norms one record less moves the sum, and by how many cells the counts."""
    weights = _random_weights(learner)
    everybody = np.arange(RECORDS)
    whole = _sum_of(learner, weights, Examples(store, everybody))
    counts = _counts_of(learner, weights, Examples(store, everybody))
    moved, changed = [], []
    # The shortest, a middle one, the longest: each shifts the borders of microbatches otherwise.
    for gone in (0, 5, 11):
        rest = Examples(store, np.delete(everybody, gone))
        moved.append(np.linalg.norm(whole - _sum_of(learner, weights, rest)) / CLIP)
        fewer = _counts_of(learner, weights, rest)
        cells, loss = counts.cells - fewer.cells, counts.loss - fewer.loss
        changed.append(max(abs(cells).sum(), abs(loss) / (LOSS_STEPS + 1)))
    assert whole.any()
    return max(moved), max(changed)


def _is_a_sentence(text):
    return 20 < len(text) < 900 and "\n" not in text


def _keeps_the_bound(folder, task, adapter, store):
    """What the probe said: its padding, or the refusal."""
    try:
        learner = _learner(folder, task, adapter)
        verdict = probe(learner, task_for(learner.job, _classes(task)))
    except ModelError as error:
        return "refused" if _is_a_sentence(str(error)) else str(error)
    if verdict.padding is None:
        with pytest.raises(ModelError, match="not trained under privacy"):
            _sum_of(
                replace(learner, verdict=verdict), learner.initial, Examples(store, np.arange(4))
            )
        return "refused"
    job = learner.job.padded() if verdict.padding == "max_length" else learner.job
    moved, cells = _most_moved(replace(learner, job=job, verdict=verdict), store)
    assert moved <= 1 + 1e-5
    assert cells == 1
    return verdict.padding


EXPECTED = {
    ("fnet", "lora"): "max_length",
    ("fnet", "head"): "max_length",
    ("mobilebert", "head"): "max_length",
    ("mobilebert", "lora"): "max_length",
    ("xlnet", "lora"): "refused",
    ("longformer", "lora"): "refused",
    ("bert", "lora"): "longest",
    ("bert", "full"): "longest",
    ("gpt2", "lora"): "longest",
    ("llama", "full"): "longest",
    ("t5", "lora"): "longest",
}


def _few():
    """Ten kinds always; of some only LoRA, whose other adapters come with the slow tests."""
    whole = {"bert", "fnet", "mobilebert"}
    for kind in FEW:
        for adapter in ADAPTERS[CLASSIFICATION]:
            slow = adapter != "lora" and kind not in whole
            yield pytest.param(kind, adapter, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(("kind", "adapter"), list(_few()))
def test_one_record_moves_the_sum_by_the_clipping_norm_or_the_model_is_refused(
    kind, adapter, folder_of, store
):
    found = _keeps_the_bound(folder_of(CLASSIFICATION, kind), CLASSIFICATION, adapter, store)
    assert found == EXPECTED.get((kind, adapter), found)


def test_without_the_probe_a_model_that_mixes_texts_with_padding_breaks_the_bound(
    folder_of, store, monkeypatch
):
    """The measure can fail: what the probe found out about FNet is what happens in passes as they fall.

    In passes of one shape (``shapes``) padding follows from a text itself.
    """
    monkeypatch.setattr(trainer, "rows_to_train", lambda *_, **__: 0)
    learner = _learner(folder_of(CLASSIFICATION, "fnet"), CLASSIFICATION, "lora")
    moved, _ = _most_moved(replace(learner, verdict=INDEPENDENT), store)
    assert moved > 1.5


def test_a_model_that_was_not_probed_takes_no_private_step(folder_of, store):
    learner = _learner(folder_of(CLASSIFICATION, "bert"), CLASSIFICATION, "lora")
    with pytest.raises(ModelError, match="was not probed"):
        _sum_of(learner, learner.initial, Examples(store, np.arange(4)))
    _sum_of(probed(learner), learner.initial, Examples(store, np.arange(4)))


@pytest.mark.slow
@pytest.mark.parametrize("task", [CLASSIFICATION, LANGUAGE])
def test_every_architecture_that_can_be_built_small_keeps_the_bound_or_is_refused(
    task, architectures, folder_of, store, sweep, capsys
):
    kinds = architectures.names(task)
    chosen = sweep.drawn("architectures", kinds)
    tally, broken, skipped = collections.Counter(), {}, {}
    for kind in chosen:
        try:
            folder = folder_of(task, kind)
        except architectures.NotSmall as why:
            skipped[kind] = str(why)
            continue
        for adapter in ADAPTERS[task]:
            try:
                tally[_keeps_the_bound(folder, task, adapter, store)] += 1
            except Exception as error:
                broken[kind, adapter] = f"{type(error).__name__}: {error}"
        torch.manual_seed(0)
    with capsys.disabled():
        print(
            f"\nUMBEL_SEED={sweep.seed()}, {task}, {len(chosen)} of {len(kinds)} architectures: ",
            end="",
        )
        print(f"{dict(tally)}; {len(skipped)} are not built small")
    assert not broken
    assert set(tally) <= {"longest", "max_length", "refused"}
    share = 1 if chosen == kinds else 0.8 * len(chosen) / len(kinds)
    assert len(chosen) - len(skipped) >= share * LEAST_BUILT[task]
