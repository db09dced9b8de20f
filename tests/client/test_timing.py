"""When answers leave: after a time or an amount of work that follows from public numbers."""

import csv
import dataclasses
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from umbel.client.agent import Agent
from umbel.client.budget import Budget
from umbel.client.policy import Policy
from umbel.client.timing import Numbers, Timing, most_drawn, most_held
from umbel.client.work import WorkHere, Workplace
from umbel.flower import stamp, take_server_identity
from umbel.learning.pace import Pace, measured
from umbel.learning.tasks import task_for
from umbel.simulations.federation import federate
from umbel.wire.arrays import to_array_record
from umbel.wire.requests import ASSIGNMENT, PREPARE, TRAIN, Assignment

PACE = Pace(start=0.5, step=0.1, record=0.01, alone=0.02, tested=0.003, prepared=0.004)


class Clock:
    """A clock that tests move: by what work takes, and by waiting."""

    def __init__(self):
        self.time, self.waits = 1000.0, []

    def now(self):
        return self.time

    def wait_until(self, moment):
        self.waits.append(moment)
        self.time = max(self.time, moment)


@pytest.fixture
def owner(open_job_of, learner_of, tmp_path):
    """An owner whose work takes as long as its records say."""

    def build(
        seconds,
        name="ledger",
        interrupted=False,
        clock=None,
        timing=True,
        **sections,
    ):
        job = open_job_of(**sections)
        clock = clock or Clock()

        class Slow(WorkHere):
            def prepare(self):
                clock.time += seconds
                super().prepare()

            def trained(self, *arguments, **named):
                clock.time += seconds
                self.interruptions += interrupted
                return super().trained(*arguments, **named)

        federation = federate(job)
        share = federation.shares[0]
        work = Slow("mary", Workplace(learner_of(job), task_for(job, 2)), federation.data(share))
        agent = Agent(
            "mary",
            work,
            federation.account(share),
            tmp_path / f"{name}.sqlite",
            policy=Policy.simulated(job),
            timing=Timing(clock, PACE, "mary") if timing else None,
        )

        def ask(kind, round_=1, **changes):
            take_server_identity(1)
            assignment = Assignment("0.1.0", "run", job.to_json(), round_, 0, job.training.rounds)
            from flwr.app import Message, RecordDict

            content = RecordDict(
                {ASSIGNMENT: dataclasses.replace(assignment, **changes).to_record()}
            )
            if kind != PREPARE:
                content["arrays"] = to_array_record(learner_of(job).initial)
            message = Message(content, dst_node_id=2, message_type=kind)
            stamp(message)
            reply = agent.handle(message)
            assert not reply.has_error(), reply.error.reason
            return clock.time

        return ask

    return build


def test_a_runs_first_answer_leaves_at_the_same_time_however_long_its_records_took(owner):
    counts = {"evaluation": {"counts": "private", "every": 1}}
    quick, slow = owner(0.0, "quick", **counts), owner(0.31, "slow", **counts)
    left = slow(PREPARE, tests=4)
    assert left == quick(PREPARE, tests=4)
    # Asked again, as a server does that did not hear of it, nothing is read.
    assert slow(PREPARE, tests=4) == left


def test_an_answer_that_was_interrupted_leaves_after_whole_spans(owner):
    """A record had ended the process that works: how long it took to be there again is not told."""
    left = []
    for seconds in (0.0, 0.2, 0.4):
        clock = Clock()
        ask = owner(seconds, f"after-{seconds}", interrupted=True, clock=clock)
        ask(TRAIN)  # reads the records first
        begun = clock.time
        ask(TRAIN, 2)
        left.append(round(clock.waits[-1] - begun, 6))
    assert len(set(left)) == 1
    assert left[0] > 0.4


def test_an_answer_that_is_filled_does_not_wait(owner):
    clock = Clock()
    ask = owner(0.3, clock=clock)
    ask(PREPARE)
    waits = list(clock.waits)
    assert ask(TRAIN) == pytest.approx(waits[-1] + 0.3)
    assert clock.waits == waits


def test_an_owner_is_told_that_a_long_wait_is_a_wait(caplog):
    with caplog.at_level(logging.INFO):
        for seconds, told in ((5.0, 0), (60.0, 1)):
            clock = Clock()
            Timing(clock, PACE, "mary").leave(clock.now(), seconds)
            assert clock.now() == 1000.0 + seconds
            assert (
                len([r for r in caplog.records if "at a time that is public" in r.message]) == told
            )


def test_what_takes_too_long_leaves_after_whole_spans_and_the_owner_is_told(owner, caplog):
    with caplog.at_level(logging.WARNING):
        clock = Clock()
        owner(0.0, "usual", clock=clock)(PREPARE)
        span = clock.waits[-1] - 1000
        assert not [r for r in caplog.records if "should take" in r.message]
        clock = Clock()
        owner(2.5 * span, "late", clock=clock)(PREPARE)
        assert (clock.waits[-1] - 1000) / span == pytest.approx(3)
    assert [r for r in caplog.records if "should take" in r.message]


def test_a_simulation_and_a_job_without_privacy_do_not_wait(owner):
    clock = Clock()
    owner(1.0, "simulated", clock=clock, timing=False)(TRAIN)
    owner(1.0, "open", clock=clock, privacy={"unit": "none"})(TRAIN)
    assert clock.waits == []


def test_a_held_out_file_is_read_and_tested_within_the_time_of_its_own_published_size(
    open_job_of, reviews_csv, tmp_path
):
    """Its owner has far fewer records to train on, whose size says nothing of it."""
    with reviews_csv.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    # Other texts: what is held out is not trained on as well.
    copies = [row | {"text": f"{n} {row['text']}"} for n in range(20) for row in rows]
    small, large = tmp_path / "small.csv", tmp_path / "large.csv"
    for path, some in ((small, rows[:40]), (large, copies)):
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(some)
    data = {"path": str(small), "test_path": str(large)}
    job = open_job_of(data=data, simulation={"partition": "iid", "clients": 1})
    federation = federate(job)
    (share,) = federation.shares
    account, held = federation.account(share), len(share.test)
    budget = Budget("mary", tmp_path / "ledger.sqlite", account.name, Policy.simulated(job), True)
    told = account.test_size(job, budget)
    assert abs(told - held) < 300 < held
    numbers = Numbers(account.training_size(job, budget), told, 0.1, 1)
    timing = Timing(Clock(), PACE, "mary")
    assert timing.preparing(numbers) > (held + 40) * PACE.prepared
    assert timing.most(job, numbers).held > held
    # Of the data's size alone, as before, either would have overrun.
    before = dataclasses.replace(numbers, test_size=account.published(job, budget))
    assert timing.most(job, before).held < held


def test_no_more_are_drawn_than_there_is_time_for_but_once_in_a_billion():
    """Also where the split into training and held-out units scatters how many there are."""
    generator = np.random.default_rng(3)
    for size, rate, steps in ((2000, 1.0, 1), (2000, 0.1, 8)):
        whole, share = round(size / 0.8), 0.8
        units = np.arange(whole + 1)
        spread = binom.pmf(units, whole, share)
        most = most_drawn(size, rate, steps, share)
        assert spread @ binom.sf(most, steps * units, rate) < 2**-30
        assert most > most_drawn(size, rate, steps)
        drawn = generator.binomial(steps * generator.binomial(whole, share, 1000), rate)
        assert drawn.max() < most
    for size, rate, steps in ((100, 0.3, 2), (1300, 0.0246, 24), (5000, 0.1, 8), (1000, 1.0, 1)):
        most = most_drawn(size, rate, steps)
        noise = np.arange(-1000, 1001)
        weights = np.tanh(0.05) * np.exp(-0.1 * np.abs(noise))
        trials = steps * np.maximum(0, size + noise)
        assert weights @ binom.sf(most, trials, rate) < 2**-30
        assert weights @ binom.sf(most - 1, trials, rate) >= 2**-30 * 0.99
        assert most_held(size) > size + 200


def test_time_follows_from_the_public_numbers_and_grows_with_each(open_job_of):
    job = open_job_of()
    timing = Timing(Clock(), PACE, "mary")
    numbers = Numbers(1000, 200, 0.05, 1)

    def answering(numbers, train=True, test=True):
        return timing.answering(job, timing.most(job, numbers), train=train, test=test)

    usual = answering(numbers)
    for more in (
        dataclasses.replace(numbers, training_size=1200),
        dataclasses.replace(numbers, test_size=300),
        dataclasses.replace(numbers, sampling_rate=0.06),
        dataclasses.replace(numbers, records_per_unit=2),
    ):
        assert answering(more) > usual
    parts = [answering(numbers, train, not train) for train in (True, False)]
    assert sum(parts) == pytest.approx(usual)


@pytest.mark.parametrize("adapter", ["lora", "head"])
def test_the_pace_is_measured_without_a_record_and_leaves_the_model_as_it_was(
    adapter, job_of, learner_of
):
    job = job_of(model={**job_of().model.model_dump(exclude={"lora"}), "adapter": adapter})
    learner = learner_of(job)
    pace = measured(learner, task_for(job, 2))
    assert pace.start > 0
    assert pace.tested > 0
    assert (pace.prepared > 0) == (adapter == "head")
    assert all(value >= 0 for value in dataclasses.astuple(pace)[:6])


@pytest.mark.slow
def test_the_benchmark_runs():
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, str(root / "benchmarks" / "timing.py"), "--smoke", "--json"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["bars"]) == {"auc", "correlation", "overhead"}
