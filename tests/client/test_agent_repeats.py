"""What an agent answers to a question that it has answered, and what that costs."""

import numpy as np
import pytest

from umbel.client.kept import KeptUpdates
from umbel.planning.noise import event_of_test
from umbel.planning.schedule import most_tests
from umbel.wire.requests import EVALUATE, LEDGER, TRAIN

from .asked import as_bytes, seeded


def test_a_reproducible_agent_repeats_a_round_byte_for_byte_and_is_charged_once(owner, job):
    mary = owner(job, secrets=seeded, replayable=True)
    first, again = mary.ask(TRAIN, 1), mary.ask(TRAIN, 1, attempt=1)
    assert as_bytes(first) == as_bytes(again)
    assert first.content["metrics"]["epsilon"] == again.content["metrics"]["epsilon"]
    assert len(mary.entries()) == 1
    assert as_bytes(mary.ask(TRAIN, 2)) != as_bytes(first)
    assert len(mary.entries()) == 2


def test_otherwise_a_repeated_round_draws_new_noise_and_is_charged_again(owner, job):
    mary = owner(job)
    first, again = mary.ask(TRAIN, 1), mary.ask(TRAIN, 1, attempt=1)
    assert as_bytes(first) != as_bytes(again)
    assert again.content["metrics"]["epsilon"] > first.content["metrics"]["epsilon"]
    mary.ask(TRAIN, 1, attempt=1)
    assert len(mary.entries()) == 3


@pytest.fixture
def keeping(owner, tmp_path):
    """An agent that keeps its updates, as after a restart whenever it is made."""
    return lambda job, **options: owner(job, kept=KeptUpdates(tmp_path / "kept"), **options)


def test_a_repeated_round_brings_the_kept_update_for_nothing(keeping, job):
    mary = keeping(job)
    first = mary.ask(TRAIN, 1)
    again = [mary.ask(TRAIN, 1, attempt) for attempt in (0, 1, 7)]
    again.append(keeping(job).ask(TRAIN, 1, 8))  # a new process
    assert {as_bytes(reply) for reply in again} == {as_bytes(first)}
    assert len(mary.entries()) == 1
    told = {reply.content["metrics"]["epsilon"] for reply in (first, *again)}
    assert len(told) == 1
    heads = {reply.content[LEDGER]["head"] for reply in (first, *again)}
    assert len(heads) == 1


@pytest.mark.parametrize("other", ["model", "config", "participations", "run", "round"])
def test_another_question_is_no_repetition(other, keeping, open_job_of):
    job = open_job_of(privacy={"epsilon": 50.0})
    mary = keeping(job)
    first = as_bytes(mary.ask(TRAIN, 1))
    moved = {
        n: a + np.linspace(0.1, 0.5, a.size, dtype=np.float32).reshape(a.shape)
        for n, a in mary.learner.initial.items()
    }
    asked = {
        "model": {"arrays": moved},
        "config": {"config": {"proximal-mu": 0.5}},
        "participations": {"participations": 3, "run": "other"},
        "run": {"run": "other"},
        "round": {"round_": 2},
    }[other]
    assert as_bytes(mary.ask(TRAIN, **{"round_": 1, **asked})) != first
    assert len(mary.entries()) == 2
    if other not in ("run", "participations"):  # the round before is closed
        assert as_bytes(mary.ask(TRAIN, 1)) != first
        assert len(mary.entries()) == 3


def test_a_repeated_test_is_drawn_anew_and_charged_beside_a_kept_update(keeping, open_job_of):
    # So much noise that five numbers are drawn alike less often than once in 10^9 runs of this test.
    job = open_job_of(evaluation={"counts": "private", "epsilon": 0.5})
    assert event_of_test(job, most_tests(job)).noise_multiplier > 10
    mary = keeping(job)
    first, again = (mary.ask(TRAIN, 1, attempt, test=True) for attempt in (0, 1))
    assert as_bytes(first) == as_bytes(again)
    assert first.content["metrics"]["counts"] != again.content["metrics"]["counts"]
    assert [entry.what for entry in mary.entries()] == ["test 0", "1", "test 0"]
    assert mary.ask(EVALUATE, 3).content["metrics"]["epsilon"] > 0
    assert as_bytes(mary.ask(TRAIN, 1, 2)) != as_bytes(first)  # training was over


def test_no_server_burns_a_budget_with_one_round_or_with_tests(owner, open_job_of):
    job = open_job_of(
        evaluation={"counts": "private", "epsilon": 2.0},
        privacy={"limit": 1000.0, "spare_rounds": 1},
        cohort={"retries": 2},
    )
    mary = owner(job)
    replies = [mary.ask(TRAIN, 1, attempt) for attempt in range(5)]
    assert [reply.has_error() for reply in replies] == [False] * 3 + [True] * 2
    assert "repeated too often" in replies[-1].error.reason
    assert not mary.ask(TRAIN, 2).has_error()
    tests = [mary.ask(EVALUATE, n % 4, n) for n in range(most_tests(job) + 3)]
    assert sum(not reply.has_error() for reply in tests) == most_tests(job) + 1
    assert "noise of its tests" in tests[-1].error.reason


def test_without_noise_of_its_own_nothing_is_kept(keeping, open_job_of, tmp_path):
    mary = keeping(open_job_of(privacy={"unit": "none"}))
    mary.ask(TRAIN, 1)
    assert not (tmp_path / "kept").exists()
