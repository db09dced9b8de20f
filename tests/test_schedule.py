"""How many tests a run has, and when: from public numbers, the same for server and agents."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.errors import MessageError
from umbel.job import Job
from umbel.planning.evaluation import chosen_tests, deviation
from umbel.planning.facts import ClientFacts
from umbel.planning.schedule import most_tests, rounds_tested
from umbel.planning.terms import Terms


def job_of(rounds=10, epsilon=4.0, labels=2, task="text-classification", **evaluation):
    data = {"path": "x.csv", "labels": [str(k) for k in range(labels)]}
    if task == "causal-lm":
        data = {"path": "x.csv"}
    return Job.build(
        {
            "task": task,
            "data": data,
            "training": {"rounds": rounds},
            "privacy": {"epsilon": epsilon},
            "evaluation": evaluation,
        }
    )


def facts(owners, held_out):
    return [ClientFacts(f"c{n}", 5 * held_out, 0.8) for n in range(owners)]


@given(rounds=st.integers(1, 300), data=st.data())
def test_tests_are_spread_evenly_and_the_last_model_is_among_them(rounds, data):
    job = job_of(rounds)
    tests = data.draw(st.integers(1, most_tests(job)))
    found = rounds_tested(job, tests)
    assert len(set(found)) == len(found) == tests
    assert found[-1] == rounds
    gaps = {b - a for a, b in pairwise(found)}
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert tests == 1 or found[0] == 0


@given(rounds=st.integers(1, 40), every=st.integers(0, 45))
def test_a_job_that_says_how_often_is_taken_at_its_word(rounds, every):
    job = job_of(rounds, every=every)
    found = rounds_tested(job, most_tests(job))
    expected = {0, rounds} | ({r for r in range(rounds) if r % every == 0} if every else set())
    assert set(found) == expected
    assert rounds_tested(job, 0) == ()
    for other in {1, most_tests(job) + 1, most_tests(job) - 1} - {0, most_tests(job)}:
        with pytest.raises(MessageError, match="tests are planned"):
            rounds_tested(job, other)


@given(
    owners=st.integers(3, 40),
    held_out=st.integers(1, 20_000),
    epsilon=st.sampled_from([0.5, 1.0, 4.0, 8.0]),
    labels=st.integers(2, 8),
)
def test_the_plan_takes_the_most_tests_that_stay_below_two_points(
    owners, held_out, epsilon, labels
):
    job = job_of(epsilon=epsilon, labels=labels)
    asked = facts(owners, held_out)
    tests = chosen_tests(Terms(job, owners), asked)
    assert 1 <= tests <= 11
    if tests > 1:
        assert deviation(Terms(job, owners), asked, tests) < 0.02
    if tests < 11:
        assert deviation(Terms(job, owners), asked, tests + 1) >= 0.02


def test_where_nobody_says_how_many_records_are_held_out_the_last_model_alone_is_tested():
    apart = [ClientFacts(f"c{n}", 5000, 1.0) for n in range(4)]
    assert chosen_tests(Terms(job_of(), 4), apart) == 1
    assert chosen_tests(Terms(job_of(every=1), 4), apart) == 11


def test_without_noise_every_round_is_tested_and_without_records_none():
    assert chosen_tests(Terms(job_of(counts="exact"), 4), facts(4, 10)) == 11
    assert chosen_tests(Terms(job_of(counts="off"), 4), facts(4, 1000)) == 0
    none = [ClientFacts(f"c{n}", 5000, 1.0, holds_out=False) for n in range(4)]
    assert chosen_tests(Terms(job_of(), 4), none) == 0


def test_a_language_model_is_tested_as_often_as_its_loss_stays_sharp():
    job = job_of(task="causal-lm")
    few, many = (chosen_tests(Terms(job, 4), facts(4, n)) for n in (50, 100_000))
    assert (few, many) == (1, 11)
    assert deviation(Terms(job, 4), facts(4, 100_000), 11) < 0.1


@pytest.mark.parametrize("labels", [2, 4])
@pytest.mark.parametrize("right", [0.5, 1.0])
def test_the_deviation_that_a_plan_states_bounds_the_one_that_is_measured(labels, right):
    import numpy as np

    from umbel.learning.classification_counts import ClassificationCounts
    from umbel.learning.private_counts import PrivateCounts
    from umbel.planning.noise import event_of_test
    from umbel.privacy.noise.counts_noise import counts_noise
    from umbel.privacy.randomness import SecretStream

    job, owners, held_out = job_of(labels=labels), 5, 400
    event, stream = event_of_test(job, 4), SecretStream.from_key(bytes(32))
    truth = np.zeros((labels, labels), np.int64)
    hits = round(right * owners * held_out)
    truth[0, 0], truth[1, 0] = hits, owners * held_out - hits
    found = []
    for _ in range(120):
        counts = PrivateCounts(ClassificationCounts, len(truth), truth, np.array([0]))
        for _ in range(owners):
            counts = counts.plus(counts_noise(labels**2, event, 1, stream))
        found.append(counts.metrics([str(k) for k in range(labels)])["accuracy"])
    stated = deviation(Terms(job, owners), facts(owners, held_out), 4)
    assert np.std(found) <= 1.2 * stated
