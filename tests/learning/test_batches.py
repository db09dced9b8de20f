"""Which examples a step sees: each once in an epoch, in an order of each client's own."""

import numpy as np

from umbel.learning.features import with_features
from umbel.learning.tasks import task_for
from umbel.learning.trainer import StepRange, train

from .kinds import job


class Recorder:
    """A task that notes which examples a step saw, by their features."""

    def __init__(self, task):
        self.task, self.seen = task, []

    def losses(self, logits, batch):
        self.seen.append([row.tobytes() for row in batch["features"].numpy()])
        return self.task.losses(logits, batch)


def batches(job_of, learner_of, examples_of, who, batch_size, rounds, steps, count=10):
    """Rows of each step, over several calls of ``train`` as over rounds."""
    spec = {"batch_size": batch_size, "local_steps": steps, "rounds": rounds}
    learner = learner_of(job(job_of, ("bert", "mean", "head"), training=spec))
    examples = with_features(learner, examples_of(learner, count))
    places = {row.tobytes(): i for i, row in enumerate(np.asarray(examples.features))}
    assert len(places) == count
    recorder = Recorder(task_for(learner.job, 2))
    for round_ in range(rounds):
        span = StepRange(round_ * steps, steps, rounds * steps)
        train(learner, recorder, learner.initial, examples, span, seed=5, who=who)
    return [[places[row] for row in step] for step in recorder.seen]


def test_every_example_comes_exactly_once_in_an_epoch_also_across_rounds(
    job_of, learner_of, examples_of
):
    seen = batches(job_of, learner_of, examples_of, "a", batch_size=4, rounds=5, steps=2)
    assert [len(step) for step in seen] == [4] * 10
    order = [row for step in seen for row in step]
    epochs = [order[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_the_order_does_not_depend_on_how_steps_are_cut_into_rounds(
    job_of, learner_of, examples_of
):
    cut = batches(job_of, learner_of, examples_of, "a", batch_size=4, rounds=6, steps=1)
    whole = batches(job_of, learner_of, examples_of, "a", batch_size=4, rounds=2, steps=3)
    assert cut == whole


def test_each_client_has_an_order_of_its_own(job_of, learner_of, examples_of):
    one = batches(job_of, learner_of, examples_of, "a", batch_size=10, rounds=1, steps=2)
    other = batches(job_of, learner_of, examples_of, "b", batch_size=10, rounds=1, steps=2)
    assert one != other


def test_a_batch_is_never_larger_than_the_data(job_of, learner_of, examples_of):
    seen = batches(job_of, learner_of, examples_of, "a", batch_size=64, rounds=2, steps=1)
    assert [sorted(step) for step in seen] == [list(range(10))] * 2
