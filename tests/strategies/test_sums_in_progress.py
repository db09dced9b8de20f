"""FedBuff's buffer with several sums in progress: whatever order owners get ready, and sums end, in."""

from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.planning.buffered import Buffer

CAP = 4


class Federation:
    """A buffer, and all that happens around it; it checks what the buffer guarantees."""

    def __init__(self, owners, size, farthest):
        self.names = [f"client-{number}" for number in range(owners)]
        self.buffer = Buffer(size, farthest, None, dict.fromkeys(self.names, CAP))
        self.buffer.begin(self.names)
        self.sums, self.used = [], set()
        self.away = set()

    def ready(self, name):
        if name in self.buffer.flights and name not in self.buffer.summing:
            self.buffer.arrived(name, self.buffer.now + 1)

    def turn_away(self, name):
        self.away ^= {name}
        if name not in self.away and name not in self.buffer.flights:
            self.buffer.begin([name])

    def may_open(self):
        members = self.buffer.next_members(without=self.away)
        return [
            n for n in members if self.buffer.flights[n].ready is not None
        ] == members and members

    def open(self, name=None):
        if not (members := self.may_open()):
            return
        assert len(members) >= self.buffer.size
        assert not self.buffer.summing & set(members), "an owner is in one sum at a time"
        self.buffer.open(members)
        self.sums.append({one: self.buffer.flights[one].version for one in members})

    def make(self, members):
        for name, version in members.items():
            assert self.buffer.version - version <= self.buffer.farthest
            assert (name, version) not in self.used, "an update is in one version"
            self.used.add((name, version))
        self.sums.remove(members)
        self.buffer.close(members)
        self.buffer.summed(members)
        assert all(self.buffer.asked[name] <= CAP for name in members)

    def give_up(self, members):
        self.sums.remove(members)
        self.buffer.close(members)


STEPS = st.lists(
    st.tuples(st.sampled_from(["ready", "open", "made", "given up", "away"]), st.integers(0, 99)),
    max_size=120,
)


@settings(max_examples=100)
@given(st.integers(3, 12), st.integers(2, 5), st.integers(0, 4), STEPS)
def test_in_every_order_updates_are_in_one_sum_and_not_too_old(owners, size, farthest, steps):
    it = Federation(owners, min(size, owners), farthest)
    for what, number in steps:
        name = it.names[number % owners]
        if what == "made" and it.sums:
            it.make(it.sums[number % len(it.sums)])
        elif what == "given up" and it.sums:
            it.give_up(it.sums[number % len(it.sums)])
        elif what == "away":
            it.turn_away(name)
        elif what == "ready":
            it.ready(name)
        elif what == "open":
            it.open()
    # Nothing is stuck: once everybody is here, and sums end, another one can begin.
    while it.sums:
        it.make(it.sums[-1])
    it.away = set()
    it.buffer.begin(set(it.names) - it.buffer.flights.keys())
    for name in it.names:
        it.ready(name)
    may = sum(map(it.buffer.may_train, it.names))
    assert bool(it.may_open()) == (may >= it.buffer.size)


@given(st.integers(2, 5), st.integers(1, 4))
def test_disjoint_sums_overlap_as_far_as_updates_may_be_old(size, farthest):
    it = Federation(size * 8, size, farthest)
    for _ in range(9):
        for name in it.names:
            it.ready(name)
        it.open()
    assert len(it.sums) == min(8, farthest + 1)


def test_where_no_update_may_be_stale_one_sum_follows_another():
    it = Federation(8, 4, 0)
    for name in it.names:
        it.ready(name)
    it.open()
    it.open()
    assert len(it.sums) == 1
