"""Which clients a round asks."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.planning.cohorts import sample_cohort
from umbel.planning.facts import ClientFacts

from .planned import NAMES, job_of, plan


@given(st.permutations(NAMES), st.integers(1, 12), st.integers(1, 50), st.integers(0, 3))
@settings(deadline=None)
def test_a_cohort_follows_from_seed_round_and_attempt_and_not_from_the_order_of_names(
    names, size, round_, attempt
):
    job = job_of(cohort={"size": size})
    found = sample_cohort(names, job, round_, attempt)
    assert found == sample_cohort(NAMES, job, round_, attempt)
    assert len(found) == len(set(found)) == size
    assert set(found) <= set(NAMES)
    assert found == sorted(found)


def test_everybody_is_asked_where_the_cohort_has_no_size_or_a_larger_one():
    for cohort in ({}, {"size": 12}, {"size": 99}):
        assert sample_cohort(NAMES, job_of(cohort=cohort), 1) == sorted(NAMES)


def test_cohorts_are_about_uniform_over_rounds():
    job = job_of(cohort={"size": 3})
    counts = Counter(name for round_ in range(2000) for name in sample_cohort(NAMES, job, round_))
    # 500 expected for each, with a standard deviation of 19.
    assert all(400 < counts[name] < 600 for name in NAMES)
    pairs = Counter(tuple(sample_cohort(NAMES, job, round_)) for round_ in range(2000))
    assert len(pairs) > 200


def test_another_seed_round_or_attempt_asks_others():
    def cohorts(seed, attempt):
        job = job_of(cohort={"size": 3}, seed=seed)
        return [sample_cohort(NAMES, job, round_, attempt) for round_ in range(20)]

    assert cohorts(0, 0) != cohorts(1, 0)
    assert cohorts(0, 0) != cohorts(0, 1)
    assert len({tuple(cohort) for cohort in cohorts(0, 0)}) > 10


def test_a_clients_rounds_are_those_in_which_it_will_be_asked():
    job = job_of(cohort={"size": 3}, training={"rounds": 20}, privacy={"unit": "none"})
    clients = [ClientFacts(name, 500, 0.8, False) for name in NAMES]
    found = {client.name: client.rounds for client in plan(job, clients).clients}
    asked = Counter(name for round_ in range(1, 21) for name in sample_cohort(NAMES, job, round_))
    assert found == {name: asked[name] for name in NAMES}
    assert sum(found.values()) == 60
