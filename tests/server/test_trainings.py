"""Asynchronous rounds as between machines: whoever has trained is summed, while others train on."""

from collections import Counter

import numpy as np
import pytest

from umbel.errors import Interrupted, RoundFailed
from umbel.flower import stamp
from umbel.privacy.ledger.ledger import Ledger
from umbel.run.events import Round
from umbel.server.buffered import buffered_round
from umbel.server.rounds import run_rounds
from umbel.simulations.site import FIRST_NODE
from umbel.wire.buffered import BUFFER
from umbel.wire.requests import ASSIGNMENT, CONFIRM, PREPARE, TRAIN, Assignment


class Machines:
    """A grid of machines that work on what they are sent at once; those that are `busy` when they are not any
    more. Those that are `off` are not connected."""

    def __init__(self, workers, names):
        self.workers, self.names = workers, names
        self.busy, self.off = set(), set()
        self.trained = []
        """Name and version, of each training that was asked for."""
        self.before = lambda kind, name: None
        self._mail, self._replies = [], {}

    def get_node_ids(self):
        return [node for node, name in self.names.items() if name not in self.off]

    def push_messages(self, messages):
        ids = [stamp(message) for message in messages]
        self._mail += messages
        return ids

    def pull_messages(self, ids):
        mail, self._mail = self._mail, []
        for message in mail:
            name, kind = self.names[message.metadata.dst_node_id], message.metadata.message_type
            if name in self.off or (name in self.busy and kind != PREPARE):
                self._mail.append(message)
                continue
            self.before(kind, name)
            if kind == TRAIN and BUFFER not in message.content:
                asked = Assignment.from_record(message.content[ASSIGNMENT])
                self.trained.append((name, asked.round - 1))
            reply = self.workers.call("handle", message.metadata.dst_node_id, message)
            stamp(reply)
            self._replies[message.metadata.message_id] = reply
        return [self._replies.pop(one) for one in list(ids) if one in self._replies]


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
        clients = sorted(run.plan.by_name)
        machines = Machines(
            run.grid.inner._workers, {FIRST_NODE + n: one for n, one in enumerate(clients)}
        )
        run.grid, run.ahead = machines, "arrival"
        run.nodes = {name: node for node, name in machines.names.items()}
        return run, machines

    return build


def rounds(run):
    return run_rounds(run, buffered_round if run.ahead else None)


def summed(run):
    return [event for event in run.folder.told(Round) if event.aggregated]


def charged(run):
    """How often each owner was charged for each round that it trained."""
    found = {}
    for path in (run.folder.path / "ledgers").glob("*.sqlite"):
        with Ledger(path) as ledger:
            found[path.stem] = Counter(int(row.what) for row in ledger.entries_of(run.id))
    return found


def each_once(run):
    return all(count == 1 for one in charged(run).values() for count in one.values())


def after(run, round_, act):
    """Do something once so many rounds were summed."""
    tell = run.tell

    def told(event):
        tell(event)
        if isinstance(event, Round) and event.aggregated and event.round == round_:
            act()

    run.tell = told


def test_a_buffer_of_all_clients_gives_the_synchronous_model_to_the_last_bit(start, start_run, job):
    whole = start_run(job.changed({"strategy": {"name": "fedavg"}}), name="whole")
    run_rounds(whole)
    run, _ = start(job.changed({"strategy.options.buffer": 4}))
    rounds(run)
    assert all(np.array_equal(run.arrays[name], whole.arrays[name]) for name in whole.arrays)
    assert each_once(run)


def test_a_busy_owner_holds_nobody_up_until_its_version_would_be_too_old(start, job):
    run, machines = start(job, reproducible=False)
    machines.busy.add("shop")
    after(run, 2, machines.busy.clear)
    rounds(run)
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
    rounds(run)
    assert [e.clients for e in summed(run)[:3]] == [["film", "press", "social"]] * 3
    assert {version for name, version in machines.trained if name == "shop"} <= {0, 3}


@pytest.mark.parametrize("moment", [TRAIN, CONFIRM])
def test_what_waits_is_neither_trained_nor_charged_again_by_another_process(start, job, moment):
    class Killed(BaseException):
        pass

    run, machines = start(job, reproducible=False)
    times = []

    def kill(kind, name):
        times.append(kind)
        if times.count(moment) == 9:
            raise Killed

    machines.before = kill
    with pytest.raises(Killed):
        rounds(run)
    again, _ = start(job, reproducible=False)
    again.restore()
    assert again.round < 4
    rounds(again)
    assert len(summed(again)) == 4
    assert each_once(again)


def test_a_run_is_stopped_while_it_waits(start, job):
    run, machines = start(job)
    machines.busy |= {"shop", "social"}
    run.should_stop = lambda: run.clock.now() > 60
    with pytest.raises(Interrupted, match="Stopped before the first round"):
        rounds(run)


def test_if_too_few_get_ready_the_run_says_so(start, job):
    run, machines = start(job.changed({"cohort.when_stuck": "stop"}))
    machines.busy |= {"shop", "social"}
    with pytest.raises(RoundFailed, match="no sum could be made"):
        rounds(run)
