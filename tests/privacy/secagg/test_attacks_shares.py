"""Shares that are not what they should be, from the server, a dealer or who reveals them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from umbel.errors import ProtocolError, TooFewMembers
from umbel.privacy.secagg import shamir
from umbel.privacy.secagg.aggregator import Aggregator
from umbel.privacy.secagg.keys import unseal
from umbel.privacy.secagg.member import Member
from umbel.privacy.secagg.messages import (
    OF_KEY,
    OF_SEED,
    Prekey,
    PrekeyReply,
    Reveal,
    RevealedShare,
    RevealReply,
    RevealRequest,
    Signed,
)

LIAR = "m0002"
OWNER = "m0004"


class WrongDealer(Member):
    """Deals shares of other secrets than those that it masks with."""

    def _share(self, secret: bytes, threshold: int, points: list[int]) -> list[bytes]:
        return super()._share(bytes(32), threshold, points)


class OneWrongShare(Member):
    """Deals right shares, but for one that it sends to its last neighbour."""

    def _share(self, secret: bytes, threshold: int, points: list[int]) -> list[bytes]:
        return [*super()._share(secret, threshold, points)[:-1], bytes(32)]


class NoElement(Member):
    """Deals numbers that are no elements of the field."""

    def _share(self, secret: bytes, threshold: int, points: list[int]) -> list[bytes]:
        return [b"\xff" * 32 for _ in points]


def confirmed(cohort, missing=(), size: int = 6, **named):
    members = cohort(size=size, **named)
    server = members.open_slot()
    members.send_prekeys(server)
    members.close_prekeys(server)
    members.upload_all(server, missing)
    members.confirm_all(server)
    return members, server


def reveal_of(members, server: Aggregator, name: str) -> Reveal:
    reply = members.ask(name, "reveal", server.reveal_request(name))
    return Reveal.from_bytes(RevealReply.from_bytes(reply).reveal.body)


def signed(members, name: str, body: bytes) -> bytes:
    """A reveal's bytes, whatever they hold, under its sender's own signature."""
    return RevealReply(Signed(body, members.identities[name].sign(body)), ()).to_bytes()


def flipped(reveal: Reveal, *owners: str) -> Reveal:
    """The same shares, with a bit of those of some owners flipped."""
    shares = tuple(
        replace(s, share=s.share[:-1] + bytes([s.share[-1] ^ 1])) if s.owner in owners else s
        for s in reveal.shares
    )
    return replace(reveal, shares=shares)


def lie(members, server, name: str, *owners: str) -> None:
    reveal = flipped(reveal_of(members, server, name), *owners)
    server.add_reveal(name, signed(members, name, reveal.to_bytes()))


def edited(reveal: Reveal, how: str) -> Reveal:
    first, *rest = reveal.shares
    shares = {
        "beyond-the-field": (replace(first, share=shamir.P.to_bytes(32, "big")), *rest),
        "largest": (replace(first, share=b"\xff" * 32), *rest),
        "wrong-kind": (replace(first, kind=OF_KEY if first.kind == OF_SEED else OF_SEED), *rest),
        "missing": tuple(rest),
        "of-a-stranger": (*reveal.shares, RevealedShare("m9999", OF_KEY, bytes(32))),
        "wrong-owner": (*reveal.shares[:-1], replace(reveal.shares[-1], owner="m9999")),
    }
    return replace(reveal, shares=shares[how])


@pytest.mark.parametrize(
    "how",
    ["beyond-the-field", "largest", "wrong-kind", "missing", "of-a-stranger", "wrong-owner"],
)
def test_shares_that_cannot_be_are_refused_whole(how, cohort):
    members, server = confirmed(cohort)
    reveal = edited(reveal_of(members, server, LIAR), how)
    with pytest.raises(ProtocolError) as caught:
        server.add_reveal(LIAR, signed(members, LIAR, reveal.to_bytes()))
    assert (caught.value.rule, caught.value.peer) == ("share", LIAR)
    assert not server._shares
    members.reveal_all(server)  # the right ones are still welcome
    server.open()
    assert np.array_equal(server._sum, members.expected(server))


def test_truncated_and_repeated_shares_have_no_encoding(cohort):
    members, server = confirmed(cohort)
    reveal = reveal_of(members, server, LIAR)
    body, share = reveal.to_bytes(), reveal.shares[0].share
    prefixed = len(share).to_bytes(4, "big") + share
    truncated = body.replace(prefixed, (31).to_bytes(4, "big") + share[:31])
    repeated = body.replace(b"m0001", b"m0000")
    for data in (truncated, repeated, body[:-1], body + b"\0"):
        with pytest.raises(ProtocolError) as caught:
            server.add_reveal(LIAR, signed(members, LIAR, data))
        assert (caught.value.rule, caught.value.peer) == ("encoding", LIAR)
    assert not server._shares


def test_shares_in_another_members_name_are_refused(cohort):
    members, server = confirmed(cohort)
    body = reveal_of(members, server, LIAR).to_bytes()
    with pytest.raises(ProtocolError) as caught:
        server.add_reveal("m0000", signed(members, LIAR, body))
    assert (caught.value.rule, caught.value.peer) == ("sender", "m0000")
    with pytest.raises(ProtocolError) as caught:
        server.add_reveal(LIAR, signed(members, "m0000", body))
    assert (caught.value.rule, caught.value.peer) == ("signature", LIAR)
    server.add_reveal(LIAR, signed(members, LIAR, body))
    with pytest.raises(ProtocolError) as caught:
        server.add_reveal(LIAR, signed(members, LIAR, body))
    assert (caught.value.rule, caught.value.peer) == ("replay", LIAR)


@pytest.mark.parametrize("gone", [(), (OWNER,)])
def test_a_wrong_share_is_decoded_around(gone, cohort):
    members, server = confirmed(cohort, gone, size=7)
    members.reveal_all(server, [LIAR])
    lie(members, server, LIAR, OWNER)
    server.open()
    assert np.array_equal(server._sum, members.expected(server))


def test_the_sender_of_wrong_shares_is_named(cohort):
    members, server = confirmed(cohort)
    lie(members, server, "m0000", *members.names)  # first, so that it is among those tried first
    members.reveal_all(server, ["m0000"])
    server.open()
    assert np.array_equal(server._sum, members.expected(server))
    assert set(server.faults) == {"m0000"}


def test_unchecked_shares_spoil_the_sum_and_nobody_is_named(cohort, weakened):
    members, server = confirmed(cohort, aggregator=weakened.TrustsShares)
    lie(members, server, "m0000", *members.names)
    members.reveal_all(server, ["m0000"])
    with pytest.raises(ProtocolError) as caught:
        server.open()
    assert (caught.value.rule, caught.value.peer) == ("sum", "the cohort")
    assert not server.faults


def shifted(members, server, name: str, owner: str, error: int) -> None:
    """Reveal a share that is wrong by a chosen error."""
    reveal = reveal_of(members, server, name)
    shares = tuple(
        replace(s, share=((int.from_bytes(s.share, "big") + error) % shamir.P).to_bytes(32, "big"))
        if s.owner == owner
        else s
        for s in reveal.shares
    )
    edited = replace(reveal, shares=shares)
    server.add_reveal(name, signed(members, name, edited.to_bytes()))


def test_two_liars_among_six_are_both_named(cohort):
    members, server = confirmed(cohort)
    for name, error in (("m0000", 3**100), ("m0001", 5**100)):
        shifted(members, server, name, OWNER, error)
    members.reveal_all(server, ["m0000", "m0001"])
    server.open()
    assert np.array_equal(server._sum, members.expected(server))
    assert set(server.faults) == {"m0000", "m0001"}
    assert not server.spoilers


def test_two_liars_whose_errors_cancel_have_no_honest_members_blamed(cohort):
    members, server = confirmed(cohort)
    # Over the points 1, 2, 4 and 5 the first two weigh 10/3 and -10/3.
    for name in ("m0000", "m0001"):
        shifted(members, server, name, OWNER, 1)
    members.reveal_all(server, ["m0000", "m0001"])
    server.open()
    assert np.array_equal(server._sum, members.expected(server))
    assert set(server.faults) <= {"m0000", "m0001"}


def test_fewer_right_shares_than_the_threshold_open_nothing(cohort):
    members, server = confirmed(cohort)
    liars = ["m0000", "m0001", "m0002"]
    for power, name in enumerate(liars, start=100):
        shifted(members, server, name, OWNER, 3**power + power)
    members.reveal_all(server, liars)
    before = server._sum.copy()
    with pytest.raises(TooFewMembers) as caught:
        server.open()
    assert (caught.value.rule, caught.value.peer) == ("share", OWNER)
    assert np.array_equal(server._sum, before)


def test_who_reveals_a_wrong_share_cannot_have_its_owner_left_out(cohort):
    members, server = confirmed(cohort)
    lie(members, server, "m0000", OWNER)
    members.reveal_all(server, ["m0000", "m0001", "m0005"])
    with pytest.raises(TooFewMembers):
        server.open()
    assert OWNER not in server.spoilers


def test_who_passes_a_dealers_wrong_share_on_is_not_blamed_alone(cohort):
    members = cohort(size=6)
    dealer = OneWrongShare("m0005", members.identities["m0005"], members.roster)
    members.participants["m0005"].member = dealer
    server = finished_reveals(members)
    server.open()
    assert np.array_equal(server._sum, members.expected(server))
    # The last neighbour of the last member is m0004, which did nothing but pass a share on.
    assert "m0005" in server.faults["m0004"]
    assert not server.spoilers


def finished_reveals(members) -> Aggregator:
    server = members.open_slot()
    members.send_prekeys(server)
    members.close_prekeys(server)
    members.upload_all(server)
    members.confirm_all(server)
    # The last one answers first, so its share is among those tried first.
    for name in reversed(server.revealers):
        server.add_reveal(name, members.ask(name, "reveal", server.reveal_request(name)))
    return server


def with_wrong_dealer(cohort, **named):
    """One member's signed digest is of its seed, but the shares that it deals are not."""
    members = cohort(size=6, **named)
    dealer = WrongDealer(LIAR, members.identities[LIAR], members.roster)
    members.participants[LIAR].member = dealer
    return members, finished_reveals(members)


def test_a_dealer_of_shares_that_are_not_of_its_seed_is_named(cohort):
    members, server = with_wrong_dealer(cohort)
    before = server._sum.copy()
    with pytest.raises(TooFewMembers) as caught:
        server.open()
    assert (caught.value.rule, caught.value.peer) == ("share", LIAR)
    assert set(server.faults) == server.spoilers == {LIAR}
    assert np.array_equal(server._sum, before)


def test_unchecked_seeds_hide_the_dealer_of_wrong_shares(cohort, weakened):
    _, server = with_wrong_dealer(cohort, aggregator=weakened.TrustsShares)
    with pytest.raises(ProtocolError) as caught:
        server.open()
    assert caught.value.rule == "sum"
    assert LIAR not in server.faults


# No variant: AES-GCM is what rejects a sealed share, and a member without it reveals only noise.
@pytest.mark.parametrize("how", ["bit-flipped", "of-another-dealer", "for-another-recipient"])
def test_a_sealed_share_that_is_not_the_dealers_for_this_member_is_unreadable(how, cohort):
    members, server = confirmed(cohort)
    asked = RevealRequest.from_bytes(server.reveal_request(LIAR))
    at = asked.senders.index(OWNER)
    good = asked.sealed[at]
    other = {
        "bit-flipped": bytes([good[0] ^ 1]) + good[1:],
        "of-another-dealer": asked.sealed[at - 1],
        "for-another-recipient": server._sealed[OWNER]["m0000"],
    }[how]
    sealed = (*asked.sealed[:at], other, *asked.sealed[at + 1 :])
    request = replace(asked, sealed=sealed).to_bytes()
    reply = members.ask(LIAR, "reveal", request)
    reveal = Reveal.from_bytes(RevealReply.from_bytes(reply).reveal.body)
    assert reveal.unreadable == (OWNER,)
    assert OWNER not in {share.owner for share in reveal.shares}
    server.add_reveal(LIAR, reply)
    members.reveal_all(server, [LIAR])
    server.open()
    assert np.array_equal(server._sum, members.expected(server))


def test_a_truncated_sealed_share_is_refused(cohort, refused):
    members, server = confirmed(cohort)
    data = server.reveal_request(LIAR)
    share = RevealRequest.from_bytes(data).sealed[0]
    prefixed = len(share).to_bytes(4, "big") + share
    shorter = (len(share) - 1).to_bytes(4, "big") + share[:-1]
    with refused(members, LIAR, "encoding"):
        members.ask(LIAR, "reveal", data.replace(prefixed, shorter))


def test_sealed_shares_of_an_older_slot_are_unreadable(cohort):
    members, first = confirmed(cohort)
    old = first._sealed[OWNER][LIAR]
    server = members.open_slot(2)
    members.send_prekeys(server)
    members.close_prekeys(server)
    members.upload_all(server)
    members.confirm_all(server)
    server._sealed[OWNER][LIAR] = old
    assert reveal_of(members, server, LIAR).unreadable == (OWNER,)


def test_sealed_shares_that_their_dealer_did_not_sign_for_are_refused(cohort):
    members = cohort(size=6)
    server = members.open_slot()
    request = server.prekey_request.to_bytes()
    reply = PrekeyReply.from_bytes(members.ask(LIAR, "prekey", request))
    shares = (reply.sealed.shares[1], reply.sealed.shares[0], *reply.sealed.shares[2:])
    swapped = replace(reply, sealed=replace(reply.sealed, shares=shares))
    with pytest.raises(ProtocolError) as caught:
        server.add_prekey(LIAR, swapped)
    assert (caught.value.rule, caught.value.peer) == ("share", LIAR)
    assert not server._prekeys
    assert Prekey.from_bytes(reply.prekey.body).sealed == reply.sealed.digest()


def test_a_dealer_whose_shares_nobody_can_read_is_found_out(cohort):
    members = cohort(size=6)
    dealer = NoElement(OWNER, members.identities[OWNER], members.roster)
    members.participants[OWNER].member = dealer
    server = members.open_slot()
    members.send_prekeys(server)
    members.close_prekeys(server)
    members.upload_all(server)
    members.confirm_all(server)
    members.reveal_all(server, [OWNER])
    with pytest.raises(TooFewMembers) as caught:
        server.open()
    assert caught.value.peer == OWNER
    assert server.spoilers == {OWNER}
    assert set(server.faults) == {OWNER}


def test_one_complaint_is_not_enough_to_have_a_dealer_left_out(cohort):
    """It may be the complaint that is a lie."""
    members, server = confirmed(cohort)
    reveal = reveal_of(members, server, LIAR)
    kept = tuple(share for share in reveal.shares if share.owner != OWNER)
    lie = replace(reveal, shares=kept, unreadable=(OWNER,))
    server.add_reveal(LIAR, signed(members, LIAR, lie.to_bytes()))
    members.reveal_all(server, [LIAR])
    server.open()
    assert not server.spoilers


def sealed_under_a_stolen_identity(
    members, server: Aggregator, thief: Member
) -> list[bytes | None]:
    """What a dealer's identity, stolen after the slot, opens of the shares that it sealed in it."""
    dealer, found = thief.name, []
    key = server._prekeys[dealer][1].key
    for name, sealed in server._sealed[dealer].items():
        # The fresh secret is gone; all-zero bytes stand for any guess.
        box_key = thief._sealing_key(server.slot, dealer, name, key, bytes(32))
        found.append(unseal(box_key, sealed[32:], sealed[:32]))
    return found


def test_an_identity_that_is_stolen_later_opens_no_share_that_it_sealed(cohort):
    members, server = confirmed(cohort)
    thief = Member(OWNER, members.identities[OWNER], members.roster)
    assert set(sealed_under_a_stolen_identity(members, server, thief)) == {None}


def test_without_a_fresh_key_a_stolen_identity_opens_all_that_it_ever_sealed(cohort, weakened):
    members, server = confirmed(cohort, member=weakened.StaticSealing)
    thief = weakened.StaticSealing(OWNER, members.identities[OWNER], members.roster)
    opened = sealed_under_a_stolen_identity(members, server, thief)
    points = [server._points[name] for name in server._sealed[OWNER]]
    shares = {x: int.from_bytes(plain[:32], "big") for x, plain in zip(points, opened, strict=True)}
    seed = shamir.combine(dict(list(shares.items())[: server._numbers.shares]))
    assert server._fits(OWNER, OF_SEED, seed)
