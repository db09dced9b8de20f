"""What was said before, said again: in another slot, run or roster, or after a slot was left."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from umbel.errors import ProtocolError
from umbel.privacy.secagg.messages import (
    OF_KEY,
    OF_SEED,
    Commit,
    Nonce,
    NonceRequest,
    PrekeyReply,
    PrekeyRequest,
    Signed,
)
from umbel.privacy.secagg.roster import Entry, Roster, SignedRoster, open_roster

CONTEXT = b"c" * 32
VICTIM = "m0001"


def opened_once(cohort, weakened, size: int = 5, **named):
    """A slot that all survived; the server knows every seed."""
    members = cohort(size=size, aggregator=weakened.Attacker, **named)
    server = members.open_slot()
    members.send_prekeys(server)
    members.close_prekeys(server)
    members.upload_all(server)
    members.confirm_all(server)
    members.reveal_all(server)
    return members, server


def same_slot_again(members, first, weakened):
    """Play the slot again with everybody else, and the victim's old prekey; then it "drops out"."""
    again = members.open_slot(first.slot.number)
    request = again.prekey_request.to_bytes()
    for name in members.names:
        if name != VICTIM:
            reply = members.ask(name, "prekey", request)
            again.add_prekey(name, PrekeyReply.from_bytes(reply))
    again.add_prekey(VICTIM, first.kept[VICTIM])
    vector = members.plain[VICTIM].copy()
    members.close_prekeys(again)
    members.upload_all(again, [VICTIM])
    members.confirm_all(again)
    members.reveal_all(again)
    key = again.secret(VICTIM, OF_KEY, again._numbers.shares)
    seed = first.secret(VICTIM, OF_SEED, first._numbers.shares)
    read = weakened.unmask(members.participants[VICTIM].member, first, seed, key)
    return read, vector


def test_a_slot_is_not_entered_twice(cohort, weakened, refused):
    members, server = opened_once(cohort, weakened)
    members.sum(2)
    again = members.open_slot(1)
    for name in members.names:
        with refused(members, name, "slot"):
            members.ask(name, "prekey", again.prekey_request.to_bytes())
    smaller = members.open_slot(2, members.names[:4])  # the slot in progress, with another cohort
    with refused(members, "m0000", "slot"):
        members.ask("m0000", "prekey", smaller.prekey_request.to_bytes())


def test_slots_in_any_order_give_an_update_away(cohort, weakened):
    members, server = opened_once(cohort, weakened, member=weakened.NoOrder)
    for name in members.names:  # the slot's own request would get its own reply: they went on
        members.ask(name, "prekey", members.open_slot(2).prekey_request.to_bytes())
    read, vector = same_slot_again(members, server, weakened)
    assert np.array_equal(read, vector)


@pytest.mark.parametrize("lost", ["witness", "journal"])
def test_members_that_lost_their_memory_enter_no_old_slot(lost, cohort, weakened):
    members, server = opened_once(cohort, weakened)
    for name in members.names:
        if name != VICTIM:
            for path in (members.folder / name).glob(f"{lost}*"):
                path.unlink()
    try:
        read, vector = same_slot_again(members, server, weakened)
    except ProtocolError:
        return
    assert not np.array_equal(read, vector)


def test_requests_of_an_older_slot_are_refused_in_the_next(cohort, weakened, refused):
    members = cohort(aggregator=weakened.Attacker)
    old = members.open_slot(1)
    members.send_prekeys(old)
    members.close_prekeys(old)
    members.upload_all(old)
    confirm = old.confirm_request()
    members.confirm_all(old)
    reveal = old.reveal_request(VICTIM)
    upload = old.upload_request(VICTIM)
    new = members.open_slot(2)
    members.send_prekeys(new)
    with refused(members, VICTIM, "slot"):
        members.participants[VICTIM].check_upload(upload, CONTEXT)
    with refused(members, VICTIM, "phase"):
        members.ask(VICTIM, "confirm", confirm)
    with refused(members, VICTIM, "phase"):
        members.ask(VICTIM, "reveal", reveal)
    members.close_prekeys(new)
    members.upload_all(new)
    with refused(members, VICTIM, "manifest"):
        members.ask(VICTIM, "confirm", confirm)
    members.confirm_all(new)
    with refused(members, VICTIM, "survivors"):
        members.ask(VICTIM, "reveal", reveal)


@pytest.mark.parametrize("stage", ["prekey", "upload", "confirm"])
def test_a_slot_is_not_completed_after_the_next_began(stage, cohort, weakened, refused):
    members = cohort(aggregator=weakened.Attacker)
    server = members.open_slot(1)
    members.send_prekeys(server)
    members.close_prekeys(server)
    if stage != "prekey":
        members.upload_all(server)
    if stage == "confirm":
        members.confirm_all(server)
    request = members.open_slot(2).prekey_request.to_bytes()
    for name in members.names:
        members.ask(name, "prekey", request)
    with refused(members, VICTIM, "slot" if stage == "prekey" else "phase"):
        if stage == "prekey":
            members.upload(server, VICTIM)
        elif stage == "upload":
            members.confirm_all(server)
        else:
            members.ask(VICTIM, "reveal", server.reveal_request(VICTIM))
    assert not server._shares


def test_two_slots_at_once_with_one_update_give_it_away(cohort, weakened):
    # A member with a state for each slot is a member with a folder for each slot.
    members = cohort(aggregator=weakened.Attacker)
    first = members.open_slot(1)
    members.send_prekeys(first)
    members.close_prekeys(first)
    members.upload_all(first)
    plain, in_first = dict(members.plain), members.participants
    members.folder = members.folder / "second"
    members.participants = {name: members.participant(name) for name in members.names}
    second = members.open_slot(2)
    members.send_prekeys(second)
    members.close_prekeys(second)
    for name in members.names:
        if name != VICTIM:
            members.upload(second, name, plain[name].copy())
    second.close_uploads()
    finish(members, second)
    members.participants = in_first
    finish(members, first)
    assert np.array_equal(first._sum - second._sum, plain[VICTIM])


def finish(members, server) -> None:
    members.confirm_all(server)
    members.reveal_all(server)
    server.open()


def test_a_slot_of_another_run_or_roster_is_refused(cohort, weakened, refused):
    # No variant: such a slot would get keys of its own, and its own digest is in all of them.
    members = cohort(aggregator=weakened.Attacker)
    for rule, edit in (("run", {"run": "older"}), ("roster", {"roster": b"r" * 32})):
        request = PrekeyRequest(replace(members.slot(), **edit), ())
        with refused(members, VICTIM, rule):
            members.ask(VICTIM, "prekey", request.to_bytes())


def with_a_traitor_expelled(members) -> tuple[bytes, Roster]:
    """The signed first roster, and the second one, without its last member."""
    old = SignedRoster.sign(members.roster, members.consortium).to_bytes()
    entries = tuple(Entry(n, members.identities[n].public) for n in members.names[:-1])
    roster = Roster(2, entries, members.limits, members.roster.hash)
    signed = SignedRoster.sign(roster, members.consortium).to_bytes()
    return old, open_roster(signed, members.consortium.public.signing, members.roster)


def test_an_expelled_member_comes_back_with_no_older_roster(cohort, weakened):
    members = cohort()
    traitor = members.names[-1]
    old, current = with_a_traitor_expelled(members)
    key = members.consortium.public.signing
    with pytest.raises(ProtocolError) as caught:
        open_roster(old, key, current)
    assert (caught.value.rule, caught.value.peer) == ("roster", "the server")
    assert traitor not in current.by_name
    assert traitor in weakened.any_epoch(old).by_name


def test_a_roster_of_another_signer_or_predecessor_is_refused(cohort):
    members = cohort()
    key = members.consortium.public.signing
    forged = SignedRoster.sign(members.roster, members.identities[VICTIM]).to_bytes()
    branch = replace(members.roster, epoch=2, previous=b"p" * 32)
    twin = replace(members.roster, previous=b"p" * 32)
    for data, current in (
        (forged, None),
        (SignedRoster.sign(branch, members.consortium).to_bytes(), members.roster),
        (SignedRoster.sign(twin, members.consortium).to_bytes(), members.roster),
    ):
        with pytest.raises(ProtocolError) as caught:
            open_roster(data, key, current)
        assert (caught.value.rule, caught.value.peer) == ("roster", "the server")


def test_identical_requests_get_identical_bytes_also_after_a_restart(cohort, weakened):
    members = cohort(aggregator=weakened.Attacker)
    server = members.open_slot()
    given: dict[str, tuple[bytes, bytes]] = {}

    def ask(trip: str, request: bytes) -> bytes:
        given[trip] = (request, members.ask(VICTIM, trip, request))
        for known, (asked, reply) in given.items():
            assert members.ask(VICTIM, known, asked) == reply
            assert members.participant(VICTIM).answer(known, asked) == reply
        return given[trip][1]

    members.send_prekeys(server)
    ask("prekey", server.prekey_request.to_bytes())
    members.close_prekeys(server)
    members.upload_all(server)
    again, vector = members.participant(VICTIM).check_upload(server.upload_request(VICTIM), CONTEXT)
    assert Signed.from_bytes(again) == server._uploads[VICTIM]
    assert np.array_equal(vector, server.vectors[VICTIM])
    ask("confirm", server.confirm_request())
    members.confirm_all(server)
    ask("reveal", server.reveal_request(VICTIM))


def test_no_server_orders_the_circle_of_a_large_cohort(cohort, weakened, refused):
    # Who orders the circle surrounds a member with its own: the nonces are fixed before any is known.
    members = cohort(size=104, aggregator=weakened.Attacker)
    server = members.open_slot()
    slot = server.slot.digest()
    with refused(members, VICTIM, "phase"):
        members.ask(VICTIM, "prekey", PrekeyRequest(server.slot, ()).to_bytes())
    own = Signed.from_bytes(members.ask(VICTIM, "commit", server.commit_request()))
    digest = hashlib.sha256(b"n" * 32).digest()
    commits = [Signed.by(members.identities[n], Commit(n, slot, digest)) for n in members.names]
    with refused(members, VICTIM, "nonce"):  # its own commitment, exchanged
        members.ask(VICTIM, "nonce", NonceRequest(slot, tuple(commits)).to_bytes())
    commits[1] = own
    with refused(members, VICTIM, "cohort"):
        members.ask(VICTIM, "nonce", NonceRequest(slot, tuple(commits[:-1])).to_bytes())
    request = NonceRequest(slot, tuple(commits))
    shown = Signed.from_bytes(members.ask(VICTIM, "nonce", request.to_bytes()))

    def open_with(nonce: bytes, of: NonceRequest) -> None:
        nonces = [
            Signed.by(members.identities[n], Nonce(n, of.digest(), b"n" * 32))
            for n in members.names
        ]
        nonces[1] = shown
        nonces[5] = Signed.by(members.identities["m0005"], Nonce("m0005", of.digest(), nonce))
        members.ask(VICTIM, "prekey", PrekeyRequest(server.slot, tuple(nonces)).to_bytes())

    with refused(members, VICTIM, "nonce", "m0005"):
        open_with(b"chosen later".ljust(32), request)
    other = NonceRequest(slot, tuple(commits[:5]))
    with refused(members, VICTIM, "nonce", "m0000"):
        open_with(b"n" * 32, other)
    open_with(b"n" * 32, request)
