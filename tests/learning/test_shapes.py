"""What a record is counted as depends on itself alone, to the last bit, whatever weights a server sends."""

import itertools

import numpy as np
import pytest
import torch

from umbel.learning import shapes, trainer
from umbel.learning.counts import counting
from umbel.learning.features import with_features
from umbel.learning.shapes import Passes, lengths_up_to, rows_of, together, train_together
from umbel.learning.steps import PrivateSteps
from umbel.learning.tasks import task_for
from umbel.learning.trainer import StepRange, train
from umbel.learning.trainer import test as counts_of
from umbel.privacy.noise.counts_noise import LOSS_STEPS

ROWS = np.arange(143)


@pytest.fixture
def loaded(job_of, learner_of):
    def load(adapter, base="bert", **more):
        job = job_of(base, model={"adapter": adapter, "max_length": 64}, **more)
        learner = learner_of(job)
        return learner, counting(job, task_for(job, len(job.data.labels or ())))

    return load


def on_the_last_bit(learner, weight=1.0):
    """A head that reads the sum of a LayerNorm's outputs, which is zero but for rounding."""
    arrays = {name: array.copy() for name, array in learner.initial.items()}
    (head,) = (name for name in arrays if name.endswith("mean_head.weight"))
    arrays[head][0], arrays[head][1] = weight, -weight
    return arrays


def as_they_fall(learner, task, arrays, examples):
    """Counts in passes whose shape follows from who is there, as any trainer would make them."""
    network = learner.network
    network.load(arrays)
    network.eval()
    order, counts = np.argsort(examples.lengths, kind="stable"), task.zero()
    with torch.no_grad():
        for start in range(0, len(order), 8):
            batch = learner.batch(examples, order[start : start + 8])
            counts = counts + task.counts(network(batch), batch)
    return counts


def in_filled_passes(learner, task, arrays, examples):
    return counts_of(learner, task, arrays, with_features(learner, examples), forgiving=True)


def most_changed(count, learner, task, arrays, examples):
    """By how many cells, and steps of the loss, one record less changes the counts."""
    whole, cells, steps = count(learner, task, arrays, examples), [], []
    order = np.argsort(examples.lengths, kind="stable")
    for gone in order[[0, 3, 30, 71, 140]]:
        rest = examples.take(np.delete(np.arange(len(examples)), gone))
        fewer = count(learner, task, arrays, rest)
        cells.append(int(np.abs(whole.cells - fewer.cells).sum()))
        steps.append(whole.loss - fewer.loss)
    return max(cells), min(steps), max(steps)


@pytest.mark.parametrize("adapter", ["head", "lora", "full"])
def test_one_record_changes_one_cell_with_weights_that_make_rounding_decide(
    loaded, examples_of, adapter
):
    learner, task = loaded(adapter)
    arrays, examples = on_the_last_bit(learner), examples_of(learner, rows=ROWS)
    assert most_changed(as_they_fall, learner, task, arrays, examples)[0] > 1
    cells, least, most = most_changed(in_filled_passes, learner, task, arrays, examples)
    assert cells == 1
    assert 0 <= least <= most <= LOSS_STEPS


def test_where_a_place_matters_each_text_goes_alone(loaded, examples_of, monkeypatch):
    learner, task = loaded("lora")
    arrays, examples = on_the_last_bit(learner), examples_of(learner, rows=ROWS)
    monkeypatch.setattr(shapes, "together", lambda _: False)
    assert rows_of(learner) == 1
    assert most_changed(in_filled_passes, learner, task, arrays, examples)[0] == 1


def test_a_network_in_which_places_matter_is_found_out(loaded, monkeypatch):
    learner, _ = loaded("lora")
    assert together(learner)
    forward = type(learner.network).forward

    def by_place(network, batch):
        found = forward(network, batch)
        return found * (1 + 1e-6 * torch.arange(len(found))[:, None])

    monkeypatch.setattr(type(learner.network), "forward", by_place)
    monkeypatch.setattr(shapes, "_KNOWN", type(shapes._KNOWN)())
    assert not together(learner)


@pytest.mark.parametrize("adapter", ["head", "lora"])
def test_a_record_that_is_taken_alone_comes_to_the_same_bits(loaded, examples_of, adapter):
    """So a record that kills the process, or that the model fails on, moves nobody else's counts."""
    learner, task = loaded(adapter)
    arrays, examples = on_the_last_bit(learner), examples_of(learner, rows=ROWS)
    usual = in_filled_passes(learner, task, arrays, examples)
    touched = []
    featured = with_features(learner, examples, touched.append)
    careful = counts_of(learner, task, arrays, featured, forgiving=True, touch=touched.append)
    assert set(touched) >= set(ROWS)
    assert (usual.cells == careful.cells).all()
    assert usual.loss == careful.loss


def test_rows_that_fill_a_pass_count_nothing(loaded, examples_of):
    learner, task = loaded("lora")
    examples = examples_of(learner, rows=ROWS[:5])
    batch = Passes(learner, examples, 8).counted(np.array([0]))
    learner.network.load(learner.initial)
    assert len(batch["input_ids"]) == 8
    with torch.no_grad():
        assert task.counts(learner.network(batch), batch).cells.sum() == 1


def test_a_head_moves_by_one_clipped_gradient_to_the_last_bit(loaded, examples_of):
    """Each record's part of a step is the same whoever is beside it, so a difference is one part alone."""
    learner, _ = loaded("head", training={"optimizer": "sgd", "learning_rate": 1.0})
    examples = with_features(learner, examples_of(learner, rows=ROWS))
    alone = [_stepped(learner, examples.take(np.array([place]))) for place in (0, 70)]
    both = _stepped(learner, examples.take(np.array([0, 70])))
    assert np.abs(both - alone[0] - alone[1]).max() < 2**-24
    assert np.linalg.norm(alone[0]) <= 1 + 1e-6


def test_one_record_moves_a_step_by_one_clipping_norm_with_weights_that_make_rounding_decide(
    loaded, examples_of, monkeypatch
):
    """Weights that no check would let pass: here nothing rests on it."""
    learner, _ = loaded("lora", training={"optimizer": "sgd", "learning_rate": 1.0})
    arrays = on_the_last_bit(learner, 1e8)
    examples = examples_of(learner, rows=ROWS[:64])
    order = np.argsort(examples.lengths, kind="stable")

    def most_moved():
        whole = _stepped(learner, examples, arrays)
        rest = [examples.take(np.delete(np.arange(64), gone)) for gone in order[[0, 3, 30]]]
        return max(np.linalg.norm(whole - _stepped(learner, fewer, arrays)) for fewer in rest)

    assert train_together(learner)
    assert most_moved() <= 1 + 1e-4
    monkeypatch.setattr(trainer, "rows_to_train", lambda *_, **__: 0)
    assert most_moved() > 1.5


def _stepped(learner, examples, arrays=None):
    """What one step without noise at rate 1 adds up."""
    steps = PrivateSteps(1.0, 1.0, 0.0, 1.0, key=bytes(32))
    task, arrays = task_for(learner.job, 2), arrays or learner.initial
    found = train(
        learner, task, arrays, examples, StepRange(0, 1, 1), seed=0, who="a", private=steps
    )
    flat = np.concatenate([array.ravel() for array in found.update.values()])
    return -flat.astype(np.float64)


def test_every_record_is_in_one_pass_whatever_its_length(loaded, examples_of):
    learner, _ = loaded("lora")
    examples = examples_of(learner, rows=ROWS)
    passes = Passes(learner, examples, 8)
    chunks = list(passes.chunks())
    assert sorted(np.concatenate(chunks)) == list(range(len(ROWS)))
    found = {passes.batch(chunk)["input_ids"].shape for chunk in chunks}
    assert found <= {(8, length) for length in lengths_up_to(64)}


@pytest.mark.parametrize("longest", [4, 16, 24, 64, 100, 512])
def test_lengths_end_at_the_longest_and_none_is_much_longer_than_the_one_before(longest):
    found = lengths_up_to(longest)
    assert found == sorted(set(found))
    assert found[-1] == longest
    assert all(b <= 2 * a for a, b in itertools.pairwise(found))
