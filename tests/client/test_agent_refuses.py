"""What an agent refuses, before it charges and before it looks at data."""

import dataclasses
import json

import numpy as np
import pytest

from umbel.client.agent import Agent
from umbel.client.policy import Policy
from umbel.client.work import WorkHere, Workplace
from umbel.learning.tasks import task_for
from umbel.privacy.ledger.ledger import Ledger
from umbel.privacy.noise.sizes import SIZE_EVENT
from umbel.wire.requests import EVALUATE, FAILED, OUT_OF_RANGE, PREPARE, REFUSED, TRAIN

from .asked import update_of


def test_a_job_for_groups_is_refused_before_a_charge_where_data_tell_none(owner, open_job_of):
    """Each record would be a group of its own, and the promise to patients empty."""
    mary = owner(
        open_job_of(
            privacy={"unit": "group"},
            data={"group_column": "document"},
            evaluation={"counts": "off"},
        )
    )
    assert not mary.ask(PREPARE).has_error()
    told = mary.data
    for data in (
        dataclasses.replace(told, records_per_group=None),
        dataclasses.replace(told, train=dataclasses.replace(told.train, groups=None)),
        dataclasses.replace(told, test=dataclasses.replace(told.test, groups=None)),
    ):
        work = WorkHere("mary", Workplace(mary.learner, task_for(mary.job, 2)), data)
        policy = Policy.simulated(mary.job)
        mary.agent = Agent("mary", work, mary.account, mary.ledger, policy=policy)
        for kind in (PREPARE, TRAIN):
            reply = mary.ask(kind)
            assert reply.error.code == REFUSED
            assert "declares no groups" in reply.error.reason
    with Ledger(mary.ledger) as ledger:
        assert [e.event for e in ledger.entries() if e.event != SIZE_EVENT] == []


def test_a_spent_budget_refuses_before_training_and_names_no_data(owner, open_job_of, texts):
    dear = open_job_of(privacy={"epsilon": 8.0, "limit": 0.05})
    mary = owner(dear, secrets=lambda what: pytest.fail("training began"))
    for kind, words in (
        (PREPARE, "too little privacy budget left"),
        (TRAIN, "the job promises at most 0.05"),
    ):
        reply = mary.ask(kind)
        assert reply.error.code == REFUSED
        assert words in reply.error.reason
        assert mary.entries() == []
        assert not any(text in reply.error.reason for text in texts)
        assert str(mary.ledger) not in reply.error.reason


def test_a_second_job_on_spent_data_is_refused_before_its_first_round(owner, job):
    mary = owner(job)
    for round_ in (1, 2, 3):
        update_of(mary.ask(TRAIN, round_))
    reply = mary.ask(PREPARE, run="another")
    assert reply.error.code == REFUSED
    assert "too little privacy budget left" in reply.error.reason
    assert "spent epsilon" not in reply.error.reason
    assert not mary.ask(PREPARE).has_error()


def test_an_unknown_request_is_answered_with_an_error(owner, job):
    reply = owner(job).ask("train.everything")
    assert reply.error.code == FAILED
    assert "Unknown request 'train.everything'" in reply.error.reason


def test_another_version_is_refused_with_both_named(owner, job):
    mary = owner(job)
    for kind in (PREPARE, TRAIN, EVALUATE):
        reply = mary.ask(kind, version="9.9.9")
        assert reply.error.code == REFUSED
        assert "mary runs Umbel 0.1.0, the server 9.9.9" in reply.error.reason
    assert mary.entries() == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda arrays: {name: array * np.nan for name, array in arrays.items()}, "NaN"),
        (lambda arrays: {name: array.reshape(-1) for name, array in arrays.items()}, "shape"),
        (lambda arrays: {f"{name}.x": array for name, array in arrays.items()}, "do not match"),
        (lambda arrays: {n: a.astype(np.float64) for n, a in arrays.items()}, "float64"),
    ],
)
def test_a_global_model_that_does_not_fit_is_refused_before_anything_is_spent(
    change, words, owner, job
):
    mary = owner(job)
    arrays = change({n: array + 1 for n, array in mary.learner.initial.items()})
    for kind in (TRAIN, EVALUATE):
        reply = mary.ask(kind, arrays=arrays)
        assert reply.error.code == FAILED
        assert words in reply.error.reason
    assert mary.entries() == []


def test_weights_that_make_rounding_matter_are_refused_before_anything_is_spent(owner, job):
    mary = owner(job)
    arrays = {name: array.copy() for name, array in mary.learner.initial.items()}
    next(iter(arrays.values())).flat[0] = 1e5
    for kind in (TRAIN, EVALUATE):
        reply = mary.ask(kind, arrays=arrays)
        assert reply.error.code == OUT_OF_RANGE
        assert "none may be above 10000" in reply.error.reason
    assert mary.entries() == []


def test_a_job_that_is_no_job_is_answered_with_an_error(owner, job):
    mary = owner(job)
    for text in ("{}", json.dumps({**json.loads(job.to_json()), "more": 1}), "not json", "[1]"):
        reply = mary.ask(TRAIN, job=text)
        assert reply.error.code == FAILED
    assert mary.entries() == []


def test_a_job_without_tests_is_never_tested(owner, open_job_of):
    mary = owner(open_job_of(evaluation={"counts": "off"}))
    for kind, test in ((EVALUATE, False), (TRAIN, True)):
        reply = mary.ask(kind, test=test)
        assert reply.error.code == REFUSED
        assert "the job has no tests" in reply.error.reason
    assert mary.entries() == []


def test_what_a_plan_refuses_for_one_owner_its_agent_refuses_uncharged(owner, open_job_of):
    """A dishonest server makes no plan, or another one."""
    for sections, key in (
        ({"privacy": {"delta": 0.02}}, "privacy.delta"),
        ({"strategy": {"weighting": "examples"}}, "strategy.weighting"),
        ({"training": {"gradient_clipping": 1.0}}, "training.gradient_clipping"),
    ):
        mary = owner(open_job_of(**sections))
        for kind in (PREPARE, TRAIN):
            reply = mary.ask(kind)
            assert reply.error.code == REFUSED
            assert key in reply.error.reason
        assert mary.entries() == []
