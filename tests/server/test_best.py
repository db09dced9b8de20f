"""Which model is chosen, from a run's events alone."""

import pytest

from umbel.job import Job
from umbel.run.events import Ended, from_json
from umbel.server.selection import Candidate, Choice


def job_of(task="text-classification", **evaluation):
    # Without privacy exact counts may decide; what may decide elsewhere is the plan's affair.
    data = {"path": "a.csv", "label_column": None if task == "causal-lm" else "label"}
    values = {"task": task, "data": data, "privacy": {"unit": "none"}}
    return Job.build({**values, "evaluation": {"keep": "best", **evaluation}})


def a_test(round_, kind="evaluation", model=None, **metrics):
    return from_json(
        {
            "event": kind,
            "round": round_,
            "model": model or f"model {round_}",
            "metrics": metrics,
        }
    )


def choice(values, job=None, key="accuracy"):
    """After tests of the models of rounds 0, 1, 2, ... with these figures."""
    events = [a_test(round_, **{key: value}) for round_, value in enumerate(values)]
    return Choice(job or job_of(), events)


@pytest.mark.parametrize(
    ("values", "best", "stale"),
    [
        ([0.5], 0, 0),
        ([0.5, 0.7, 0.6], 1, 1),
        ([0.5, 0.7, 0.7], 1, 1),
        ([0.5, 0.7, 0.6, 0.8, 0.1, 0.2], 3, 2),
        ([0.9, 0.8, 0.7], 0, 2),
        ([None, 0.2, float("nan")], 1, 1),
    ],
)
def test_the_first_of_the_best_is_chosen_and_tests_since_are_counted(values, best, stale):
    found = choice(values)
    assert (found.best.round, found.stale) == (best, stale)


def test_a_language_model_is_chosen_by_the_least_loss():
    found = choice([3.0, 2.0, 2.5, float("inf")], job_of("causal-lm"), "loss")
    assert found.best == Candidate(1, "model 1", 2.0)
    assert found.stale == 2


def test_without_a_single_number_nothing_is_chosen():
    found = choice([None, float("nan")])
    assert found.best is None
    assert found.stale == 2


def test_where_there_is_a_public_hold_out_the_owners_figures_decide_nothing():
    job = job_of(public_path="public.csv")
    events = [
        a_test(0, accuracy=0.9),
        a_test(0, "holdout", accuracy=0.1),
        a_test(1, accuracy=0.1),
        a_test(1, "holdout", accuracy=0.2),
    ]
    found = Choice(job, events)
    assert (found.on, found.best.round) == ("public hold-out", 1)


def test_a_second_test_of_the_same_model_changes_nothing():
    found = choice([0.5, 0.7])
    found.hear(a_test(1, accuracy=0.1))
    found.hear(a_test(0, accuracy=0.9))
    assert (found.best.value, found.stale) == (0.7, 0)


def test_another_model_of_the_same_round_is_another_candidate():
    """After a damaged checkpoint a round is trained again, and with new noise comes to another model."""
    found = choice([0.5, 0.7])
    found.hear(a_test(1, model="again", accuracy=0.8))
    assert found.best == Candidate(1, "again", 0.8)


def test_a_test_that_nobody_answered_is_none():
    found = choice([0.5])
    found.hear(a_test(1))
    assert found.stale == 0


def test_events_give_the_same_choice_in_one_go_and_one_by_one():
    values = [0.5, 0.7, 0.6, 0.8, 0.75]
    whole, growing = choice(values), Choice(job_of(), [])
    for round_, value in enumerate(values):
        growing.hear(a_test(round_, accuracy=value))
    assert (whole.best, whole.stale) == (growing.best, growing.stale)


def test_an_end_is_for_good():
    found = choice([0.5, 0.4])
    found.hear(Ended(1, "figures", "enough"))
    found.hear(a_test(2, accuracy=0.9))
    assert found.ended
