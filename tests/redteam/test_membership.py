"""Loss-threshold membership inference: its AUC and interval, and what it finds in real models."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from umbel.learning.tasks import task_for
from umbel.learning.trainer import StepRange, train
from umbel.redteam.membership import attack, losses_of


def test_the_auc_is_that_of_scikit_learn_also_with_ties():
    generator = np.random.default_rng(0)
    members, others = generator.integers(0, 9, 80) / 8.0, generator.integers(2, 11, 50) / 8.0
    labels = np.repeat([1, 0], [80, 50])
    expected = roc_auc_score(labels, -np.concatenate([members, others]))
    assert attack([(members, others)]).auc == pytest.approx(expected)


@pytest.mark.parametrize("shift", [0.0, 0.8])
def test_the_interval_covers_the_truth_as_often_as_it_says(shift):
    from scipy.stats import norm

    generator = np.random.default_rng(1)
    truth = norm.cdf(shift / np.sqrt(2))
    found = [
        attack([(generator.normal(size=60), generator.normal(shift, size=90))]) for _ in range(600)
    ]
    covered = np.mean([one.low <= truth <= one.high for one in found])
    # 95 %, and a standard error of 0.9 %.
    assert 0.92 < covered < 0.98


def test_groups_that_differ_do_not_look_like_membership():
    generator = np.random.default_rng(2)
    easy = generator.normal(0, 1, 900), generator.normal(0, 1, 100)
    hard = generator.normal(3, 1, 100), generator.normal(3, 1, 900)
    mixed = tuple(np.concatenate(side) for side in zip(easy, hard, strict=True))
    assert attack([mixed]).telling
    assert not attack([easy, hard]).telling


def test_clients_with_one_record_are_pooled():
    generator = np.random.default_rng(3)
    groups = [(generator.normal(0, 1, 1), generator.normal(1, 1, 1)) for _ in range(200)]
    found = attack(groups)
    assert (found.members, found.others) == (200, 200)
    assert 0.05 < found.high - found.low < 0.2
    with pytest.raises(ValueError, match="both"):
        attack([(np.ones(3), np.ones(0))])


def test_at_most_one_of_a_hundred_others_is_called_a_member():
    members, others = np.full(50, 1.0), np.arange(200) / 100
    # The two smallest of 200 others may be mistaken; 1.0 is not below the third.
    assert attack([(members, others)]).tpr_at_1_percent == 0.0
    assert attack([(members - 1, others)]).tpr_at_1_percent == 1.0


def test_losses_do_not_depend_on_the_batch(job_of, learner_of, examples_of):
    learner = learner_of(job_of("bert", model={"adapter": "lora"}))
    task, examples = task_for(learner.job, 2), examples_of(learner, 30)
    together = losses_of(learner, task, examples)
    one = losses_of(learner, task, examples_of(learner, rows=examples.rows[7:8]))
    assert together[7] == pytest.approx(one[0], rel=1e-5)


def test_a_model_that_learned_its_records_by_heart_is_found_out(job_of, learner_of, examples_of):
    job = job_of(
        "bert",
        model={"adapter": "full"},
        privacy={"unit": "none"},
        training={"learning_rate": 0.01, "batch_size": 16},
    )
    learner = learner_of(job)
    task = task_for(job, 2)
    rows = np.random.default_rng(0).permutation(144)
    members, others = (examples_of(learner, rows=np.sort(part)) for part in (rows[:48], rows[48:]))
    update = train(
        learner, task, learner.initial, members, StepRange(0, 60, 60), seed=0, who="one"
    ).update
    learner.network.load({name: learner.initial[name] + update[name] for name in update})
    found = attack([(losses_of(learner, task, members), losses_of(learner, task, others))])
    assert found.telling
    assert found.auc > 0.7
