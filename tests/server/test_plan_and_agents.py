"""What the plan accepts no agent refuses: whole runs of jobs that nobody wrote by hand."""

import random

import pytest

from umbel.errors import JobError, PlanRefused, StrategyError
from umbel.messages import REFUSED
from umbel.server.rounds import run_rounds

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
    few = lots.choice([1, 2, 3, 4, 6])
    sections = {"training": {"rounds": 2, "local_steps": 1}}
    for key in lots.sample(sorted(KEYS), few):
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = lots.choice(KEYS[key])
    return sections


@pytest.fixture
def outcome(job_of, start_run, caplog):
    """What became of a job: "refused" by the plan, or what its agents made of it."""

    def run(number):
        sections = drawn(number)
        heard = []

        def listen(request, reply, assignment):
            if reply.has_error() and reply.error.code == REFUSED:
                heard.append(reply.error.reason)
            return [reply]

        try:
            job = job_of(**sections)
        except JobError:
            return "no job", heard
        try:
            made = start_run(job, listen, name=f"run {number}")
        except (PlanRefused, StrategyError):
            return "refused", heard
        run_rounds(made)
        return "run", heard

    return run


import os
import time
import traceback


def test_fuzz(outcome):
    a, b = map(int, os.environ["FUZZ"].split("-"))
    for number in range(a, b):
        t = time.time()
        try:
            found = outcome(number)
        except Exception as error:
            found = ("CRASH", repr(error)[:300], traceback.format_exc().splitlines()[-3:])
        if found[0] not in ("no job",) and (found[0]=="CRASH" or found[1] or number % 10 == 0):
            print(number, f"{time.time()-t:.2f}", drawn(number), found, flush=True)
