"""Machines of owners that work when a test lets them, for asynchronous rounds as between machines."""

from collections import Counter

from umbel.flower import stamp
from umbel.privacy.ledger.ledger import Ledger
from umbel.run.events import Round
from umbel.simulations.site import FIRST_NODE
from umbel.wire.buffered import BUFFER
from umbel.wire.requests import ASSIGNMENT, PREPARE, TRAIN, Assignment

SUM = "sum"
"""The kind of a request for a kept update, which brings no model."""


class Machines:
    """A grid of machines that work on what they are sent at once; those that are `busy` when they are not any
    more. Those that are `off` are not connected. `before` hears of each request that is worked on, and may
    make its machine busy. Those that `lose` a request die with it, once."""

    def __init__(self, workers, names):
        self.workers, self.names = workers, names
        self.busy, self.off, self.lose = set(), set(), set()
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
            if not self._waits(kind, name):
                self.before(SUM if BUFFER in message.content else kind, name)
            if kind == TRAIN and name in self.lose:
                self.lose.remove(name)
                continue
            if self._waits(kind, name):
                self._mail.append(message)
                continue
            if kind == TRAIN and BUFFER not in message.content:
                asked = Assignment.from_record(message.content[ASSIGNMENT])
                self.trained.append((name, asked.round - 1))
            reply = self.workers.call("handle", message.metadata.dst_node_id, message)
            stamp(reply)
            self._replies[message.metadata.message_id] = reply
        return [self._replies.pop(one) for one in list(ids) if one in self._replies]

    def _waits(self, kind, name):
        return name in self.off or (name in self.busy and kind != PREPARE)


def on_machines(run):
    """Have a run go by who is ready, over machines; these."""
    clients = sorted(run.plan.by_name)
    names = {FIRST_NODE + number: one for number, one in enumerate(clients)}
    machines = Machines(run.grid.inner._workers, names)
    run.grid, run.ahead = machines, "arrival"
    run.nodes = {name: node for node, name in machines.names.items()}
    return machines


def summed(run):
    return [event for event in run.folder.told(Round) if event.aggregated]


def charged(run):
    """How often each owner was charged for each round that it trained."""
    found = {}
    for path in (run.folder.path / "ledgers").glob("*.sqlite"):
        with Ledger(path) as ledger:
            rounds = [row for row in ledger.entries_of(run.id) if not row.is_test]
            found[path.stem] = Counter(int(row.what) for row in rounds)
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
