"""A server that says different things about who survived, or says it twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from umbel.privacy.secagg.messages import (
    OF_KEY,
    OF_SEED,
    Confirmation,
    ConfirmRequest,
    Reveal,
    RevealReply,
    RevealRequest,
    Signed,
    Survivors,
    Upload,
)
from umbel.privacy.secagg.roster import Limits

VICTIM = "m0001"
SERVER = "the server"


def uploaded(cohort, weakened, size: int = 5, missing=(), **named):
    members = cohort(size=size, aggregator=weakened.Attacker, **named)
    server = members.open_slot()
    members.send_prekeys(server)
    members.close_prekeys(server)
    members.upload_all(server, missing)
    return members, server


def confirmed(cohort, weakened, **named):
    members, server = uploaded(cohort, weakened, **named)
    members.confirm_all(server)
    return members, server


def of_set(members, server, names) -> tuple[Signed, ...]:
    """Genuine confirmations of any set, as members under the attacker's hand would sign them."""
    digest = Survivors(server._hash, tuple(names)).digest()
    return tuple(
        Signed.by(members.identities[name], Confirmation(name, server._hash, digest))
        for name in names
    )


def test_two_sets_of_survivors_open_neither(cohort, weakened, refused):
    members, server = uploaded(cohort, weakened, limits=Limits(colluders=0.0))
    told = split(members.names)
    given = {}
    for name, names in told.items():
        reply = members.ask(name, "confirm", server.confirm_request_for(names))
        given[name] = Signed.from_bytes(reply)
    for name, names in told.items():
        with refused(members, name, "threshold"):
            request = server.reveal_request_for(name, names, [given[name]])
            members.ask(name, "reveal", request.to_bytes())
        liar = next(n for n in names if told[n] != names)
        with refused(members, name, "confirm", liar):
            request = server.reveal_request_for(name, names, [given[n] for n in names])
            members.ask(name, "reveal", request.to_bytes())
    assert not server._shares


def test_without_confirmations_two_sets_of_survivors_open_a_sum_of_two(cohort, weakened):
    members, server = uploaded(
        cohort, weakened, limits=Limits(colluders=0.0), member=weakened.NoConfirmation
    )
    for name, names in split(members.names).items():
        members.ask(name, "confirm", server.confirm_request_for(names))
        request = server.reveal_request_for(name, names)
        server.take(name, members.ask(name, "reveal", request.to_bytes()))
    # Of the last three, three members each told of a set without them; of the first two, none was.
    seeds = {name: server.secret(name, OF_SEED, 3) for name in members.names[:2]}
    keys = {name: server.secret(name, OF_KEY, 3) for name in members.names[2:]}
    member = {name: members.participants[name].member for name in members.names}
    known = {member[name]: key for name, key in keys.items()}
    first, second = (
        weakened.unmask(member[name], server, seed, others=known) for name, seed in seeds.items()
    )
    assert not np.array_equal(first, members.plain["m0000"])  # their common mask is left
    assert np.array_equal(first + second, members.plain["m0000"] + members.plain["m0001"])


def split(names: list[str]) -> dict[str, list[str]]:
    """Sets of three survivors of five, for each member one that it is in itself."""
    a, b, c, d, e = names
    return {a: [a, b, d], b: [a, b, c], c: [a, b, c], d: [a, b, d], e: [a, b, e]}


def second_set(members, server):
    """All survive; then, to the same members, all but the victim."""
    for names in (members.names, [name for name in members.names if name != VICTIM]):
        given = [
            Signed.from_bytes(members.ask(name, "confirm", server.confirm_request_for(names)))
            for name in names
        ]
        for name in names:
            request = server.reveal_request_for(name, names, given)
            server.take(name, members.ask(name, "reveal", request.to_bytes()))


def test_no_member_confirms_a_second_set(cohort, weakened, refused):
    members, server = confirmed(cohort, weakened)
    others = [name for name in members.names if name != VICTIM]
    with refused(members, "m0000", "phase"):
        members.ask("m0000", "confirm", server.confirm_request_for(others))


def test_no_member_reveals_for_a_second_set(cohort, weakened, refused):
    members, server = confirmed(cohort, weakened)
    others = [name for name in members.names if name != VICTIM]
    evidence = of_set(members, server, others)
    request = server.reveal_request_for("m0000", others, evidence).to_bytes()
    with refused(members, "m0000", "survivors"):
        members.ask("m0000", "reveal", request)
    first = server.reveal_request("m0000")
    reply = members.ask("m0000", "reveal", first)
    with refused(members, "m0000", "phase"):
        members.ask("m0000", "reveal", request)
    assert members.ask("m0000", "reveal", first) == reply
    assert members.participant("m0000").answer("reveal", first) == reply  # also once restarted


def test_members_that_reveal_twice_give_an_update_away(cohort, weakened):
    members, server = uploaded(cohort, weakened, member=weakened.SecondThoughts)
    second_set(members, server)
    victim = members.participants[VICTIM].member
    read = weakened.both_secrets(server, victim, server._numbers.shares)
    assert np.array_equal(read, members.plain[VICTIM])


def test_a_member_in_both_lists_gives_an_update_away(cohort, weakened):
    members, server = confirmed(cohort, weakened)
    for name in members.names:
        # The same member, from the same journal, but one that takes two lists.
        weak = weakened.TwoLists(name, members.identities[name], members.roster)
        members.participants[name].member = weak
        asked = RevealRequest.from_bytes(server.reveal_request(name))
        both = weakened.TwoListsRequest(tuple(members.names), (VICTIM,), asked)
        reply = members.ask(name, "reveal", both.to_bytes())
        server.keep(name, weakened.TwoListsReply.from_bytes(reply).shares)
    victim = members.participants[VICTIM].member
    read = weakened.both_secrets(server, victim, server._numbers.shares)
    assert np.array_equal(read, members.plain[VICTIM])


@pytest.mark.parametrize("gone", [(), ("m0003",)])
def test_exactly_one_share_of_each_member_is_revealed(gone, cohort, weakened):
    members, server = confirmed(cohort, weakened, missing=gone)
    for name in server.survivors:
        reply = RevealReply.from_bytes(members.ask(name, "reveal", server.reveal_request(name)))
        shares = Reveal.from_bytes(reply.reveal.body).shares
        kinds = {share.owner: share.kind for share in shares}
        assert len(shares) == len(kinds)
        assert kinds == {n: OF_KEY if n in gone else OF_SEED for n in members.names}


def test_no_list_says_of_a_member_that_it_survived_and_did_not(cohort, weakened, refused):
    members, server = confirmed(cohort, weakened)
    asked = RevealRequest.from_bytes(server.reveal_request("m0000"))
    twice = bytes_with_a_name_twice(asked)
    with refused(members, "m0000", "encoding"):
        members.ask("m0000", "reveal", twice)
    fewer = replace(asked, senders=asked.senders[1:], sealed=asked.sealed[1:])
    more = replace(
        asked, senders=(*asked.senders, "m9999"), sealed=(*asked.sealed, asked.sealed[0])
    )
    own = replace(asked, senders=("m0000", *asked.senders), sealed=(asked.sealed[0], *asked.sealed))
    for request in (fewer, more, own):
        with refused(members, "m0000", "share"):
            members.ask("m0000", "reveal", request.to_bytes())


def bytes_with_a_name_twice(asked: RevealRequest) -> bytes:
    """The request with a survivor named twice: no object of ours holds it, so edited as bytes."""
    doubled = asked.to_bytes().replace(b"m0002", b"m0001", 1)
    assert doubled != asked.to_bytes()
    return doubled


# Who has not uploaded is in no set. A set with a name twice has no encoding, and a member that is
# left out keeps its share of its own seed to itself: no variant without these checks reads more.
def test_a_set_of_survivors_is_of_those_who_uploaded(cohort, weakened, refused):
    members, server = uploaded(cohort, weakened, size=6, missing=["m0005"])
    uploads = server._uploads
    vector = Upload.from_bytes(uploads["m0002"].body).vector

    def ask(*signed: Signed) -> None:
        members.ask("m0000", "confirm", ConfirmRequest(server._hash, signed).to_bytes())

    good = [uploads[name] for name in server.survivors]
    with refused(members, "m0000", "survivors"):
        ask(*good[1:])
    with refused(members, "m0000", "upload", "m0001"):
        ask(good[0], good[1], good[1], *good[2:])
    with refused(members, "m0000", "upload", "m0001"):
        ask(good[0], good[2], good[1], *good[3:])
    forged = replace(good[1], body=Upload("m0005", server._hash, vector).to_bytes())
    with refused(members, "m0000", "signature", "m0005"):
        ask(*good, forged)
    stranger = Signed.by(members.consortium, Upload("m9999", server._hash, vector))
    with refused(members, "m0000", "roster", "m9999"):
        ask(*good, stranger)
    other = Signed.by(members.identities["m0005"], Upload("m0005", b"m" * 32, vector))
    with refused(members, "m0000", "upload", "m0005"):
        ask(*good, other)
    own = Signed.by(members.identities["m0000"], Upload("m0000", server._hash, vector))
    with refused(members, "m0000", "upload"):
        ask(own, *good[1:])


def test_an_upload_without_a_prekey_counts_for_nothing(cohort, weakened, refused):
    members = cohort(size=6, aggregator=weakened.Attacker)
    server = members.open_slot()
    members.send_prekeys(server, ["m0005"])
    members.close_prekeys(server)
    members.upload_all(server)
    late = Upload("m0005", server._hash, b"v" * 32)
    server._uploads["m0005"] = Signed.by(members.identities["m0005"], late)
    with refused(members, "m0000", "upload", "m0005"):
        members.ask("m0000", "confirm", server.confirm_request())


TAMPERED = ["too-few", "none", "repeated", "forged", "foreign", "of-another-set", "older"]


def tampered(members, server, how: str) -> tuple[tuple[Signed, ...], str, str]:
    """Confirmations that are none, with the rule that they break and who is to blame."""
    names = server.survivors
    good = of_set(members, server, names)
    forged = replace(good[1], signature=good[2].signature)
    foreign = Confirmation("m0005", server._hash, server._survivors.digest())
    older = Confirmation(VICTIM, b"m" * 32, server._survivors.digest())
    return {
        "too-few": (good[: server._numbers.quorum - 1], "threshold", SERVER),
        "none": ((), "threshold", SERVER),
        "repeated": ((*good[:3], good[0]), "confirm", "m0000"),
        "forged": ((good[0], forged, *good[2:]), "signature", VICTIM),
        "foreign": (
            (*good[:3], Signed.by(members.identities["m0005"], foreign)),
            "confirm",
            "m0005",
        ),
        "of-another-set": ((good[0], *of_set(members, server, names[1:])), "confirm", VICTIM),
        "older": (
            (good[0], Signed.by(members.identities[VICTIM], older), *good[2:]),
            "confirm",
            VICTIM,
        ),
    }[how]


@pytest.mark.parametrize("how", TAMPERED)
def test_nothing_is_revealed_without_a_quorum_of_confirmations(how, cohort, weakened, refused):
    members, server = confirmed(cohort, weakened, size=6, missing=["m0005"])
    evidence, rule, peer = tampered(members, server, how)
    request = server.reveal_request_for("m0000", server.survivors, evidence).to_bytes()
    with refused(members, "m0000", rule, peer):
        members.ask("m0000", "reveal", request)
    server.take("m0000", members.ask("m0000", "reveal", server.reveal_request("m0000")))


@pytest.mark.parametrize("how", TAMPERED)
def test_who_counts_no_confirmations_reveals_without_a_quorum(how, cohort, weakened):
    members, server = confirmed(
        cohort, weakened, size=6, missing=["m0005"], member=weakened.NoConfirmation
    )
    evidence, _, _ = tampered(members, server, how)
    request = server.reveal_request_for("m0000", server.survivors, evidence).to_bytes()
    server.take("m0000", members.ask("m0000", "reveal", request))
    assert server._shares


def test_nothing_is_revealed_before_survivors_were_confirmed(cohort, weakened, refused):
    members, server = uploaded(cohort, weakened)
    evidence = of_set(members, server, members.names)
    request = server.reveal_request_for("m0000", members.names, evidence).to_bytes()
    with refused(members, "m0000", "phase"):
        members.ask("m0000", "reveal", request)


def test_without_the_confirmation_trip_the_signed_uploads_are_the_survivors(
    cohort, weakened, refused
):
    members, server = uploaded(cohort, weakened, limits=Limits(confirm=False))
    request = server.reveal_request("m0000")
    asked = RevealRequest.from_bytes(request)
    fewer = Survivors(server._hash, asked.survivors.names[:-1])
    with refused(members, "m0000", "survivors"):
        members.ask("m0000", "reveal", replace(asked, survivors=fewer).to_bytes())
    few = server.reveal_request_for("m0000", members.names[:3], asked.evidence[:3])
    with refused(members, "m0000", "threshold"):
        members.ask("m0000", "reveal", few.to_bytes())
    unsigned = (*asked.evidence[:-1], replace(asked.evidence[-1], signature=bytes(64)))
    with refused(members, "m0000", "signature", "m0004"):
        members.ask("m0000", "reveal", replace(asked, evidence=unsigned).to_bytes())
    members.ask("m0000", "reveal", request)
    other = server.reveal_request_for("m0000", members.names[:4], asked.evidence[:4])
    with refused(members, "m0000", "phase"):
        members.ask("m0000", "reveal", other.to_bytes())
