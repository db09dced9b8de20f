"""What is trained, what the head sees, and that a feature stands in for the tokens."""

import numpy as np
import pytest
import torch

from umbel.learning import trainer
from umbel.learning.batches import make_batch
from umbel.learning.features import with_features
from umbel.learning.loading import load_learner
from umbel.learning.model import arrays_digest
from umbel.learning.shapes import together
from umbel.learning.tasks import task_for
from umbel.learning.trainer import StepRange, train

from .networks import CLASSIFIERS, LANGUAGE_MODELS, is_head, network_job, should_train, with_size


@pytest.fixture
def learner(request, job_of, learner_of):
    return learner_of(network_job(job_of, *request.param))


@pytest.mark.parametrize("parts", [*CLASSIFIERS, *LANGUAGE_MODELS])
def test_the_right_tensors_train_and_move_and_no_other_does(parts, job_of, learner_of, examples_of):
    base, pooling, adapter = parts
    learner = learner_of(network_job(job_of, *parts))
    network = learner.network
    expected = {n for n, _ in network.named_parameters() if should_train(n, pooling, adapter)}
    assert {name for name, _ in network.trained_parameters()} == expected
    assert list(learner.initial) == [name for name, _ in network.trained_parameters()]
    network.load(learner.initial)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    examples = with_features(learner, examples_of(learner))
    outcome = train(
        learner,
        task_for(learner.job, 2),
        learner.initial,
        examples,
        StepRange(0, 4, 4),
        seed=1,
        who="a",
    )
    moved = {n for n, p in network.named_parameters() if not torch.equal(p, before[n])}
    # The softmax of attention does not see its keys' bias, so that has no gradient.
    still = {name for name in expected - moved if not name.endswith("key.bias")}
    assert moved <= expected
    assert not still
    assert outcome.update.keys() == learner.initial.keys()
    for name, update in outcome.update.items():
        assert update.dtype == np.float32
        after = dict(network.named_parameters())[name].detach().numpy()
        assert np.array_equal(update, after - learner.initial[name])


def _random_head(learner):
    """Initial arrays with a head that tells examples apart."""
    generator = np.random.default_rng(3)
    return {
        name: generator.normal(size=array.shape).astype(np.float32)
        if is_head(name, learner.job.model.pooling)
        else array
        for name, array in learner.initial.items()
    }


@pytest.mark.parametrize(
    ("base", "pooling"),
    [
        ("bert", "mean"),
        ("bert", "layers"),
        ("bert", "own"),
        ("roberta", "mean"),
        ("roberta", "layers"),
        ("roberta", "own"),
        ("llama", "mean"),
        ("llama", "layers"),
        ("llama", "own"),
        ("gpt2", "layers"),
        ("gpt2", "own"),
        ("albert", "mean"),
        ("albert", "layers"),
        ("albert", "own"),
        ("minilm", "mean"),
        ("minilm", "layers"),
        ("minilm", "own"),
    ],
)
def test_a_head_gives_the_same_logits_from_features_as_from_tokens(
    base, pooling, job_of, learner_of, examples_of, request
):
    base = request.getfixturevalue(base) if base in ("albert", "minilm") else base
    learner = learner_of(network_job(job_of, base, pooling, "head"))
    learner.network.load(_random_head(learner))
    learner.network.eval()
    examples = examples_of(learner)
    featured = with_features(learner, examples)
    hidden = learner.network.backbone.config.hidden_size * (3 if pooling == "layers" else 1)
    assert featured.features.shape == (len(examples), hidden)
    indices = np.arange(len(examples))
    inputs, device = learner.inputs, torch.device("cpu")
    with torch.no_grad():
        from_tokens = learner.network(make_batch(examples, indices, inputs, device))
        from_features = learner.network(make_batch(featured, indices, inputs, device))
        part = learner.network.trained_part(on_features=True).eval()
        from_part = part(make_batch(featured, indices, inputs, device))
    assert from_tokens.std() > 0.1
    assert torch.allclose(from_tokens, from_features, atol=1e-4)
    assert torch.equal(from_features, from_part)


@pytest.mark.parametrize(
    ("base", "thirds"),
    [
        # Two layers: after none, that is the embeddings, one and two of them.
        ("bert", (0, 1, 2)),
        ("roberta", (0, 1, 2)),
        ("llama", (0, 1, 2)),
        ("gpt2", (0, 1, 2)),
        ("minilm", (2, 4, 6)),
    ],
)
def test_features_of_layers_are_means_of_the_hidden_states_at_thirds_of_the_depth(
    base, thirds, job_of, learner_of, examples_of, request
):
    """Text by text, without padding, by the base model as transformers alone loads it."""
    from transformers import AutoModel

    base = request.getfixturevalue(base) if base == "minilm" else base
    learner = learner_of(network_job(job_of, base, "layers", "head"))
    examples = examples_of(learner)
    found = with_features(learner, examples).features
    model = AutoModel.from_pretrained(learner.folder).eval()
    for row in range(6):
        ids = torch.from_numpy(examples.tokens(row).astype(np.int64))[None]
        with torch.no_grad():
            states = model(input_ids=ids, output_hidden_states=True).hidden_states
        means = [states[layer][0].mean(0).numpy() for layer in thirds]
        side_by_side = np.concatenate([mean / np.linalg.norm(mean) for mean in means])
        scale = learner.job.model.feature_scale / np.sqrt(3)
        assert found[row] == pytest.approx(side_by_side * scale, abs=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "layers"])
def test_pooled_features_all_have_the_length_that_the_job_says(
    pooling, job_of, learner_of, examples_of
):
    model = {"feature_scale": 2.5, "pooling": pooling}
    job = job_of("bert", model=with_size(job_of, "bert", model))
    learner = learner_of(job)
    lengths = np.linalg.norm(with_features(learner, examples_of(learner)).features, axis=1)
    assert lengths == pytest.approx(2.5, abs=1e-5)


@pytest.mark.parametrize(
    ("base", "pooling", "adapter"),
    [
        ("bert", "mean", "lora"),
        ("bert", "layers", "lora"),
        ("bert", "own", "lora"),
        ("bert", "own", "full"),
        ("roberta", "own", "lora"),
        ("llama", "layers", "lora"),
        ("llama", "own", "lora"),
        ("llama", None, "lora"),
        ("gpt2", None, "lora"),
    ],
)
def test_padding_does_not_change_an_examples_loss(
    base, pooling, adapter, job_of, learner_of, examples_of
):
    learner = learner_of(network_job(job_of, base, pooling, adapter))
    network, task = learner.network, task_for(learner.job, 2)
    network.load(learner.initial if pooling is None else _random_head(learner))
    network.eval()
    examples = examples_of(learner)
    inputs = learner.inputs
    shortest = np.argsort(examples.lengths)[:6]
    longest = np.argsort(examples.lengths)[-2:]
    assert examples.lengths[shortest[0]] < examples.lengths[longest[-1]]

    def losses(indices):
        batch = make_batch(examples, indices, inputs, torch.device("cpu"))
        return task.losses(network(batch), batch)

    with torch.no_grad():
        alone = torch.cat([losses([index]) for index in shortest])
        together = losses(np.concatenate([shortest, longest]))[: len(shortest)]
    assert torch.allclose(alone, together, atol=1e-5)


def test_a_language_models_loss_is_the_mean_over_the_sequences_own_tokens(
    job_of, learner_of, examples_of
):
    learner = learner_of(network_job(job_of, "llama", None, "lora"))
    network, task = learner.network, task_for(learner.job, 0)
    network.load(learner.initial)
    network.eval()
    examples = examples_of(learner, 8)
    batch = make_batch(examples, np.arange(8), learner.inputs, torch.device("cpu"))
    with torch.no_grad():
        logits = network(batch)
        losses = task.losses(logits, batch)
        counts = task.counts(logits, batch)
    total, predicted = 0.0, 0
    for row in range(8):
        tokens = examples.tokens(row).astype(np.int64)
        chances = torch.log_softmax(logits[row, : len(tokens) - 1].double(), dim=-1)
        own = -chances[torch.arange(len(tokens) - 1), torch.from_numpy(tokens[1:])]
        assert losses[row].item() == pytest.approx(own.mean().item(), rel=1e-5)
        total, predicted = total + own.sum().item(), predicted + len(own)
    assert counts.metrics([])["loss"] == pytest.approx(total / predicted, rel=1e-5)


def test_padding_with_the_end_of_text_token_does_not_hide_a_real_end_of_text(
    job_of, learner_of, examples_of
):
    learner = learner_of(network_job(job_of, "llama", None, "lora"))
    assert learner.tokenizer.pad_token_id == learner.tokenizer.eos_token_id
    examples = examples_of(learner)
    ended = next(i for i in range(len(examples)) if examples.tokens(i)[-1] == 2)
    batch = make_batch(examples, [ended], learner.inputs, torch.device("cpu"))
    network, task = learner.network, task_for(learner.job, 0)
    network.eval()
    with torch.no_grad():
        logits = network(batch)
        before = task.losses(logits, batch)
        logits[0, -2, 2] += 5.0
        assert task.losses(logits, batch) < before


def test_features_are_computed_once_for_all_rounds_and_tests(job_of, learner_of, examples_of):
    learner = learner_of(network_job(job_of, "bert", "own", "head", seed=91))
    examples, calls = examples_of(learner, rows=range(48)), []
    assert together(learner)  # tried once, on invented texts
    hook = learner.network.backbone.register_forward_hook(lambda *_: calls.append(1))
    try:
        with_features(learner, examples)
        once = len(calls)
        arrays, task = learner.initial, task_for(learner.job, 2)
        for round_ in range(2):
            featured = with_features(learner, examples)
            steps = StepRange(round_ * 2, 2, 4)
            train(learner, task, arrays, featured, steps, seed=0, who="a")
            trainer.test(learner, task, arrays, featured)
    finally:
        hook.remove()
    assert 1 <= once < 48 / 4  # several records in a pass
    assert len(calls) == once


@pytest.mark.parametrize(
    ("base", "pooling", "adapter"),
    [("bert", "mean", "lora"), ("bert", "own", "full"), ("llama", None, "lora")],
)
def test_where_the_base_trains_examples_keep_their_tokens(
    base, pooling, adapter, job_of, learner_of, examples_of
):
    learner = learner_of(network_job(job_of, base, pooling, adapter))
    examples = examples_of(learner)
    assert with_features(learner, examples) is examples


def test_features_of_one_model_are_never_taken_for_anothers(job_of, learner_of, examples_of):
    """Also when only the seed differs: what a checkpoint lacks is drawn from it."""
    found = []
    for base, pooling, seed in [
        ("bert", "mean", 0),
        ("bert", "layers", 0),
        ("bert", "own", 0),
        ("roberta", "mean", 0),
    ]:
        learner = learner_of(network_job(job_of, base, pooling, "head", seed=seed))
        found.append(with_features(learner, examples_of(learner)).features.tobytes())
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("adapter", ["head", "lora"])
def test_layers_that_the_base_lacks_before_its_own_head_are_trained_and_travel(
    adapter, job_of, learner_of, examples_of
):
    """Otherwise random frozen layers stood before the head that no export would hold."""
    learner = learner_of(network_job(job_of, "bert-without-pooler", "own", adapter))
    pooler = {name for name in learner.initial if "pooler" in name}
    assert {name.rpartition(".")[2] for name in pooler} == {"weight", "bias"}
    assert not any("lora" in name for name in pooler)
    examples = with_features(learner, examples_of(learner))
    outcome = train(
        learner,
        task_for(learner.job, 2),
        learner.initial,
        examples,
        StepRange(0, 2, 2),
        seed=0,
        who="a",
    )
    assert all(outcome.update[name].any() for name in pooler)


def test_the_first_adapter_follows_from_the_seed(job_of):
    def digest(seed):
        job = network_job(job_of, "bert", "own", "lora", seed=seed)
        return arrays_digest(load_learner(job, 2).initial)

    assert digest(1) == digest(1)
    assert digest(1) != digest(2)


def test_arrays_that_are_loaded_come_out_again(job_of, learner_of):
    learner = learner_of(network_job(job_of, "bert", "own", "lora"))
    generator = np.random.default_rng(0)
    arrays = {n: generator.normal(size=a.shape).astype("f4") for n, a in learner.initial.items()}
    learner.network.load(arrays)
    assert arrays_digest(learner.network.arrays()) == arrays_digest(arrays)
    learner.network.load(learner.initial)


def test_the_digest_of_arrays_minds_names_shapes_order_and_values():
    one, two = np.zeros(4, "f4"), np.ones(2, "f4")
    digests = [
        arrays_digest({"a": one, "b": two}),
        arrays_digest({"b": two, "a": one}),
        arrays_digest({"a": one, "c": two}),
        arrays_digest({"a": one.reshape(2, 2), "b": two}),
        arrays_digest({"a": one, "b": two + np.float32(1e-7)}),
    ]
    assert len(set(digests)) == len(digests)


def test_the_shape_tells_what_the_plan_needs(job_of, learner_of, tiny):
    learner = learner_of(network_job(job_of, "bert", "mean", "head"))
    shape = learner.shape()
    assert shape.trained == {"mean_head.weight": (2, 16), "mean_head.bias": (2,)}
    assert shape.trained_parameters == 34
    assert shape.total_parameters == sum(p.numel() for p in learner.network.parameters())
    assert shape.base_folder == tiny("bert")
