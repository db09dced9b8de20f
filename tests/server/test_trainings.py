"""Asynchronous rounds as between machines: whoever has trained is summed, while others train on."""

from collections import Counter

import numpy as np
import pytest

from umbel.errors import Interrupted, RoundFailed
from umbel.run.events import Evaluation, Round
from umbel.server.attempts import present
from umbel.server.buffered import under_way
from umbel.server.overlapping import overlapping_rounds
from umbel.server.rounds import run_rounds
from umbel.wire.requests import CONFIRM, TRAIN

from .machines import SUM, after, each_once, on_machines, summed


@pytest.fixture
def job(job_of):
    return job_of(
        strategy={"name": "fedbuff", "options": {"buffer": 3, "max_staleness": 2}},
        training={"batch_size": 64, "rounds": 4},
        evaluation={"counts": "off"},
    )


@pytest.fixture
def start(start_run):
    """A run that goes by who is ready, over machines; the same name goes on with an earlier one."""

    def build(job, name="run", **named):
        run = start_run(job, name=name, **named)
        return run, on_machines(run)

    return build


def test_a_buffer_of_all_clients_gives_the_synchronous_model_to_the_last_bit(start, start_run, job):
    whole = start_run(job.changed({"strategy": {"name": "fedavg"}}), name="whole")
    run_rounds(whole)
    run, _ = start(job.changed({"strategy.options.buffer": 4}))
    overlapping_rounds(run)
    assert all(np.array_equal(run.arrays[name], whole.arrays[name]) for name in whole.arrays)
    assert each_once(run)


def test_a_busy_owner_holds_nobody_up_until_its_version_would_be_too_old(start, job):
    run, machines = start(job, reproducible=False)
    machines.busy.add("shop")
    after(run, 2, machines.busy.clear)
    overlapping_rounds(run)
    events = summed(run)
    assert [e.clients for e in events[:2]] == [["film", "press", "social"]] * 2
    assert events[2].staleness["shop"] == 2
    assert all(event.virtual is None for event in events)
    assert ("shop", 0) in machines.trained
    assert each_once(run)
    assert max(Counter(name for name, _ in machines.trained).values()) <= job.training.rounds


def test_who_was_away_begins_with_the_newest_version(start, job):
    run, machines = start(job, reproducible=False)
    shop = []

    def leave(kind, name):
        if kind == CONFIRM and not shop:
            shop.append(machines.off.add("shop"))

    machines.before = leave
    after(run, 3, machines.off.clear)
    overlapping_rounds(run)
    assert [e.clients for e in summed(run)[:3]] == [["film", "press", "social"]] * 3
    assert {version for name, version in machines.trained if name == "shop"} <= {0, 3}


@pytest.mark.parametrize("moment", [TRAIN, CONFIRM])
def test_what_waits_is_neither_trained_nor_charged_again_by_another_process(start, job, moment):
    class Killed(BaseException):
        pass

    run, machines = start(job, reproducible=False)
    times = []

    def kill(kind, name):
        times.append(TRAIN if kind == SUM else kind)
        if times.count(moment) == 9:
            raise Killed

    machines.before = kill
    with pytest.raises(Killed):
        overlapping_rounds(run)
    again, _ = start(job, reproducible=False)
    again.restore()
    assert again.round < 4
    overlapping_rounds(again)
    assert len(summed(again)) == 4
    assert each_once(again)


def test_a_run_is_stopped_while_it_waits(start, job):
    run, machines = start(job)
    machines.busy |= {"shop", "social"}
    run.should_stop = lambda: run.clock.now() > 60
    with pytest.raises(Interrupted, match="Stopped before the first round"):
        overlapping_rounds(run)


def test_if_too_few_get_ready_the_run_says_so(start, job):
    run, machines = start(job.changed({"cohort.when_stuck": "stop"}))
    machines.busy |= {"shop", "social"}
    with pytest.raises(RoundFailed, match="no sum .* shop, social: no answer before"):
        overlapping_rounds(run)
    [event] = run.folder.told(Round)
    assert event.epsilon.keys() == event.heads.keys() == {"film", "press"}, "they have trained"
    assert event.failed.keys() == {"shop", "social"}
    assert not event.aggregated


def test_those_who_are_away_are_waited_for_by_the_clock_of_turns(start, job):
    """In the middle of a sum this lets the others go on (``turns``)."""
    run, machines = start(job)
    machines.off |= {"shop", "social"}
    run.patience = 600.0
    assert present(run, 4) == ["film", "press"]
    assert run.clock.now() >= 600


@pytest.mark.parametrize("seen", [True, False], ids=["seen to go", "not seen to go"])
def test_a_request_that_died_with_an_agent_is_sent_again(start, job, seen):
    """By then all versions are made, and nobody but the test of the model waits for it."""
    tested = job.changed({"evaluation": {"counts": "private"}, "training.rounds": 1})
    run, machines = start(tested, reproducible=False)
    machines.lose.add("shop")

    def leave(kind, name):
        if seen and (kind, name) == (TRAIN, "shop"):
            machines.off.add("shop")
            machines.before = lambda kind, name: None

    machines.before = leave
    after(run, 1, machines.off.clear)
    overlapping_rounds(run)
    assert ("shop", 0) in machines.trained, "it trained when it was asked once more"
    assert run.folder.told(Evaluation)[-1].round == 1
    assert run.clock.now() < job.cohort.deadline
    assert each_once(run)


def test_an_agent_that_dies_of_each_training_is_asked_no_more_often_than_one_that_fails(start, job):
    run, machines = start(job, reproducible=False)
    died = []

    def die(kind, name):
        if (kind, name) == (TRAIN, "shop"):
            died.append(run.clock.now())
            machines.lose.add(name)
            machines.off.add(name)

    machines.before = die
    under_way(run)
    for moment in range(120):
        run.clock.wait_until(moment / 2)
        run.trainings.attend()
        if died and run.clock.now() >= died[-1] + 3:
            machines.off.clear()
    first, *later = np.diff(died)
    assert first < 10, "whoever was started again once is asked as soon as it is back"
    assert len(later) >= 3
    assert min(later) >= 10
