"""A sum that was refused, opened once more in groups: whole groups are all that anybody learns."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from umbel.errors import ProtocolError
from umbel.privacy.secagg.messages import Naming, PrekeyReply
from umbel.privacy.secagg.parameters import smallest_sum, thresholds
from umbel.privacy.secagg.repeats import digest_of_groups

CONTEXT, WHAT, KEY = b"c" * 32, b"w" * 32, b"k" * 32


def content(server, name: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return np.random.default_rng(seed).integers(
        0, 2**16, server._manifest.layout.length, dtype="<u4"
    )


def total(server, names) -> np.ndarray:
    return sum((content(server, name) for name in names), np.uint32(0)).astype("<u4")


def hand_over(members, server, name: str, groups=(), others=()) -> None:
    participant = members.participants[name]
    request = server.upload_request(name, bool(groups), others)
    participant.check_upload(request, CONTEXT)
    words = content(server, name)
    reply, masked = participant.upload(request, CONTEXT, words, WHAT, groups)
    server.add_upload(name, reply, masked)


def opened(members, server) -> np.ndarray:
    members.confirm_all(server)
    members.reveal_all(server)
    with pytest.raises(ProtocolError, match="rule sum"):  # these contents hold no check word
        server.open()
    return server._sum.copy()


def refused_sum(members):
    """A slot whose sum was opened, and what it came to."""
    server = members.open_slot(1)
    members.send_prekeys(server)
    members.close_prekeys(server)
    for name in members.names:
        members.participants[name].keep(WHAT, KEY)
        hand_over(members, server, name)
    server.close_uploads()
    return server, opened(members, server)


def dealt(members, *sizes: int) -> list[list[str]]:
    names, groups = list(members.names), []
    for size in sizes:
        groups.append(names[:size])
        del names[:size]
    return groups


def slot_of(members, first, group, groups, number: int, missing=()):
    """The slot of one group, with its prekeys, for a partition of the server's choice."""
    naming = Naming(first.slot.digest(), digest_of_groups(groups))
    server = members.aggregator(members.roster, members.slot(number, sorted(group)), naming=naming)
    request = server.prekey_request.to_bytes()
    for name in server.slot.cohort:
        if name not in missing:
            reply = members.ask(name, "prekey", request)
            server.add_prekey(name, PrekeyReply.from_bytes(reply, name))
    return server


def slots_of(members, first, groups):
    return [
        slot_of(members, first, group, groups, number)
        for number, group in enumerate(groups, start=2)
    ]


def others_of(slots, server):
    return [signed for slot in slots if slot is not server for signed in slot.prekeys]


def test_the_same_updates_are_summed_once_more_in_groups(cohort):
    members = cohort(size=8)
    first, whole = refused_sum(members)
    groups = dealt(members, 3, 5)
    slots, sums = slots_of(members, first, groups), []
    for server, group in zip(slots, groups, strict=True):
        members.close_prekeys(server)
        for name in group:
            hand_over(members, server, name, groups, others_of(slots, server))
        server.close_uploads()
        sums.append(opened(members, server))
        assert np.array_equal(sums[-1], total(server, group))
    assert np.array_equal(sums[0] + sums[1], whole)


@pytest.mark.parametrize(
    "sizes", [(8,), (3, 4), (6, 2), (5, 1, 2), (3, 3)], ids=lambda sizes: "-".join(map(str, sizes))
)
def test_groups_that_leave_few_members_over_are_refused(sizes, cohort, refused):
    members = cohort(size=8)
    first, _ = refused_sum(members)
    groups = dealt(members, *sizes)
    slots = slots_of(members, first, [g for g in groups if len(g) >= 3])
    server = slots[0]
    members.close_prekeys(server)
    with refused(members, groups[0][0], "repeat"):
        hand_over(members, server, groups[0][0], groups, others_of(slots, server))


@pytest.mark.parametrize("odd", ["overlap", "stranger", "twice"])
def test_overlapping_groups_and_strangers_are_refused(odd, cohort, refused):
    members = cohort(size=8)
    first, _ = refused_sum(members)
    names = members.names
    second = {
        "overlap": names[3:],
        "stranger": [*names[4:], "m0009"],
        "twice": [*names[4:7], names[6]],
    }[odd]
    groups = [names[:4], second]
    server = slot_of(members, first, names[:4], groups, 2)
    members.close_prekeys(server)
    with refused(members, names[0], "repeat"):
        hand_over(members, server, names[0], groups)


def test_a_member_signs_for_one_partition_of_its_sum(cohort, refused):
    members = cohort(size=8)
    first, _ = refused_sum(members)
    groups, others = dealt(members, 3, 5), dealt(members, 4, 4)
    slot_of(members, first, groups[0], groups, 2)
    again = members.open_slot(3, others[0])
    again._naming = (Naming(first.slot.digest(), digest_of_groups(others)),)
    with refused(members, members.names[0], "repeat"):
        members.ask(members.names[0], "prekey", again.prekey_request.to_bytes())
    elsewhere = members.open_slot(3, others[1])
    elsewhere._naming = (Naming(b"s" * 32, digest_of_groups(others)),)
    with refused(members, members.names[7], "repeat"):
        members.ask(members.names[7], "prekey", elsewhere.prekey_request.to_bytes())


def two_partitions(members, first):
    """Each of two groups is told that all others are the second: one member would be left over."""
    names = members.names
    told = [[names[:3], names[3:]], [names[3:7], [*names[:3], names[7]]]]
    slots = [slot_of(members, first, groups[0], groups, n) for n, groups in enumerate(told, 2)]
    return told, slots


def test_different_partitions_for_different_groups_find_no_quorum(cohort, refused):
    members = cohort(size=8)
    first, _ = refused_sum(members)
    told, slots = two_partitions(members, first)
    for groups, server in zip(told, slots, strict=True):
        members.close_prekeys(server)
        with refused(members, groups[0][0], "repeat"):
            hand_over(members, server, groups[0][0], groups, others_of(slots, server))


def test_without_a_quorum_two_partitions_give_one_member_away(cohort, weakened):
    members = cohort(size=8, member=weakened.HandsOver)
    first, whole = refused_sum(members)
    told, slots = two_partitions(members, first)
    for groups, server in zip(told, slots, strict=True):
        members.close_prekeys(server)
        for name in groups[0]:
            hand_over(members, server, name, groups)
        server.close_uploads()
        whole = whole - opened(members, server)
    assert np.array_equal(whole, content(first, members.names[7]))


@pytest.mark.parametrize("n", [6, 8, 12, 40, 99])
@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.3])
def test_no_two_partitions_get_a_quorum_each(n, gamma):
    """Colluders sign for both, everybody else for one."""
    numbers = thresholds(n, gamma, True)
    honest = n - numbers.colluders
    assert 2 * (numbers.quorum - numbers.colluders) > honest
    assert smallest_sum(n, limits_of(gamma)) >= numbers.colluders + 2 or n < numbers.colluders + 2


def limits_of(gamma: float):
    from umbel.privacy.secagg.roster import Limits

    return Limits(colluders=gamma)


def part_of_a_group(members, first, groups):
    """A group's slot in which the server calls one member dropped."""
    slots = slots_of(members, first, groups)
    server = slots[0]
    members.close_prekeys(server)
    for name in groups[0][:-1]:
        hand_over(members, server, name, groups, others_of(slots, server))
    server._fewest = len(groups[0]) - 1
    server.close_uploads()
    return server


def test_a_group_is_summed_whole_or_not_at_all(cohort, refused):
    members = cohort(size=8)
    first, _ = refused_sum(members)
    server = part_of_a_group(members, first, dealt(members, 4, 4))
    for name in server.survivors:
        with refused(members, name, "survivors"):
            members.ask(name, "confirm", server.confirm_request())


def test_a_group_without_one_of_its_members_gives_that_member_away(cohort, weakened):
    members = cohort(size=8, member=weakened.AnyPart)
    first, whole = refused_sum(members)
    groups = dealt(members, 4, 4)
    server = part_of_a_group(members, first, groups)
    part = opened(members, server)
    rest = total(server, groups[1])  # the other group's sum, which is opened too
    assert np.array_equal(whole - rest - part, content(server, groups[0][3]))


def test_after_its_group_an_update_is_in_no_sum(cohort, refused):
    members = cohort(size=8)
    first, _ = refused_sum(members)
    groups = dealt(members, 4, 4)
    slots = slots_of(members, first, groups)
    members.close_prekeys(slots[0])
    for name in groups[0]:
        hand_over(members, slots[0], name, groups, others_of(slots, slots[0]))
    again = members.open_slot(9, groups[0])
    members.send_prekeys(again)
    members.close_prekeys(again)
    with refused(members, groups[0][0], "repeat"):
        hand_over(members, again, groups[0][0])
    with refused(members, groups[0][0], "repeat"):
        hand_over(members, again, groups[0][0], groups, others_of(slots, slots[0]))


def test_without_a_confirmed_sum_no_group_is_named(cohort, refused):
    members = cohort(size=8)
    server = members.open_slot(1)
    members.send_prekeys(server)
    members.close_prekeys(server)
    for name in members.names:
        members.participants[name].keep(WHAT, KEY)
        hand_over(members, server, name)
    groups = dealt(members, 4, 4)
    slots = slots_of(members, server, groups)
    members.close_prekeys(slots[0])
    with refused(members, groups[0][0], "repeat"):
        hand_over(members, slots[0], groups[0][0], groups, others_of(slots, slots[0]))
