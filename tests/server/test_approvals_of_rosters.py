"""k of n owners approve a roster: without them even the consortium's key brings nobody in."""

import dataclasses
import os

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from umbel.client.home import Home
from umbel.client.keys import change_of
from umbel.consortium.authority import Consortium
from umbel.consortium.card import Request, public_pem
from umbel.consortium.rotation import rotate
from umbel.errors import ConsortiumError, ProtocolError
from umbel.privacy.secagg.keys import Identity
from umbel.privacy.secagg.roster import (
    DELEGATION,
    Delegation,
    Entry,
    Limits,
    Roster,
    SignedRoster,
    approvals_needed,
    open_roster,
)
from umbel.privacy.secagg.signed import FOREVER, Seal, Signed, Statement
from umbel.server.signing import approvals_awaited, sign_members, take_members

NAMES = ("east", "north", "west")


def request_of(consortium, name, identity):
    node = public_pem(ec.generate_private_key(ec.SECP384R1()).public_key())
    return Request.make(consortium.card, name, identity, node)


def approved(packet, *identities):
    signed = SignedRoster.from_bytes(bytes.fromhex(packet.roster))
    for identity in identities:
        signed = signed.approved_by(identity)
    return packet.model_copy(update={"roster": signed.to_bytes().hex()})


@pytest.fixture
def consortium(tmp_path):
    return Consortium.create(tmp_path / "hospitals", "localhost", 9443, Limits(owners=2))


@pytest.fixture
def owners(consortium):
    """Three owners, of whom each was approved by those before it, as far as two are needed."""
    found = {}
    for name in NAMES:
        identity = Identity(os.urandom(64))
        consortium.admit(request_of(consortium, name, identity))
        if consortium.pending is not None:
            take_members(consortium, approved(sign_members(consortium), *found.values()))
        found[name] = identity
    return found


def test_a_change_counts_once_enough_members_approved_it_whichever_copy_came_first(
    consortium, owners
):
    before = consortium.roster()
    consortium.admit(request_of(consortium, "new", Identity(os.urandom(64))))
    assert consortium.roster() == before
    with pytest.raises(ConsortiumError, match="waits for its members' approval"):
        consortium.remove("east")
    packet = sign_members(consortium)
    assert approvals_awaited(consortium, packet) == "Approved by nobody: 2 more are needed."
    with pytest.raises(
        ProtocolError, match="0 of the previous members have approved it, but 2 are"
    ):
        take_members(consortium, packet)
    east = approved(packet, owners["east"])
    assert approvals_awaited(consortium, east) == "Approved by east: 1 more is needed."
    west = approved(packet, owners["west"])
    assert approvals_awaited(consortium, west) == ""
    assert take_members(consortium, west) == ["new"]
    assert list(consortium.current_roster().by_name) == ["east", "new", "north", "west"]
    assert consortium.pending is None
    # Prolonging changes no member: approvals stay, also for owners that were away.
    consortium.prolong(3)
    key = consortium.card.consortium_key_bytes
    known = open_roster(before, key)
    assert len(open_roster(consortium.roster(), key, known).members) == 4


def test_a_thief_of_the_consortiums_key_brings_nobody_in(consortium, owners):
    key, known = consortium.card.consortium_key_bytes, consortium.current_roster()
    assert approvals_needed(known) == 2
    thief, made_up = consortium.identity, Identity(os.urandom(64))
    entries = tuple(sorted((*known.members, Entry("x", made_up.public)), key=lambda e: e.name))
    grown = Roster(known.epoch + 1, entries, known.limits, known.hash)
    lax = Roster(known.epoch + 1, known.members, Limits(), known.hash)
    other = SignedRoster.sign(lax, thief)
    for owner in owners.values():
        other = other.approved_by(owner)
    attempts = {
        "by itself": SignedRoster.sign(grown, thief),
        "with one member": SignedRoster.sign(grown, thief).approved_by(owners["east"]),
        "with one who approves twice, and who it brings in": SignedRoster.sign(grown, thief)
        .approved_by(owners["east"])
        .approved_by(made_up)
        .approved_by(thief),
        "with approvals of another roster": SignedRoster.sign(grown, thief).with_approvals(
            other.approvals
        ),
        "without the rule": SignedRoster.sign(lax, thief),
    }
    for what, signed in attempts.items():
        with pytest.raises(ProtocolError) as refused:
            open_roster(signed.to_bytes(), key, known)
        assert "have approved it" in str(refused.value), what
    # Weakened: a consortium whose members need not approve.
    weak = Roster(known.epoch, known.members, Limits(), known.previous)
    follows = Roster(weak.epoch + 1, entries, Limits(), weak.hash)
    assert "x" in open_roster(SignedRoster.sign(follows, thief).to_bytes(), key, weak).by_name


@pytest.fixture
def home(consortium, owners, tmp_path):
    """A fourth owner's, who knows the roster."""
    (tmp_path / "notes.csv").write_text("text,label\nfine,positive\nill,negative\n")
    card = consortium.path / "consortium.json"
    made = Home.create(tmp_path / "st-mary", card, tmp_path / "notes.csv")
    consortium.admit(made.request)
    take_members(consortium, approved(sign_members(consortium), owners["east"], owners["west"]))
    made.membership.learn(consortium.roster())
    return made


def test_a_thief_of_the_consortiums_key_hides_no_member_from_who_approves(consortium, home):
    """An approval is for the roster as it was signed, so a cut that is shown and taken off later hides who
    is in it."""
    key, known = consortium.card.consortium_key_bytes, consortium.current_roster()
    thief, made_up, delegate = (
        consortium.identity,
        Identity(os.urandom(64)),
        Identity(os.urandom(64)),
    )
    entries = tuple(sorted((*known.members, Entry("x", made_up.public)), key=lambda e: e.name))
    grown = SignedRoster.sign(Roster(known.epoch + 1, entries, known.limits, known.hash), thief)
    body = Delegation(consortium.card.id, "run", delegate.public.signing).to_bytes()
    delegation = Signed.sign(Statement(DELEGATION, 1, 0, FOREVER, body), thief)
    harmless = grown.cut(["x"], known.epoch + 2, delegate, delegation, 0)
    # All that it seems to change is nothing, and the approval would be for a roster with the stranger in it.
    assert set(open_roster(harmless.to_bytes(), key).members) == set(known.members)
    assert harmless.whole.hash == grown.whole.hash
    with pytest.raises(ProtocolError, match="removed members"):
        change_of(home, harmless.to_bytes(), [])
    assert change_of(home, grown.to_bytes(), []).lines == [
        "Joins: x (its request is not in the file)"
    ]


def test_no_member_spoils_the_approval_of_another_nor_adds_to_what_is_sent_to_all(
    consortium, owners
):
    consortium.admit(request_of(consortium, "new", Identity(os.urandom(64))))
    packet = sign_members(consortium)
    east = owners["east"].public.signing
    false = [Seal(east, bytes(64)), *(Seal(os.urandom(32), bytes(64)) for _ in range(50))]

    def spoiled(packet):
        signed = SignedRoster.from_bytes(bytes.fromhex(packet.roster))
        signed = dataclasses.replace(signed, approvals=(*signed.approvals, *false))
        return packet.model_copy(update={"roster": signed.to_bytes().hex()})

    assert "Approved by east: 1" in approvals_awaited(consortium, approved(packet, owners["east"]))
    assert "Approved by east: 1" in approvals_awaited(consortium, spoiled(packet))
    west = spoiled(approved(packet, owners["west"]))
    assert approvals_awaited(consortium, west) == ""
    assert take_members(consortium, west) == ["new"]
    assert len(SignedRoster.from_bytes(consortium.roster()).approvals) == 2


def test_a_request_that_comes_by_way_of_others_takes_no_key_of_another_member(consortium, owners):
    consortium.admit(request_of(consortium, "new", Identity(os.urandom(64))))
    packet = approved(sign_members(consortium), owners["east"], owners["west"])
    known = {request.name: request for request in packet.requests}
    # East signs for itself with the key of north's node, whose messages would be taken for east's.
    stolen = Request.make(consortium.card, "east", owners["east"], known["north"].node_key)
    stolen.check(consortium.card)
    requests = [stolen if r.name == "east" else r for r in packet.requests]
    for wrong in (requests, [*packet.requests, known["north"]]):
        with pytest.raises(ConsortiumError, match="have the same key"):
            take_members(consortium, packet.model_copy(update={"requests": wrong}))
    keys, _ = consortium.node_keys()
    assert sorted(keys.values()) == sorted(owners)
    assert take_members(consortium, packet) == ["new"]


def test_an_owner_sees_who_joins_and_leaves_and_approves_by_a_command(
    consortium, owners, home, umbel, tmp_path
):
    status, out, _ = umbel("consortium", "remove", consortium.path, "east", "--yes")
    assert (status, "waits until 2 members have approved it" in out) == (0, True)
    file = tmp_path / "roster.signed"
    assert umbel("sign", "roster", consortium.path, "--out", file)[0] == 0
    assert umbel("client", "approve-roster", file, home.path)[0] == 2  # nobody is here to ask
    status, out, _ = umbel("client", "approve-roster", file, home.path, "--yes")
    assert (status, "Leaves: east" in out) == (0, True)
    status, out, _ = umbel("take", file, "--consortium", consortium.path)
    assert (status, out.strip()) == (0, "Approved by st-mary: 1 more is needed.")
    status, out, _ = umbel("consortium", "remove", consortium.path, "east")
    assert (status, "waits until 2" in out) == (0, True)  # it was asked for before
    assert "To remove: east" in umbel("consortium", "members", consortium.path)[1]
    assert "roster approved" in home.audit.read_text()
    again = approved(sign_members(consortium), owners["north"])
    assert take_members(consortium, again) == []
    assert "east" not in consortium.current_roster().by_name
    own = request_of(consortium, "new", Identity(os.urandom(64)))
    consortium.admit(own)
    packet = sign_members(consortium)
    change = change_of(home, bytes.fromhex(packet.roster), packet.requests)
    assert change.lines == [f"Joins: new ({own.fingerprint})", "Leaves: east"]


def test_a_member_whose_new_keys_wait_for_approval_goes_on_with_the_ones_it_has(consortium, owners):
    before, _ = consortium.node_keys()
    held, new = owners["east"], Identity(os.urandom(64))
    node = public_pem(ec.generate_private_key(ec.SECP384R1()).public_key())
    asked = Request.make(consortium.card, "east", new, node, held)
    consortium.admit(asked)
    assert consortium.admit(asked) == asked  # once more changes nothing
    assert consortium.node_keys() == (before, {})
    packet = approved(sign_members(consortium), held, owners["west"])
    pending = consortium.path / "rosters" / "pending"
    waiting = pending.read_bytes()
    pending.unlink()  # given up
    assert consortium.node_keys() == (before, {})
    pending.write_bytes(waiting)
    take_members(consortium, packet)
    after, unreadable = consortium.node_keys()
    assert (after[node.encode()], unreadable) == ("east", {})
    assert len(after) == len(NAMES)


def test_a_rule_that_changes_is_shown_to_who_approves_it(consortium, owners, tmp_path):
    (tmp_path / "notes.csv").write_text("text,label\nfine,positive\nill,negative\n")
    card = consortium.path / "consortium.json"
    home = Home.create(tmp_path / "st-mary", card, tmp_path / "notes.csv")
    consortium.admit(home.request)
    take_members(consortium, approved(sign_members(consortium), owners["east"], owners["west"]))
    home.membership.learn(consortium.roster())
    limits = consortium.path / "limits.json"
    limits.write_text(limits.read_text().replace('"owners": 2', '"owners": 0'))
    changed = Consortium.open(consortium.path)
    held = owners["east"]
    node = public_pem(ec.generate_private_key(ec.SECP384R1()).public_key())
    asked = Request.make(changed.card, "east", Identity(os.urandom(64)), node, held)
    changed.admit(asked)
    packet = sign_members(changed)
    lines = change_of(home, bytes.fromhex(packet.roster), packet.requests).lines
    assert lines == [f"Has new keys: east ({asked.fingerprint})", "Rule: owners = 0, was 2"]


def test_the_key_that_signed_what_waits_is_not_replaced(consortium, owners):
    consortium.remove("east")
    with pytest.raises(ConsortiumError, match="waits for its members' approval"):
        rotate(consortium, "consortium")
    rotate(consortium, "operator")
    approved_by = approved(sign_members(consortium), *owners.values())
    take_members(consortium, approved_by)
    rotate(consortium, "consortium")
    assert list(consortium.current_roster().by_name) == ["north", "west"]
