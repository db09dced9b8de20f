"""Thresholds and neighbours: what two sums cannot both have, and who is connected with whom."""

from __future__ import annotations

import math
import random
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.errors import ProtocolError
from umbel.privacy.secagg.parameters import (
    COMPLETE,
    circle_of,
    fewest,
    fewest_in_a_row,
    neighbours,
    thresholds,
)
from umbel.privacy.secagg.roster import FLOOR, Limits

GAMMAS = [0.0, 0.01, 0.05, 0.1, 0.2, 0.25, 0.3, 1 / 3, 0.4, 0.45, 0.499]
LARGE = [(101, 0.0), (104, 0.1), (150, 0.2), (200, 0.1), (400, 0.3), (1000, 0.1)]


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("confirm", [True, False])
def test_two_quorums_share_an_honest_member_in_every_complete_cohort(gamma, confirm):
    for n in range(3, COMPLETE + 1):
        found = thresholds(n, gamma, confirm)
        assert gamma * n <= found.colluders < gamma * n + 1
        assert n + found.colluders < 2 * found.quorum <= 2 * n
        assert found.shares == found.quorum
        assert found.degree == n - 1
        assert found.shares > found.colluders
        assert fewest(found, Limits(colluders=gamma)) >= max(FLOOR, found.colluders + 2)
        if not confirm:
            assert found.quorum >= 0.8 * n


@pytest.mark.parametrize("gamma", GAMMAS)
def test_two_quorums_share_an_honest_member_in_every_large_cohort(gamma):
    """Every n up to 1000 by the formula; the graph's numbers at a few of them, for they take long."""
    for n in range(COMPLETE + 1, 1001):
        colluders = math.ceil(gamma * n)
        quorum = (n + colluders) // 2 + 1
        assert 2 * quorum > n + colluders
    for n in (COMPLETE + 1, 333, 1000):
        found = thresholds(n, gamma, True)
        assert (found.colluders, found.quorum) == (
            math.ceil(gamma * n),
            min((n + math.ceil(gamma * n)) // 2 + 1, n),
        )
        assert 2 * found.quorum > n + found.colluders


@pytest.mark.parametrize(("n", "gamma"), [(3, 0.0), (4, 0.1), (5, 0.2), (6, 0.3), (7, 0.1)])
def test_any_two_quorums_of_a_small_cohort_share_an_honest_member_whoever_colludes(n, gamma):
    found = thresholds(n, gamma, True)
    everybody = range(n)
    quorums = [set(q) for q in combinations(everybody, found.quorum)]
    for colluders in combinations(everybody, found.colluders):
        assert all((one & other) - set(colluders) for one in quorums for other in quorums)


def test_what_a_member_computes_has_no_number_of_the_servers_in_it(cohort):
    """Nothing that a server sends has a field for a threshold, a degree or a quorum."""
    from dataclasses import fields

    from umbel.privacy.secagg import messages

    requests = [
        messages.CommitRequest,
        messages.NonceRequest,
        messages.PrekeyRequest,
        messages.UploadRequest,
        messages.ConfirmRequest,
        messages.RevealRequest,
        messages.Manifest,
        messages.Slot,
    ]
    names = {field.name for kind in requests for field in fields(kind)}
    assert not {n for n in names if any(w in n for w in ("thresh", "quorum", "degree", "shares"))}
    members = cohort(size=5)
    server = members.open_slot()
    members.send_prekeys(server)
    members.close_prekeys(server)
    members.upload_all(server)
    # A server that is content with fewer confirmations finds that the members are not.
    request = server.confirm_request()
    name = "m0000"
    server.add_confirmation(name, members.ask(name, "confirm", request))
    with pytest.raises(ProtocolError) as refused:
        members.ask(name, "reveal", server.reveal_request(name))
    assert refused.value.rule == "threshold"


# The graph of large cohorts.


@pytest.mark.parametrize(("n", "gamma"), LARGE)
def test_the_graph_is_symmetric_and_regular_and_the_same_for_everybody(n, gamma):
    found = thresholds(n, gamma, True)
    names = [f"m{i:04d}" for i in range(n)]
    near = neighbours(names, found.degree, b"seed")
    assert near == neighbours(names, found.degree, b"seed")
    for name, others in near.items():
        assert len(others) == len(set(others)) == found.degree
        assert name not in others
        assert others == sorted(others)
        assert all(name in near[other] for other in others)
    if found.degree < n - 1:
        assert near != neighbours(names, found.degree, b"other seed")


@given(st.integers(2, 60), st.integers(1, 29), st.binary(max_size=8))
@settings(max_examples=80, deadline=None)
def test_every_even_degree_gives_a_symmetric_regular_graph(n, half, seed):
    names = [f"m{i:04d}" for i in range(n)]
    near = neighbours(names, 2 * half, seed)
    degree = min(2 * half, n - 1)
    assert all(len(others) == degree and name not in others for name, others in near.items())
    assert all(name in near[other] for name, others in near.items() for other in others)


@pytest.mark.parametrize(("n", "gamma"), LARGE)
def test_the_threshold_of_shares_leaves_room_for_both_colluders_and_dropouts(n, gamma):
    found = thresholds(n, gamma, True)
    assert found.shares <= found.degree
    if found.stretch:
        assert found.degree % 2 == 0
        assert found.degree < n - 1
        assert 2 <= found.stretch <= found.degree // 2
        # Colluders below this bound cannot have both secrets of a member.
        assert 2 * found.shares > found.degree + 1


@pytest.mark.parametrize(("n", "gamma"), [(104, 0.1), (200, 0.1), (400, 0.2)])
def test_chance_colluders_never_reach_and_chance_dropouts_never_break_the_thresholds(n, gamma):
    """2000 random circles a case; the bounds are 2^-40 and 2^-20 a slot."""
    found = thresholds(n, gamma, True)
    assert found.stretch
    chance = random.Random(n)
    half, order = found.degree // 2, list(range(n))
    for _ in range(2000):
        chance.shuffle(order)
        bad = [place < found.colluders for place in order]
        gone = [place < math.ceil(0.1 * n) for place in order]
        windows_bad = window_sums(bad, half)
        windows_gone = window_sums(gone, half)
        # No stretch holds as many colluders as survivors are demanded in it.
        assert max(windows_bad) < found.stretch
        # With a member in ten gone, every stretch still has its survivors.
        assert half - max(windows_gone) >= found.stretch
        for place in range(n):
            # Neighbours: the stretch before and the one after; and the member itself.
            around = (place + 1) % n, (place - half) % n
            colluding = sum(windows_bad[at] for at in around)
            alive = 1 + found.degree - sum(windows_gone[at] for at in around)
            assert alive - gone[place] >= found.shares
            # Honest neighbours release one kind each: both kinds need 2 shares - (degree + 1) more.
            assert 2 * found.shares > found.degree + 1 + colluding


def window_sums(flags: list[bool], length: int) -> list[int]:
    """How many flags are set among the `length` from each place on, around the circle."""
    n = len(flags)
    count = sum(flags[:length])
    sums = []
    for place in range(n):
        sums.append(count)
        count += flags[(place + length) % n] - flags[place]
    return sums


def connected(names: set[str], near: dict[str, list[str]]) -> bool:
    """Whether all `names` reach each other through each other."""
    start = next(iter(names))
    reached, todo = {start}, [start]
    while todo:
        for other in near[todo.pop()]:
            if other in names and other not in reached:
                reached.add(other)
                todo.append(other)
    return reached == names


@given(
    st.integers(12, 60),
    st.integers(2, 5),
    st.randoms(use_true_random=False),
    st.binary(min_size=4, max_size=4),
)
@settings(max_examples=150, deadline=None)
def test_honest_survivors_are_connected_wherever_the_check_passes(n, half, chance, seed):
    """The server names whom it likes as dropped: stretches of any length, and others besides.

    Colluders stay "alive", which helps the server pass the check; fewer than `stretch` of them are
    in any `half` members in a row, as the parameters see to.
    """
    names = [f"m{i:04d}" for i in range(n)]
    circle = circle_of(names, seed)
    near = neighbours(names, 2 * half, seed)
    stretch = chance.randint(1, half)
    colluders: set[str] = set()
    for name in chance.sample(names, n):
        flags = [other in colluders or other == name for other in circle]
        if max(window_sums(flags, half)) < stretch:
            colluders.add(name)
    for _ in range(12):
        survivors = set(names)
        for _ in range(chance.randint(1, 4)):
            start, length = chance.randrange(n), chance.randint(1, half + 2)
            honest = [circle[(start + k) % n] for k in range(length)]
            survivors -= {name for name in honest if name not in colluders}
        survivors -= set(chance.sample(names, chance.randint(0, 2)))
        alive_and_honest = survivors - colluders
        passes = fewest_in_a_row(names, survivors, 2 * half, seed) >= stretch
        if alive_and_honest and not connected(alive_and_honest, near):
            assert not passes


@given(st.integers(12, 40), st.integers(2, 5), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_server_that_cuts_the_circle_in_two_is_refused(n, half, chance):
    """Two whole stretches of honest members called dropped part the survivors; nobody signs that."""
    names = [f"m{i:04d}" for i in range(n)]
    circle = circle_of(names, b"")
    near = neighbours(names, 2 * half, b"")
    first, second = 0, half + 1 + chance.randrange(max(1, n - 2 * half - 2))
    cut = {circle[(at + k) % n] for at in (first, second) for k in range(half)}
    survivors = set(names) - cut
    assert not connected(survivors, near)
    assert fewest_in_a_row(names, survivors, 2 * half, b"") == 0


@given(st.integers(3, 30), st.integers(1, 8), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_the_fewest_in_a_row_are_counted_around_the_circle(n, half, chance):
    half = min(half, n)
    names = [f"m{i:04d}" for i in range(n)]
    alive = set(chance.sample(names, chance.randint(0, n)))
    circle = circle_of(names, b"x")
    brute = min(sum(circle[(place + k) % n] in alive for k in range(half)) for place in range(n))
    assert fewest_in_a_row(names, alive, 2 * half, b"x") == brute


def test_a_circle_without_chance_for_anybody_is_never_below_what_was_asked(cohort):
    """Where no sparse graph is safe, everybody is everybody's neighbour."""
    for gamma in (0.45, 0.499):
        found = thresholds(101, gamma, True)
        assert found.degree == 100
        assert (found.shares, found.stretch) == (found.quorum, 0)
