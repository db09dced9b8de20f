"""Vectors and manifests that would make a sum of something else than what it is said to be."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace

import numpy as np
import pytest

from umbel.errors import ProtocolError
from umbel.privacy.noise.scale import Scale
from umbel.privacy.randomness import SecretStream
from umbel.privacy.secagg import fixed_point
from umbel.privacy.secagg.aggregator import Aggregator
from umbel.privacy.secagg.fixed_point import Contribution, Layout, decode, encode
from umbel.privacy.secagg.masks import Words, add_masks
from umbel.privacy.secagg.messages import Manifest, PrekeyReply, UploadRequest
from umbel.privacy.secagg.roster import Limits

CONTEXT = b"c" * 32
OTHER = b"o" * 32
VICTIM = "m0001"
LARGEST = 10_000


def manifested(cohort, size: int = 4, **named):
    members = cohort(size=size, **named)
    server = members.open_slot()
    members.send_prekeys(server)
    members.close_prekeys(server)
    return members, server


def upload_other(members, server, edits: dict, context: bytes = CONTEXT) -> tuple[bytes, Words]:
    """The victim uploads for a manifest of its own."""
    asked = UploadRequest.from_bytes(server.upload_request(VICTIM))
    manifest, prekeys = replace(asked.manifest, **edits), asked.prekeys
    if len(manifest.members) < len(asked.manifest.members):
        prekeys = prekeys[: len(manifest.members) - 1]
    request = replace(asked, manifest=manifest, prekeys=prekeys).to_bytes()
    words = members.vector(server, 1)
    members.plain[VICTIM] = words.copy()
    members.participants[VICTIM].check_upload(request, context)
    return members.participants[VICTIM].upload(request, context, words)


OTHERS = [({"context": OTHER}, OTHER), ({"clip": 4.0}, CONTEXT), ({"weight_cap": 6}, CONTEXT)]


def test_a_member_computes_on_the_model_that_the_manifest_is_of(cohort, refused):
    members, server = manifested(cohort)
    with refused(members, VICTIM, "context"):
        upload_other(members, server, {"context": OTHER})
    with refused(members, VICTIM, "context"):
        upload_other(members, server, {}, OTHER)


@pytest.mark.parametrize(("edits", "context"), [*OTHERS, ("a member less", CONTEXT)])
def test_another_manifest_for_one_member_is_noticed_by_all(
    edits, context, cohort, weakened, refused
):
    members, server = manifested(cohort, aggregator=weakened.Attacker)
    if edits == "a member less":
        known = server._manifest
        edits = {"members": known.members[:-1], "prekeys": known.prekeys[:-1]}
    reply, words = upload_other(members, server, edits, context)
    with pytest.raises(ProtocolError) as caught:
        honest = honest_server(members, server)
        honest.add_upload(VICTIM, reply, words)
    assert (caught.value.rule, caught.value.peer) == ("manifest", VICTIM)
    server.add_upload(VICTIM, reply, words)
    for name in server.members:
        if name != VICTIM:
            members.upload(server, name)
    server.close_uploads()
    for name in server.members:
        if name != VICTIM:
            with refused(members, name, "upload", VICTIM):
                members.ask(name, "confirm", server.confirm_request())
    with refused(members, VICTIM, "manifest"):
        members.ask(VICTIM, "confirm", server.confirm_request())


def honest_server(members, server):
    """An honest server with what the attacker's has."""
    honest = Aggregator(members.roster, server.slot)
    for name, reply in server.kept.items():
        honest.add_prekey(name, reply)
    members.close_prekeys(honest)
    return honest


def test_an_upload_under_another_manifest_makes_garbage_that_is_noticed(cohort, weakened):
    members, server = manifested(cohort, aggregator=weakened.Attacker)
    _, words = upload_other(members, server, {"context": OTHER}, OTHER)
    total = words.copy()
    for name in server.members:
        if name != VICTIM:
            members.upload(server, name)
            total += server.vectors[name]
    # Even with every self mask gone, the pairwise masks with the victim do not cancel.
    scale = Scale(4, members.clip)
    for name in server.members:
        hash_ = server._hash if name != VICTIM else other_hash(server)
        masks = members.participants[name].member._masks(stored(members, name), hash_, {})
        add_masks(total, [(key, -sign) for key, sign in masks])
    with pytest.raises(ProtocolError) as caught:
        decode(total, server._manifest.layout, scale, 5, 4)
    assert caught.value.rule == "sum"


def stored(members, name: str):
    with members.participants[name]._journal.turn() as turn:
        return turn.state


def other_hash(server) -> bytes:
    return replace(server._manifest, context=OTHER).digest()


def test_unbound_members_train_different_models_and_nobody_notices(cohort, weakened, monkeypatch):
    monkeypatch.setattr(Manifest, "digest", weakened.unbound_digest)
    members, server = manifested(cohort)
    server.add_upload(VICTIM, *upload_other(members, server, {"context": OTHER}, OTHER))
    for name in server.members:
        if name != VICTIM:
            members.upload(server, name)
    server.close_uploads()
    members.confirm_all(server)
    members.reveal_all(server)
    assert server.open().members == 4
    assert np.array_equal(server._sum, members.expected(server))


@pytest.mark.parametrize(
    "edits",
    [
        {"clip": 8.5},
        {"clip": 0.0},
        {"clip": -1.0},
        {"weight_cap": 0},
        {"weight_cap": 2**30},
        {"confirm": False},
        {"layout": Layout(200, 2, 1)},
        {"layout": Layout(2**63, 2**63, 2**62)},
    ],
)
def test_a_manifest_beyond_the_limits_is_refused(edits, cohort, refused):
    # No variant: the limits are what the other defences count on; see overflow below.
    members, server = manifested(cohort, limits=Limits(longest=100, clip=8.0))
    with refused(members, VICTIM, "limits"):
        upload_other(members, server, edits)


def test_a_clip_of_next_to_nothing_is_refused(cohort, refused):
    members, server = manifested(cohort)
    with refused(members, VICTIM, "limits"):
        upload_other(members, server, {"clip": 5e-324})


def wrong_vectors(words: Words) -> dict[str, np.ndarray]:
    changed = words.copy()
    changed[0] ^= 1
    return {
        "shorter": words[:-1],
        "longer": np.append(words, np.uint32(0)),
        "int64": words.astype(np.int64),
        "signed": words.view(np.int32),
        "float": words.astype(np.float32),
        "bytes": words.view(np.uint8),
        "byte-order": words.astype(">u4"),
        "swapped": words.byteswap(),
        "bit-flipped": changed,
        "matrix": words.reshape(1, -1),
    }


# No variant of the two tests below: a wrong shape or dtype spoils the sum, it opens nothing.
@pytest.mark.parametrize("how", wrong_vectors(np.zeros(4, np.uint32)))
def test_a_vector_of_another_form_is_refused(how, cohort):
    members, server = manifested(cohort)
    name = "m0000"
    words = members.vector(server, 0)
    members.plain[name] = words.copy()
    reply, masked = members.participants[name].upload(server.upload_request(name), CONTEXT, words)
    with pytest.raises(ProtocolError) as caught:
        server.add_upload(name, reply, wrong_vectors(masked)[how])
    assert (caught.value.rule, caught.value.peer) == ("vector", name)
    assert not server._uploads
    assert not server._sum.any()
    server.add_upload(name, reply, masked)
    with pytest.raises(ProtocolError) as caught:
        server.add_upload(name, reply, masked)
    assert (caught.value.rule, caught.value.peer) == ("replay", name)
    assert np.array_equal(server._sum, masked)


@pytest.mark.parametrize("more", [-1, 1])
def test_a_member_masks_no_vector_of_another_length(more, cohort, refused):
    members, server = manifested(cohort)
    words = np.arange(server._manifest.layout.length + more, dtype="<u4")
    with refused(members, VICTIM, "vector"):
        request = server.upload_request(VICTIM)
        members.participants[VICTIM].upload(request, CONTEXT, words)
    assert np.array_equal(words, np.arange(len(words)))


def contribution(*entries: float, weight: int = 5) -> Contribution:
    return Contribution([np.array(entries, dtype=np.float32)], [], [], weight)


def words_of(part: Contribution, scale: Scale, cap: int = 5) -> Words:
    layout = Layout(sum(array.size for array in part.update), 0, 0)
    return encode(part, layout, scale, cap, SecretStream.from_os().words)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_never_masked(value, monkeypatch):
    scale, layout = Scale(4, 8.0), Layout(3, 0, 0)
    with pytest.raises(ProtocolError) as caught:
        words_of(contribution(1.0, value, 2.0), scale)
    assert (caught.value.rule, caught.value.peer) == ("range", "this client")
    # Unchecked, it is an integer like any other, and the sum opens as if nothing had happened.
    monkeypatch.setattr(fixed_point, "largest_magnitude", lambda update: 0.0)
    monkeypatch.setattr(Scale, "farthest", lambda *_: 2**31)
    with np.errstate(invalid="ignore"):
        total = words_of(contribution(1.0, value, 2.0), scale)
    for _ in range(3):
        total += words_of(contribution(1.0, 1.0, 1.0), scale)
    mean = decode(total, layout, scale, 5, 4).mean
    assert np.isfinite(mean).all()
    assert abs(mean[1] - 1.0) > 0.5


@pytest.mark.parametrize("value", [1e30, -1e30, 3e38])
def test_an_enormous_update_is_clipped_as_a_whole(value):
    scale = Scale(4, 8.0)
    words = words_of(contribution(value, value / 2, 0.0), scale)
    mean = decode(words, Layout(3, 0, 0), scale, 5, 1).mean
    expected = np.array([math.copysign(8.0, value), math.copysign(4.0, value), 0.0])
    assert np.allclose(mean, expected, atol=1e-5)


def sum_of_all(scale: Scale, value: float, cap: int) -> float:
    """The mean of `LARGEST` members that all send the clip, with weights at the cap."""
    words = words_of(contribution(value, weight=cap), scale, cap)
    total = words * np.uint32(LARGEST)
    return float(decode(total, Layout(1, 0, 0), scale, cap, LARGEST).mean[0])


@pytest.mark.parametrize("value", [8.0, -8.0])
def test_the_largest_cohort_at_its_clip_and_weight_cap_does_not_overflow(value, weakened):
    cap = (2**32 - 1) // LARGEST
    assert sum_of_all(Scale(LARGEST, 8.0), value, cap) == pytest.approx(value, abs=1e-4)
    assert abs(sum_of_all(weakened.Overflowing(LARGEST, 8.0), value, cap) - value) > 1.0
    with pytest.raises(ProtocolError) as caught:
        sum_of_all(Scale(LARGEST, 8.0), value, cap + 1)
    assert caught.value.rule == "range"


def test_a_clip_that_float32_rounds_up_does_not_overflow():
    scale, layout = Scale(4, 0.5 * (1 - 2e-9)), Layout(1, 0, 0)
    total = words_of(contribution(1.0), scale) * np.uint32(4)
    assert decode(total, layout, scale, 5, 4).mean[0] == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("weight", [0, -1, 6])
def test_a_weight_beyond_the_cap_is_never_masked(weight):
    with pytest.raises(ProtocolError) as caught:
        words_of(contribution(1.0, weight=weight), Scale(4, 8.0))
    assert (caught.value.rule, caught.value.peer) == ("range", "this client")


def test_a_late_upload_is_left_out_of_the_sum(cohort):
    members, server = manifested(cohort, size=5)
    request = server.upload_request("m0004")
    members.upload_all(server, ["m0004"])
    words = members.vector(server, 4)
    reply, masked = members.participants["m0004"].upload(request, CONTEXT, words)
    before = server._sum.copy()
    with contextlib.suppress(ProtocolError):
        server.add_upload("m0004", reply, masked)
    assert np.array_equal(server._sum, before)


def test_a_late_prekey_does_not_spoil_the_sum(cohort):
    members = cohort(size=5)
    server = members.open_slot()
    members.send_prekeys(server, ["m0004"])
    members.close_prekeys(server)
    late = members.ask("m0004", "prekey", server.prekey_request.to_bytes())
    with contextlib.suppress(ProtocolError):
        server.add_prekey("m0004", PrekeyReply.from_bytes(late))
    assert server.members == list(server._manifest.members)
