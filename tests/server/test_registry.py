"""Which nodes are let in: after any admissions, removals and restarts those of the members, no others."""

import contextlib
import os
import random
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.consortium.authority import Consortium
from umbel.consortium.card import Request, public_pem
from umbel.errors import DeploymentError
from umbel.flower.control import Control, Registered
from umbel.privacy.secagg.keys import Identity
from umbel.privacy.secagg.roster import Limits
from umbel.run.store import Store
from umbel.server.registry import Registry, changes
from umbel.server.supervisor import Supervisor
from umbel.storage.processes import free_port

NAMES = "abcde"
PATIENCE = 600.0
KEYS = st.sampled_from([name.encode() for name in NAMES])


class Door:
    """A link as Flower's is: a node cannot be registered twice, nor a missing one unregistered."""

    def __init__(self, broken=()):
        self.nodes, self.broken, self.calls = {}, set(broken), 0

    def registered(self):
        return [Registered(key, 1, name) for key, name in self.nodes.items()]

    def register(self, key, name):
        self._call(name, key not in self.nodes)
        self.nodes[key] = name

    def unregister(self, key):
        self._call(self.nodes[key], key in self.nodes)
        del self.nodes[key]

    def close(self):
        pass

    def _call(self, name, allowed):
        self.calls += 1
        if not allowed or name in self.broken:
            raise DeploymentError(f"refused: {name}")


@pytest.fixture
def consortium(tmp_path):
    return Consortium.create(tmp_path / "hospitals", "127.0.0.1", free_port(), Limits())


@pytest.fixture
def requests(consortium):
    """A request of each owner, always with the same keys."""

    def build(name):
        node = public_pem(ec.generate_private_key(ec.SECP384R1()).public_key())
        return Request.make(consortium.card, name, Identity(os.urandom(64)), node)

    return {name: build(name) for name in NAMES}


@given(
    st.dictionaries(KEYS, st.text(max_size=3)),
    st.dictionaries(KEYS, st.sampled_from(NAMES)),
    st.sets(st.sampled_from(NAMES)),
)
@settings(deadline=None)
def test_what_is_changed_makes_the_nodes_those_of_the_members(members, nodes, unknown):
    here = [Registered(key, 1, name) for key, name in nodes.items()]
    new, gone = changes(members, unknown, here)
    after = (set(nodes) | set(new)) - set(gone)
    stays = {key for key, name in nodes.items() if name in unknown}
    assert after == set(members) | stays
    assert not set(new) & set(nodes)
    assert changes(members, unknown, [Registered(k, 1, nodes.get(k, "")) for k in after]) == (
        [],
        [],
    )


def test_one_member_that_cannot_be_let_in_keeps_no_other_out(consortium, requests):
    door, told, now = Door(broken="a"), [], [0.0]
    registry = Registry(consortium, lambda: door, told.append, lambda: now[0])
    for name in "ab":
        consortium.admit(requests[name])
    registry.settle()
    assert set(door.nodes.values()) == {"b"}
    assert ["a cannot be admitted" in text for text in told] == [True]
    calls = door.calls
    for _ in range(1000):
        registry.settle()
    assert (door.calls, len(told)) == (calls, 1)  # neither tried nor told again at once
    consortium.admit(requests["c"])
    registry.settle()
    assert set(door.nodes.values()) == {"b", "c"}  # what is new does not wait
    door.broken, now[0] = set(), 60.0
    registry.settle()
    assert set(door.nodes.values()) == {"a", "b", "c"}
    assert told[1:] == [""]


def test_a_member_whose_request_is_damaged_stays_and_is_named(consortium, requests):
    door, told = Door(), []
    registry = Registry(consortium, lambda: door, told.append)
    for name in "abc":
        consortium.admit(requests[name])
    registry.settle()
    (consortium.path / "members" / "a.json").write_text("{")
    epoch = consortium.epoch
    (consortium.path / "rosters" / f"{epoch + 1:04}").write_bytes(consortium.roster_of(epoch))
    registry.settle()
    assert set(door.nodes.values()) == {"a", "b", "c"}
    assert "'a'" in told[0]


def test_a_link_that_does_not_answer_stops_nothing(consortium, requests):
    told = []

    def no_door():
        raise DeploymentError("it does not answer")

    consortium.admit(requests["a"])
    Registry(consortium, no_door, told.append).settle()
    assert told == ["it does not answer"]


class Looks:
    """When a registry has looked at the members: each look is told."""

    def __init__(self, registry):
        self._registry, self._settle = registry, registry.settle
        self._over = threading.Condition()
        registry.settle = self._look

    def _look(self, **how):
        self._settle(**how)
        with self._over:
            self._over.notify_all()

    def wait_for(self, epoch):
        """Until the members of this roster are let in, and no others."""
        with self._over:
            assert self._over.wait_for(lambda: self._registry._settled == (epoch, False), PATIENCE)


@contextlib.contextmanager
def serving(consortium):
    """The real supervisor, with a real link."""
    supervisor = Supervisor(consortium, "127.0.0.1")
    thread = threading.Thread(target=supervisor.run, daemon=True)
    thread.start()
    try:
        yield supervisor
    finally:
        supervisor.stop()
        thread.join(PATIENCE)


def let_in(supervisor):
    with contextlib.closing(Control(supervisor._link)) as door:
        return sorted(node.name for node in door.registered())


def test_after_any_admissions_removals_and_restarts_the_link_lets_the_members_in(
    consortium, requests
):
    generator = random.Random(11)
    members = set()
    store = Store(consortium.database)
    store.add("gone", "its folder was deleted", 3)

    def change():
        name = generator.choice(NAMES)
        if name in members:
            consortium.remove(name)
            members.remove(name)
        else:
            consortium.admit(requests[name])
            members.add(name)

    for _ in range(2):
        change()  # while no server runs
        with serving(consortium) as supervisor:
            looks = Looks(supervisor._registry)
            for steps in (1, 1, 3, 1, 4):
                for _ in range(steps):
                    change()
                looks.wait_for(consortium.epoch)
                assert let_in(supervisor) == sorted(members)
                assert store.notes() == {}
    # Nor does a run that cannot be led end the server.
    assert store.run("gone").status == "failed"
    assert "holds no run" in store.run("gone").reason
