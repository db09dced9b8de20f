"""How many connections strangers may hold, and how fast they may begin them."""

from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.flower.admission import Admission, Bounds, network_of


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def hold(admission, ended, *hosts):
    """Connections that stay open until they are ended."""
    taken = []
    for host in hosts:
        if (guest := admission.enter(host)) is not None:
            guest.end = lambda guest=guest: ended.append(guest)
            taken.append(guest)
    return taken


@given(
    st.lists(
        st.tuples(st.floats(0, 3), st.sampled_from("abcde"), st.booleans()),
        min_size=1,
        max_size=300,
    )
)
@settings(max_examples=60, deadline=None)
def test_never_more_wait_than_there_is_room_whoever_comes_and_whenever(visits):
    clock, ended, opened = Clock(), [], []
    admission = Admission(Bounds(waiting=4, each_second=5.0, each_address=5.0), clock)
    for pause, host, signs in visits:
        clock.now += pause
        taken = hold(admission, ended, host)
        opened += taken
        if taken and signs:
            admission.recognise(taken[0], b"key")
        open_ = [g for g in opened if g not in ended and g.member is None]
        for familiar in (False, True):
            assert sum(g.familiar == familiar for g in open_) <= 4
        assert len(open_) == admission.waiting


def test_strangers_begin_no_more_connections_in_a_second_than_they_may():
    clock = Clock()
    admission = Admission(Bounds(), clock)
    taken = 0
    for second in range(20):
        for tenth in range(200):
            clock.now = second + tenth / 200
            for host in range(5):
                guest = admission.enter(f"10.0.{second}.{host}")
                if guest is not None:
                    taken += 1
                    admission.leave(guest)
    assert taken <= 20 * 40 + 80


def test_strangers_do_not_keep_a_member_out_who_comes_from_an_address_of_its_own():
    clock, ended = Clock(), []
    admission = Admission(Bounds(), clock)
    (first,) = hold(admission, ended, "192.0.2.1")
    admission.recognise(first, b"key")
    for number in range(1000):
        clock.now += 0.01
        hold(admission, ended, f"10.0.{number % 250}.{number // 250}")
        if number % 100 == 0:
            assert hold(admission, ended, "192.0.2.1")
    assert first not in ended


def test_an_old_stranger_gives_way_to_a_newcomer_and_a_young_one_does_not():
    clock, ended = Clock(), []
    admission = Admission(Bounds(waiting=2, grace=1.0), clock)
    old, young = hold(admission, ended, "10.0.0.1", "10.0.0.2")
    assert not hold(admission, ended, "10.0.0.3")
    clock.now = 1.5
    assert hold(admission, ended, "10.0.0.3")
    assert ended == [old]
    assert admission.overdue(young)
    assert not admission.overdue(young)


def test_a_member_is_never_overdue():
    admission = Admission()
    (guest,) = hold(admission, [], "10.0.0.1")
    admission.recognise(guest, b"key")
    assert not admission.overdue(guest)
    assert admission.waiting == 0


def test_one_network_of_ipv6_is_one_stranger():
    assert network_of("2001:db8:1:2::5") == network_of("2001:db8:1:2:ffff::9")
    assert network_of("2001:db8:1:2::5") != network_of("2001:db8:1:3::5")
    assert network_of("::ffff:10.0.0.1") == network_of("10.0.0.1") == "10.0.0.1"
    assert network_of("fe80::1%eth0") == network_of("fe80::2%eth0")
