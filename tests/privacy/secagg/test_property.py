"""Whatever the cohort and whoever is lost on the way: the exact sum of the survivors, or nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from umbel.errors import ProtocolError, TooFewMembers
from umbel.privacy.noise.scale import Scale
from umbel.privacy.secagg.fixed_point import Contribution, Layout, encode
from umbel.privacy.secagg.messages import PrekeyReply
from umbel.privacy.secagg.parameters import fewest, thresholds
from umbel.privacy.secagg.roster import Limits

CONTEXT = b"c" * 32
CAP = 7
slow_fixture = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    """Nothing here cuts the power: what the disk keeps is the matter of the journal's own tests."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


@dataclass(frozen=True)
class Case:
    """One slot: its cohort, and who is lost before which trip."""

    size: int
    gamma: float
    confirm: bool
    lost: dict[str, frozenset[int]]
    threads: int
    layout: Layout
    seed: int


@st.composite
def cases(draw, most_lost=3):
    size = draw(st.integers(3, 12))
    everybody = st.integers(0, size - 1)
    lost, left = {}, size
    for trip in ("prekey", "upload", "confirm", "reveal"):
        count = draw(st.sampled_from([0, 0, 0, 1, 1, most_lost]))
        lost[trip] = draw(st.frozensets(everybody, max_size=min(count, left)))
    return Case(
        size,
        draw(st.sampled_from([0.0, 0.0, 0.1, 0.2, 0.3])),
        draw(st.booleans()),
        lost,
        draw(st.integers(1, 5)),
        Layout(
            draw(st.one_of(st.integers(0, 70), st.sampled_from([4096, 65_529, 70_001, 140_003]))),
            draw(st.integers(0, 3)),
            draw(st.integers(0, 2)),
        ),
        draw(st.integers(0, 2**32 - 1)),
    )


def contribution(chance: np.random.Generator, case: Case) -> Contribution:
    return Contribution(
        [chance.normal(0, 3, case.layout.parameters).astype(np.float32)],
        [int(chance.integers(0, 2**28)) for _ in range(case.layout.integers)],
        [int(chance.integers(0, 2**40)) / 2**16 for _ in range(case.layout.wides)],
        int(chance.integers(1, CAP, endpoint=True)),
    )


class Played:
    """A slot with the losses of a case; every trip in an order of arrival of its own."""

    def __init__(self, case: Case, members) -> None:
        self.case, self.members = case, members
        self.chance = np.random.default_rng(case.seed)
        self.plain: dict[str, np.ndarray] = {}
        self.parts: dict[str, Contribution] = {}
        self.opened = None
        self.server = members.open_slot(1)
        self.server._threads = case.threads
        for participant in members.participants.values():
            participant.member._threads = 1 + case.threads % 5

    def there(self, names, trip: str) -> list[str]:
        """Who is not lost by this trip, in the order in which they arrive."""
        trips = ("prekey", "upload", "confirm", "reveal")
        gone = frozenset().union(*(self.case.lost[t] for t in trips[: trips.index(trip) + 1]))
        present = [name for name in names if self.members.names.index(name) not in gone]
        return [present[place] for place in self.chance.permutation(len(present))]

    def play(self) -> None:
        case, members, server = self.case, self.members, self.server
        request = server.prekey_request.to_bytes()
        for name in self.there(members.names, "prekey"):
            server.add_prekey(name, PrekeyReply.from_bytes(members.ask(name, "prekey", request)))
        purpose = type(self).purpose(case)
        server.close_prekeys(purpose)
        scale = Scale(case.size, 8.0)
        for name in self.there(server.members, "upload"):
            part = contribution(self.chance, case)
            words = encode(part, case.layout, scale, CAP, self.dither)
            self.parts[name], self.plain[name] = part, words.copy()
            asked = server.upload_request(name)
            reply, masked = members.participants[name].upload(asked, CONTEXT, words)
            server.add_upload(name, reply, masked)
        server.close_uploads()
        if server.confirms:
            request = server.confirm_request()
            for name in self.there(server.survivors, "confirm"):
                server.add_confirmation(name, members.ask(name, "confirm", request))
            server.close_confirmations()
        for name in self.there(server.revealers, "reveal"):
            server.add_reveal(name, members.ask(name, "reveal", server.reveal_request(name)))
        self.opened = server.open()

    def dither(self, n: int):
        return self.chance.integers(0, 2**32, n, dtype=np.uint32)

    @staticmethod
    def purpose(case: Case):
        from umbel.privacy.secagg.collecting import Purpose

        return Purpose(CONTEXT, case.layout, weight_cap=CAP, clip=8.0)


def numbers_left(case: Case) -> list[int]:
    """How many are left after each trip."""
    gone: set[int] = set()
    left = []
    for trip in ("prekey", "upload", "confirm", "reveal"):
        if trip != "confirm" or case.confirm:
            gone |= case.lost[trip]
        left.append(case.size - len(gone))
    return left


def can_be_opened(case: Case) -> bool:
    """What the thresholds say of this many losses."""
    numbers = thresholds(case.size, case.gamma, case.confirm)
    least = fewest(numbers, Limits(colluders=case.gamma))
    prekeys, uploads, confirmed, revealed = numbers_left(case)
    return (
        case.size >= least
        and prekeys >= least
        and uploads >= least
        and confirmed >= numbers.quorum
        and revealed >= numbers.shares
    )


@given(cases())
@settings(slow_fixture, max_examples=60)
def test_a_slot_opens_the_exact_sum_of_its_survivors_or_nothing(cohort, case):
    members = cohort(size=case.size, limits=Limits(colluders=case.gamma, confirm=case.confirm))
    if not case.confirm:  # nobody is lost in a trip that does not take place
        case = Case(**{**vars(case), "lost": {**case.lost, "confirm": frozenset()}})
    try:
        slot = Played(case, members)
    except TooFewMembers:
        assert not can_be_opened(case)
        return
    try:
        slot.play()
    except TooFewMembers:
        event("given up")
        assert not can_be_opened(case)
        assert slot.opened is None
        # What the server holds is still masked: no part of it is what the members had.
        if slot.plain and hasattr(slot.server, "_sum"):
            total = sum(slot.plain.values()).astype(np.uint32)
            assert not np.array_equal(slot.server._sum, total)
        return
    event("opened")
    assert can_be_opened(case)
    survivors = slot.server.survivors
    assert set(survivors) == set(slot.plain)
    total = np.zeros(case.layout.length, dtype="<u4")
    for words in slot.plain.values():
        total += words
    assert np.array_equal(slot.server._sum, total)
    parts = list(slot.parts.values())
    assert slot.opened.members == len(survivors)
    assert slot.opened.weight == sum(part.weight for part in parts)
    assert slot.opened.integers == [
        sum(part.integers[place] for part in parts) for place in range(case.layout.integers)
    ]
    assert slot.opened.wides == [
        sum(part.wides[place] for part in parts) for place in range(case.layout.wides)
    ]
    assert slot.server.faults == {}


@given(cases(most_lost=6))
@settings(slow_fixture, max_examples=20)
def test_after_a_slot_that_was_given_up_the_next_one_opens(cohort, case):
    members = cohort(size=max(4, case.size), limits=Limits(colluders=0.0, confirm=case.confirm))
    case = Case(**{**vars(case), "size": members.size})
    slot = Played(case, members)
    try:
        slot.play()
    except TooFewMembers:
        event("given up")
    total = members.sum(2)
    assert total.members == members.size
    # And nothing of the slot before is answered any more.
    if slot.plain and hasattr(slot.server, "_survivors") and slot.server.confirms:
        late = next(iter(slot.plain))
        request = slot.server.confirm_request()
        with pytest.raises(ProtocolError):
            members.ask(late, "confirm", request)


@given(st.integers(3, 8), st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32 - 1))
@settings(slow_fixture, max_examples=10)
def test_thread_counts_of_members_and_server_do_not_show_in_the_sum(
    cohort, size, threads, others, seed
):
    """Over a vector of several chunks, whose length no number of threads divides."""
    case = Case(
        size,
        0.0,
        True,
        dict.fromkeys(("prekey", "upload", "confirm", "reveal"), frozenset()),
        threads,
        Layout(200_003, 1, 1),
        seed,
    )
    members = cohort(size=size, limits=Limits(colluders=0.0))
    slot = Played(case, members)
    for participant in members.participants.values():
        participant.member._threads = others
    slot.play()
    total = np.zeros(case.layout.length, dtype="<u4")
    for words in slot.plain.values():
        total += words
    assert np.array_equal(slot.server._sum, total)
