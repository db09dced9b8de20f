"""What the plan accepts no agent refuses: whole runs of jobs that nobody wrote by hand."""

import random
import re
from collections import Counter
from contextlib import suppress

import pytest

from umbel.client.policy import Policy
from umbel.errors import DataError, JobError, PlanRefused, RoundFailed, StrategyError
from umbel.learning.model import ModelShape
from umbel.learning.probing.verdict import INDEPENDENT
from umbel.planning.facts import ClientFacts
from umbel.planning.plan import Plan
from umbel.planning.refusals import job_refusals
from umbel.server.rounds import run_rounds
from umbel.wire.requests import REFUSED

KEYS = {
    "privacy.unit": ["example", "example", "group", "client", "client", "none"],
    "privacy.mechanism": ["central"],
    "privacy.clipping": ["adaptive"],
    "privacy.epsilon": [0.05, 0.1, 0.1000001, 0.13, 0.2, 1.0, 100.0, 1e4],
    "privacy.delta": [1e-12, 1e-5, 0.009, 0.2, 0.3],
    "privacy.clipping_norm": [0.001, 0.03, 1.0, 1000.0],
    "privacy.limit": [0.05, 1.0, 7.0, 8.0, 50.0],
    "privacy.spare_rounds": [0, 3, 500],
    "evaluation.counts": ["exact", "private", "off"],
    "evaluation.every": [0, 1, 2],
    "evaluation.epsilon": [0.01, 0.1, 0.5, 7.9, 8.0],
    "evaluation.keep": ["best"],
    "evaluation.patience": [1],
    "encryption.mode": ["none", "none"],
    "encryption.minimum": [3, 4, 5],
    "encryption.colluders": [0.0, 0.3, 0.49],
    "encryption.confirm": [False],
    "encryption.group_size": [4],
    "encryption.clip": [1e-30, 1e-4, 1.0, 1000.0, 2.0**21, 1e30],
    "encryption.name_spoilers": [True],
    "strategy.weighting": ["equal", "examples"],
    "strategy.name": ["fedadam", "fedprox", "FedMedian", "FedAvg", "no such strategy"],
    "strategy.options": [{"learning_rate": 0.5}, {"proximal_mu": -1.0}, {"proximal_mu": "x"}],
    "cohort.size": [1, 3, 4, 9],
    "cohort.minimum": [1, 3],
    "cohort.participations": [1, 2],
    "training.batch_size": [1, 8, 10**6],
    "training.learning_rate": [1e-30, 0.01, 1e4, 1e300],
    "training.optimizer": ["sgd"],
    "training.momentum": [0.999999],
    "training.weight_decay": [0.1, 1e30],
    "training.gradient_clipping": [1.0],
    "training.warmup": [0.5],
    "model.adapter": ["lora", "full", "head"],
    "model.lora": [{"rank": 2, "dropout": 0.1}],
    "model.padding": ["max_length"],
    "data.group_column": ["text"],
}
"""Values of each key that a job may have; most jobs set a few of them."""


def drawn(number):
    """The sections of one job, from its number alone."""
    lots = random.Random(number)
    few = lots.choice([1, 1, 1, 2, 2, 3, 5])
    sections = {"training": {"rounds": 2, "local_steps": 1}}
    for key in lots.sample(sorted(KEYS), few):
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = lots.choice(KEYS[key])
    return sections


@pytest.fixture
def outcome(job_of, start_run):
    """What became of a job, and what its agents refused: they take part in whole runs."""

    def run(number):
        refused = []

        def listen(request, reply, assignment):
            if reply.has_error() and reply.error.code == REFUSED:
                refused.append(reply.error.reason)
            return [reply]

        try:
            job = job_of(**drawn(number))
        except JobError:
            return "no job", refused
        try:
            made = start_run(job, listen, name=f"run-{number}")
        except (StrategyError, DataError):
            return "refused", refused
        except PlanRefused as error:
            check_words(job, str(error))
            return "refused", refused
        for warning in made.plan.warnings:
            check_words(job, warning)
        # Training may diverge, or have no round that counts: that is no refusal.
        with suppress(RoundFailed):
            run_rounds(made)
        return "run", refused

    return run


def check_words(job, text):
    """A key is said to have a number only if the job has it: no default is laid at anybody's door."""
    values = job.model_dump()
    for section, name in re.findall(r"\b([a-z]+)\.([a-z_]+) = [0-9]", text):
        assert values[section][name] is not None, text


def check(outcome, numbers):
    found = Counter()
    for number in numbers:
        became, refused = outcome(number)
        assert not refused, (number, drawn(number), refused[0])
        found[became] += 1
    return found


def test_no_agent_refuses_what_the_plan_accepts(outcome):
    found = check(outcome, range(12))
    assert found["run"] >= 3
    assert found["refused"] >= 3


@pytest.mark.slow
@pytest.mark.parametrize("block", range(8))
def test_no_agent_refuses_what_the_plan_accepts_in_many_jobs(block, outcome):
    check(outcome, range(100 + 50 * block, 150 + 50 * block))


@pytest.mark.parametrize("number", range(40))
def test_what_is_wrong_with_a_job_alone_its_plan_and_every_agent_refuse(number, job_of):
    """Plan and policy call one function; here that they do."""
    try:
        job = job_of(**drawn(number))
    except JobError:
        return
    reasons = job_refusals(job)
    policy = Policy.simulated(job)
    facts = [ClientFacts(name, 500, encryption_required=job.encrypted) for name in "abcdef"]
    model = ModelShape({"w": (10, 10)}, 1000, "", "", INDEPENDENT)
    if not reasons:
        if job.encrypted or not job.simulation.encryption_required:
            policy.check("mary", job)
        return
    for refuse in (
        lambda: policy.check("mary", job),
        lambda: Plan.compile(job, facts, model),
    ):
        with pytest.raises((PlanRefused, StrategyError)) as caught:
            refuse()
        if isinstance(caught.value, PlanRefused):
            assert all(reason in str(caught.value) for reason in reasons)
