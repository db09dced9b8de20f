"""A server, or a member that helps it, that plays with the public keys of others."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from umbel.errors import ProtocolError
from umbel.privacy.secagg.aggregator import Aggregator
from umbel.privacy.secagg.keys import Identity, public_key
from umbel.privacy.secagg.masks import Words, add_masks
from umbel.privacy.secagg.member import Member
from umbel.privacy.secagg.messages import (
    OF_KEY,
    OF_SEED,
    Signed,
    UploadRequest,
)

CONTEXT = b"c" * 32
VICTIM = "m0001"
LOW_ORDER = {
    "zero": bytes(32),
    "one": (1).to_bytes(32, "little"),
    "minus-one": (2**255 - 20).to_bytes(32, "little"),
    "the-prime": (2**255 - 19).to_bytes(32, "little"),
    "order-eight": bytes.fromhex(
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"
    ),
    "order-eight-too": bytes.fromhex(
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"
    ),
}


def exchange(server: Aggregator, name: str, identity: Identity | None = None, **edits) -> None:
    """Another prekey in a member's place; signed anew only if `identity` is given."""
    signed, prekey = server._prekeys[name]
    edited = replace(prekey, **edits)
    new = Signed.by(identity, edited) if identity else replace(signed, body=edited.to_bytes())
    server._prekeys[name] = (new, edited)


def with_prekeys(cohort, weakened, size: int = 4, **named):
    members = cohort(size=size, aggregator=weakened.Attacker, **named)
    server = members.open_slot()
    members.send_prekeys(server)
    return members, server


def finish(members, server) -> None:
    members.upload_all(server)
    members.confirm_all(server)
    members.reveal_all(server)


def read_with_own_keys(members, server, weakened) -> Words:
    """Put own keys in the place of all of the victim's peers', and undo its masks with them."""
    own = {name: os.urandom(32) for name in members.names if name != VICTIM}
    for name, key in own.items():
        exchange(server, name, key=public_key(key))
    members.close_prekeys(server)
    finish(members, server)
    member = {name: members.participants[name].member for name in members.names}
    seed = server.secret(VICTIM, OF_SEED, server._numbers.shares)
    others = {member[name]: key for name, key in own.items()}
    return weakened.unmask(member[VICTIM], server, seed, others=others)


def test_a_server_that_swaps_public_keys_reads_nothing(cohort, weakened, refused):
    members, server = with_prekeys(cohort, weakened)
    with refused(members, "m0000", "prekey"):
        read_with_own_keys(members, server, weakened)
    with refused(members, VICTIM, "signature", "m0000"):
        members.upload(server, VICTIM)
    assert not server.vectors


@pytest.mark.parametrize(
    ("lacking", "rule", "peer"),
    [("NoSignatures", "prekey", "the server"), ("NoOwnPrekey", "signature", "m0002")],
)
def test_swapped_keys_are_refused_by_the_signature_and_again_by_their_owner(
    lacking, rule, peer, cohort, weakened, refused
):
    members, server = with_prekeys(cohort, weakened, member=getattr(weakened, lacking))
    with refused(members, "m0000", rule, peer):
        read_with_own_keys(members, server, weakened)
    assert not server.vectors


def test_without_signatures_a_server_that_swaps_public_keys_reads_an_update(cohort, weakened):
    members, server = with_prekeys(cohort, weakened, member=weakened.NoSignaturesAtAll)
    read = read_with_own_keys(members, server, weakened)
    assert np.array_equal(read, members.plain[VICTIM])


@pytest.mark.parametrize(
    "edit",
    [
        {"key": public_key(b"k" * 32)},
        {"seed": b"s" * 32},
        {"sealed": b"s" * 32},
        {"slot": b"t" * 32},
    ],
)
def test_an_edited_prekey_is_not_its_senders(edit, cohort, weakened, refused):
    members, server = with_prekeys(cohort, weakened)
    exchange(server, "m0002", **edit)
    members.close_prekeys(server)
    with refused(members, VICTIM, "signature", "m0002"):
        members.upload(server, VICTIM)
    with pytest.raises(ProtocolError) as caught:
        honest = Aggregator(members.roster, server.slot)
        honest.add_prekey(
            "m0002", replace(server.kept["m0002"], prekey=server._prekeys["m0002"][0])
        )
    assert (caught.value.rule, caught.value.peer) == ("signature", "m0002")
    # What an edited key is good for is shown with the swapped keys above.


def test_a_member_whose_own_prekey_was_exchanged_or_left_out_does_not_upload(
    cohort, weakened, refused
):
    # Alone this opens nothing: it is what keeps all members on one manifest (see the swapped keys).
    members, server = with_prekeys(cohort, weakened, size=5)
    exchange(server, VICTIM, members.identities[VICTIM], key=public_key(b"k" * 32))
    members.close_prekeys(server)
    with refused(members, VICTIM, "prekey"):
        members.upload(server, VICTIM)
    del server._prekeys[VICTIM]
    members.close_prekeys(server)
    with refused(members, VICTIM, "prekey"):
        members.upload(server, VICTIM)


def test_a_signed_prekey_that_is_not_the_manifests_is_refused(cohort, weakened, refused):
    members, server = with_prekeys(cohort, weakened)
    members.close_prekeys(server)
    asked = UploadRequest.from_bytes(server.upload_request(VICTIM))
    exchange(server, "m0000", members.identities["m0000"], key=public_key(b"k" * 32))
    other = (server._prekeys["m0000"][0], *asked.prekeys[1:])
    with refused(members, VICTIM, "prekey", "m0000"):
        request = replace(asked, prekeys=other).to_bytes()
        members.participants[VICTIM].check_upload(request, CONTEXT)


@pytest.mark.parametrize("point", LOW_ORDER.values(), ids=LOW_ORDER)
def test_a_public_key_of_low_order_is_refused(point, cohort, weakened, refused):
    # No variant: only a member can sign such a key, and it knows its pairwise masks anyhow.
    members, server = with_prekeys(cohort, weakened)
    kept = server.kept["m0002"]
    exchange(server, "m0002", members.identities["m0002"], key=point)
    members.close_prekeys(server)
    request = server.upload_request(VICTIM)
    words = np.arange(server._manifest.layout.length, dtype="<u4")
    with refused(members, VICTIM, "prekey", "m0002"):
        members.participants[VICTIM].upload(request, CONTEXT, words)
    assert np.array_equal(words, np.arange(len(words)))
    with pytest.raises(ProtocolError) as caught:
        honest = Aggregator(members.roster, server.slot)
        honest.add_prekey("m0002", replace(kept, prekey=server._prekeys["m0002"][0]))
    assert (caught.value.rule, caught.value.peer) == ("prekey", "m0002")


@pytest.mark.parametrize("point", LOW_ORDER.values(), ids=LOW_ORDER)
def test_a_public_key_of_low_order_is_refused_before_data_is_touched(point, cohort, weakened):
    members, server = with_prekeys(cohort, weakened)
    exchange(server, "m0002", members.identities["m0002"], key=point)
    members.close_prekeys(server)
    with pytest.raises(ProtocolError):
        members.participants[VICTIM].check_upload(server.upload_request(VICTIM), CONTEXT)


def copying(cohort, weakened, member, key_of, copied: str = "m0000"):
    """The last of three members signs a copy of the first one's public key for its own.

    The victim sits between the two, so its masks with them have opposite signs.
    """
    members, server = with_prekeys(cohort, weakened, size=3, member=member)
    thief = "m0002"
    key = key_of(server._prekeys[copied][1].key)
    exchange(server, thief, members.identities[thief], key=key)
    members.close_prekeys(server)
    return members, server


def read_between_two_keys(members, server, weakened) -> Words:
    """What is left of the victim's vector when the masks with both keys cancel each other."""
    thief = members.participants["m0002"].member
    members.upload(server, "m0000")
    members.upload(server, VICTIM)
    # The thief plays its part without its own checks, for it knows its own secrets.
    honest, thief._check_upload = thief._check_upload, lambda *_: server.keys("m0002")
    members.upload(server, "m0002")
    thief._check_upload = honest
    server.close_uploads()
    members.confirm_all(server)
    members.reveal_all(server)
    seed = server.secret(VICTIM, OF_SEED, server._numbers.shares)
    return weakened.unmask(members.participants[VICTIM].member, server, seed)


def test_a_member_that_copies_a_public_key_takes_no_mask_away(cohort, weakened, refused):
    members, server = copying(cohort, weakened, Member, bytes)
    with refused(members, VICTIM, "prekey", "m0002"):
        members.upload(server, VICTIM)
    with refused(members, "m0000", "prekey", "m0002"):  # its own key echoed
        members.upload(server, "m0000")
    honest = Aggregator(members.roster, server.slot)
    honest.add_prekey("m0000", server.kept["m0000"])
    with pytest.raises(ProtocolError) as caught:
        reply = replace(server.kept["m0002"], prekey=server._prekeys["m0002"][0])
        honest.add_prekey("m0002", reply)
    assert (caught.value.rule, caught.value.peer) == ("prekey", "m0002")


def test_where_keys_may_repeat_a_member_that_copies_one_reads_an_update(cohort, weakened):
    members, server = copying(cohort, weakened, weakened.RepeatedKeys, bytes)
    read = read_between_two_keys(members, server, weakened)
    assert np.array_equal(read, members.plain[VICTIM])


def top_bit_set(key: bytes) -> bytes:
    """Another encoding of the same point: X25519 ignores the top bit (RFC 7748, sec. 5)."""
    return key[:31] + bytes([key[31] | 0x80])


def moved_by_low_order(key: bytes) -> bytes:
    """The point plus the one of order two, u -> 1/u: other canonical bytes, same agreed secrets."""
    return pow(int.from_bytes(key, "little"), -1, 2**255 - 19).to_bytes(32, "little")


@pytest.mark.parametrize("equivalent", [top_bit_set, moved_by_low_order])
def test_a_member_that_copies_a_public_key_in_other_bytes_takes_no_mask_away(
    equivalent, cohort, weakened
):
    members, server = copying(cohort, weakened, Member, equivalent)
    try:
        read = read_between_two_keys(members, server, weakened)
    except ProtocolError:
        return
    assert not np.array_equal(read, members.plain[VICTIM])


def brute_forced(server, member, seed: bytes, weakened) -> Words | None:
    """Search both pairwise seeds of a member of three, when its self mask is known.

    A vector in the clear has a one before its check word, and the check word fits. Both are linear,
    so the two seeds are searched one after the other and met in the middle.
    """
    length, hash_, name = server._manifest.layout.length, server._hash, member.name
    left = weakened.unmask(member, server, seed)
    first, second = sorted(server.keys(name))

    def mark(words: Words) -> tuple[int, int]:
        return int(words[-2]), (int(words[-1]) - int(words[:-1].sum(dtype=np.uint32))) % 2**32

    def stream(bits: int, other: str) -> Words:
        words = np.zeros(length, dtype="<u4")
        add_masks(words, [(weakened.few_bits_key(bits, hash_), 1 if name < other else -1)])
        return words

    tried = range(2**weakened.FEW_BITS)
    marks = {mark(stream(bits, first)): bits for bits in tried}
    for bits in tried:
        rest = left - stream(bits, second)
        one, check = mark(rest)
        found = marks.get(((one - 1) % 2**32, check))
        if found is not None:
            return rest - stream(found, first)
    return None


def observed(cohort, weakened, member):
    """An honest slot of three, and what its server saw."""
    members, server = with_prekeys(cohort, weakened, size=3, member=member)
    members.close_prekeys(server)
    finish(members, server)
    seed = server.secret(VICTIM, OF_SEED, server._numbers.shares)
    return members, brute_forced(server, members.participants[VICTIM].member, seed, weakened)


def test_pairwise_seeds_are_too_long_to_be_searched(cohort, weakened):
    _, read = observed(cohort, weakened, Member)
    assert read is None


def test_pairwise_seeds_of_few_bits_are_found_by_search(cohort, weakened):
    members, read = observed(cohort, weakened, weakened.FewBits)
    assert np.array_equal(read, members.plain[VICTIM])


def test_a_prekey_of_an_earlier_slot_is_refused(cohort, weakened, refused):
    members, server, _ = with_old_prekeys(cohort, weakened, Member)
    with refused(members, "m0000", "prekey"):
        members.upload(server, "m0000")
    with refused(members, VICTIM, "prekey", "m0000"):
        members.upload(server, VICTIM)


def test_where_old_prekeys_are_taken_the_keys_of_old_dropouts_read_an_update(cohort, weakened):
    members, server, known = with_old_prekeys(cohort, weakened, weakened.StalePrekeys)
    finish(members, server)
    seed = server.secret(VICTIM, OF_SEED, server._numbers.shares)
    member = {name: members.participants[name].member for name in members.names}
    others = {member[name]: key for name, key in known.items()}
    read = weakened.unmask(member[VICTIM], server, seed, others=others)
    assert np.array_equal(read, members.plain[VICTIM])


def with_old_prekeys(cohort, weakened, member):
    """In three slots one of the victim's peers each drops out; the fourth has their old prekeys."""
    members = cohort(size=4, aggregator=weakened.Attacker, member=member)
    known, old = {}, {}
    peers = [name for name in members.names if name != VICTIM]
    for number, gone in enumerate(peers, start=1):
        server = members.open_slot(number)
        members.send_prekeys(server)
        members.close_prekeys(server)
        members.upload_all(server, [gone])
        members.confirm_all(server)
        members.reveal_all(server)
        known[gone] = server.secret(gone, OF_KEY, server._numbers.shares)
        old[gone] = server._prekeys[gone]
    server = members.open_slot(4)
    members.send_prekeys(server)
    server._prekeys.update(old)
    members.close_prekeys(server)
    return members, server, known
