"""A member that sends words of its choice: what it can do to an opened sum, and what is noticed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.errors import ProtocolError
from umbel.privacy.noise.scale import Scale
from umbel.privacy.randomness import SecretStream
from umbel.privacy.secagg import fixed_point
from umbel.privacy.secagg.fixed_point import Contribution, Layout, decode, encode

LIAR = "m0003"
FIRST = slice(0, 7)
"""The entries of the update."""
LIMBS = slice(9, 13)


def lying(members, change, weight=None):
    """A whole slot in which one member's words are its own choice: the sum, as it is opened.

    Weight, count and check word are those of an honest member.
    """
    server = members.open_slot()
    members.send_prekeys(server)
    members.close_prekeys(server)
    for name in server.members:
        words = members.vector(server, members.names.index(name))
        if name == LIAR:
            change(words.view("<i4"))
            words[-3] = words[-3] if weight is None else weight
            words[-1] = words[:-1].sum(dtype=np.uint32)
        members.upload(server, name, words)
    server.close_uploads()
    members.confirm_all(server)
    members.reveal_all(server)
    return server.open()


def noticed(members, change, words, weight=None):
    with pytest.raises(ProtocolError, match=words) as caught:
        lying(members, change, weight)
    assert (caught.value.rule, caught.value.peer) == ("sum", "the cohort")


def far(share):
    """Every entry at so much of the largest word."""

    def change(signed):
        signed[FIRST] = int(share * (2**31 - 1))

    return change


@pytest.mark.parametrize("share", [0.9, 1.0, -0.9, -1.0])
def test_no_member_takes_a_mean_beyond_the_clip(share, cohort, monkeypatch):
    members = cohort()
    noticed(members, far(share), "an entry of the update is")
    # Without the check the very same words pass, and the mean is anywhere.
    monkeypatch.setattr(Scale, "farthest", lambda *_: 2**31)
    assert np.abs(lying(cohort(), far(share)).mean).min() > members.clip


def test_no_member_wraps_a_sum_around(cohort, monkeypatch):
    """Signed words wrap at 2^31: -21 is one step beyond +21."""

    def wrap(signed):
        signed[FIRST] = 2**31 - 1
        signed[FIRST] += np.array([1, 2**20, 2**24, 2**26, 2**27, 2**28, 2**29], dtype="<i4")

    noticed(cohort(), wrap, "an entry of the update is")
    monkeypatch.setattr(Scale, "farthest", lambda *_: 2**31)
    assert lying(cohort(), wrap).mean.max() < -8 or lying(cohort(), wrap).mean.min() < -8


@given(entry=st.integers(-(2**31), 2**31 - 1), weights=st.lists(st.integers(1, 5), min_size=3))
def test_whatever_one_member_sends_the_mean_is_within_the_clip_or_nothing_is_read(entry, weights):
    scale, layout, cap = Scale(len(weights), 2.0), Layout(1, 0, 0), 5
    total = np.zeros(layout.length, np.uint32)
    for weight in weights[1:]:
        part = Contribution([np.ones(1, np.float32)], [], [], weight)
        total += encode(part, layout, scale, cap, SecretStream.from_key(bytes(32)).words)
    lie = np.array([np.int64(entry) % 2**32, weights[0], 1, 0], np.int64).astype(np.uint32)
    lie[-1] = lie[:-1].sum(dtype=np.uint32)
    total += lie
    try:
        found = decode(total, layout, scale, cap, len(weights))
    except ProtocolError:
        return
    room = scale.clip * (1 + 2.0**-21) + 2 * len(weights) * found.step
    assert abs(found.mean[0]) <= room


@given(
    weights=st.lists(st.integers(1, 1000), min_size=1, max_size=40),
    clip=st.floats(1e-6, 1e6),
    sign=st.sampled_from([-1, 1]),
)
def test_honest_members_at_the_clip_are_never_refused(weights, clip, sign):
    """Whatever their weights, and with updates far beyond it, that are scaled down."""
    scale, layout, cap = Scale(len(weights), clip), Layout(3, 0, 1), max(weights)
    total = np.zeros(layout.length, np.uint32)
    stream = SecretStream.from_key(bytes(32))
    for place, weight in enumerate(weights):
        far_out = np.full(3, sign * scale.limit, np.float32) * np.float32(1 + 3 * (place % 2))
        part = Contribution([far_out], [], [1e30], weight)
        total += encode(part, layout, scale, cap, stream.words)
    found = decode(total, layout, scale, cap, len(weights))
    assert np.abs(found.mean).max() == pytest.approx(
        clip, rel=1e-3, abs=2 * len(weights) * found.step
    )


def test_within_the_clip_a_member_alone_decides_the_mean(cohort):
    """What security.md says of an unproven member: bounded, and neither prevented nor named."""
    members = cohort()

    def push(signed):
        """As far as all five together could, with three fifths of the largest weight."""
        signed[FIRST] = int(2.6 * members.clip * 2.0 ** Scale(5, members.clip).bits)

    assert 0.7 * members.clip < lying(members, push).mean.min() <= members.clip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda signed: signed[LIMBS].fill(-1), "a limb is"),
        (lambda signed: signed[LIMBS].fill(2**30), "a limb is"),
    ],
)
def test_impossible_losses_are_noticed(change, words, cohort):
    noticed(cohort(), change, words)


@pytest.mark.parametrize("weight", [26, 2**31, 2**32 - 20])
def test_impossible_weights_are_noticed(weight, cohort):
    noticed(cohort(), lambda signed: None, "weigh", weight=weight)


def test_a_sum_of_counts_alone_has_no_entries_to_check(cohort):
    assert fixed_point._largest(np.zeros(0, np.uint32)) == 0
