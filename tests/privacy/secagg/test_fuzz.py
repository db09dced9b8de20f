"""Hostile messages by the thousand: every parser and every entry point refuses them, or keeps its word.

Each case is drawn from a fixed seed, so what fails fails again. A case fails on anything but a
``ProtocolError``, on a change of state that a refusal left behind, and on an accepted message after
which something is known that the honest message would not have told.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from umbel.errors import ProtocolError
from umbel.privacy.secagg import messages
from umbel.privacy.secagg.messages import (
    PrekeyReply,
    Signed,
)
from umbel.privacy.secagg.roster import Limits

from .hostile import CONTEXT, ME, World, snapshot
from .mutations import mutated, reshaped

DEFAULT, FULL = 20_000, 100_000
SLOWEST = 5.0
"""Seconds that one message may take on the slowest machine; a parser takes microseconds."""


_worlds: dict[bool, World] = {}


@pytest.fixture
def world_of(cohort, monkeypatch) -> Callable[[bool], World]:
    """One for all tests here, for each of them leaves it as it was. Its keys are always the same."""

    def build(confirm: bool) -> World:
        if confirm not in _worlds:
            with monkeypatch.context() as patch:
                patch.setattr(os, "urandom", random.Random(0).randbytes)
                _worlds[confirm] = World(cohort, confirm)
        return _worlds[confirm]

    return build


@pytest.fixture
def world(world_of) -> World:
    return world_of(True)


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    """Nothing here cuts the power: what the disk keeps is the matter of the journal's own tests."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


def attack(world: World, count: int, seed: int) -> Counter[str]:
    """Feed hostile messages to every target in turn; how many were refused and accepted."""
    chance = random.Random(seed)
    found: Counter[str] = Counter()
    slow = [t for t in world.targets if "circle" in t.name or "participant" in t.name]
    # A message of a large cohort or a disk costs a hundred times as much as another.
    targets = [t for t in world.targets if t not in slow] * 10 + slow
    for number in range(count):
        target = targets[number % len(targets)]
        honest = target.honest.to_bytes()
        try:
            if chance.random() < 0.5:
                data = mutated(honest, chance, world.bytes)
            else:
                data = reshaped(target.honest, chance, world.values, world.signers).to_bytes()
        except ValueError:  # no message of ours: its bytes cannot be written
            data = mutated(honest, chance, world.bytes)
        if data == honest:
            data = data[:-1]
        begin = time.thread_time()
        try:
            outcome = target.feed(data)
        except Exception as error:
            if known_bug(error):
                outcome = "known bug"
            else:
                where = f"message {number} of seed {seed} to {target.name}: {data.hex()[:4000]}"
                raise AssertionError(where) from error
        assert time.thread_time() - begin < SLOWEST
        found[f"{target.name}: {outcome}"] += 1
        found[outcome] += 1
        found["total"] += 1
    return found


def known_bug(error: BaseException) -> bool:
    """A clip next to nothing; it has a test of its own beside the fixed point's."""
    return isinstance(error, OverflowError) and "infinity to integer" in str(error)


def attack_parsers(kinds, message_of, count: int, seed: int) -> Counter[str]:
    """Feed hostile bytes to ``from_bytes`` of every class."""
    chance = random.Random(seed)
    honest = [(kind, message_of(kind, chance).to_bytes()) for kind in kinds for _ in range(4)]
    pool = [data for _, data in honest]
    found: Counter[str] = Counter()
    for number in range(count):
        kind, data = honest[number % len(honest)]
        data = mutated(data, chance, pool)
        try:
            parsed = kind.from_bytes(data, "a peer")
        except ProtocolError as error:
            found["refused" if (error.rule, error.peer) == ("encoding", "a peer") else "odd"] += 1
        else:
            assert parsed.to_bytes() == data
            found["accepted"] += 1
        found["total"] += 1
    return found


def test_hostile_messages_crash_nothing_and_release_nothing(world, message_kinds, message_of):
    parsed = attack_parsers(message_kinds, message_of, DEFAULT // 2, seed=1)
    entered = attack(world, DEFAULT // 2, seed=2)
    print(parsed, entered)
    assert parsed["total"] + entered["total"] == DEFAULT
    assert parsed["refused"] > parsed["total"] // 2
    assert parsed["odd"] == 0
    assert entered["refused"] > 0.9 * (entered["total"] - entered["known bug"])
    names = {target.name for target in world.targets}
    assert all(entered[f"{name}: refused"] > 0 for name in names)


def test_hostile_messages_release_nothing_where_there_is_no_confirmation_trip(world_of):
    found = attack(world_of(False), 3000, seed=4)
    assert found["total"] == 3000
    assert found["member.reveal: refused"] > 100
    assert found["refused"] > 0.9 * (found["total"] - found["known bug"])


@pytest.mark.slow
def test_a_hundred_thousand_hostile_messages_crash_nothing_and_release_nothing(
    world, message_kinds, message_of
):
    total = Counter[str]()
    for seed in range(10, 14):
        total += attack_parsers(message_kinds, message_of, FULL // 8, seed)
        total += attack(world, FULL // 8 + 1, seed)
    print(total)
    assert total["total"] >= FULL
    assert total["refused"] > 0.7 * FULL
    assert total["odd"] == 0


def test_an_honest_message_is_accepted_by_every_target(world):
    """What is fuzzed is close enough to the real thing to be accepted when it is left alone."""
    for target in world.targets:
        assert target.feed(target.honest.to_bytes()) == "accepted", target.name


def test_a_vector_of_another_form_is_refused_even_with_its_honest_signature(world):
    server, before = world.before_upload, snapshot(world.before_upload)
    (target,) = [t for t in world.targets if t.name == "aggregator.add_upload"]
    for vector in world.odd_vectors:
        with pytest.raises(ProtocolError) as refused:
            server.add_upload(ME, target.honest.to_bytes(), vector)
        assert (refused.value.rule, refused.value.peer) == ("vector", ME)
        assert snapshot(server) == before


def test_messages_of_a_wrong_kind_are_refused_by_every_target(world):
    for target in world.targets:
        for message in world.pool:
            if type(message) is not type(target.honest):
                assert target.feed(message.to_bytes()) != "accepted", target.name


def test_no_length_makes_a_parser_reserve_memory(message_kinds, message_of):
    """The largest length at every place of a message; the peak stays near the message's own size."""
    chance = random.Random(3)
    cases = []
    for kind in message_kinds:
        data = message_of(kind, chance).to_bytes()
        for place in range(0, len(data) - 3, max(1, len(data) // 40)):
            for length in (2**32 - 1, 2**24, 10_000):
                forged = data[:place] + length.to_bytes(4, "big") + data[place + 4 :]
                cases.append((kind, forged))
    tracemalloc.start()
    try:
        for kind, forged in cases:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            with contextlib.suppress(ProtocolError):
                kind.from_bytes(forged)
            peak = tracemalloc.get_traced_memory()[1] - before
            assert peak < 200_000 + 20 * len(forged)
    finally:
        tracemalloc.stop()
    assert len(cases) > 2000


def test_a_long_message_of_nothing_is_refused_before_it_is_taken_apart(message_kinds):
    """A megabyte behind each tag: as many entries as it claims are never made."""
    for kind in message_kinds:
        tag = f"umbel secure aggregation 1 {kind.__name__}".encode()
        head = len(tag).to_bytes(4, "big") + tag
        for filler in (bytes(1 << 20), b"\xff" * (1 << 20)):
            with pytest.raises(ProtocolError):
                kind.from_bytes(head + filler)


def test_a_prekey_of_a_roster_member_outside_the_cohort_is_refused(cohort):
    members = cohort(size=5, limits=Limits(colluders=0.0))
    server = members.open_slot(1, members.names[:4])
    members.send_prekeys(server)
    stranger = members.names[4]
    reply = PrekeyReply.from_bytes(
        members.ask(ME, "prekey", server.prekey_request.to_bytes()), stranger
    )
    body = replace(messages.Prekey.from_bytes(reply.prekey.body), sender=stranger)
    forged = PrekeyReply(Signed.by(members.identities[stranger], body), reply.sealed)
    with pytest.raises(ProtocolError):
        server.add_prekey(stranger, forged)
    assert stranger not in server.members


def test_a_commitment_of_a_roster_member_outside_the_cohort_is_refused(cohort):
    members = cohort(size=105)
    server = members.open_slot(1, members.names[:104])
    stranger = members.names[104]
    body = messages.Commit(stranger, server.slot.digest(), bytes(32))
    reply = Signed.by(members.identities[stranger], body).to_bytes()
    with pytest.raises(ProtocolError):
        server.add_commit(stranger, reply)


def test_an_upload_after_the_survivors_are_fixed_is_refused(cohort):
    members = cohort(size=5, limits=Limits(colluders=0.0))
    server = members.open_slot()
    members.send_prekeys(server)
    members.close_prekeys(server)
    late = "m0003"
    request = server.upload_request(late)
    words = members.vector(server, 3)
    reply, masked = members.participants[late].upload(request, CONTEXT, words)
    members.upload_all(server, [late])
    with pytest.raises(ProtocolError):
        server.add_upload(late, reply, masked)


def test_a_prekey_after_the_manifest_is_fixed_is_refused(cohort):
    members = cohort(size=5, limits=Limits(colluders=0.0))
    server = members.open_slot()
    late = "m0003"
    members.send_prekeys(server, [late])
    members.close_prekeys(server)
    reply = members.ask(late, "prekey", server.prekey_request.to_bytes())
    with pytest.raises(ProtocolError):
        server.add_prekey(late, PrekeyReply.from_bytes(reply, late))
