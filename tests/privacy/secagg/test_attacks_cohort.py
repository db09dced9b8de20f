"""A server that wants few members in a sum, down to one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from umbel.errors import ProtocolError, TooFewMembers
from umbel.privacy.secagg.messages import (
    OF_KEY,
    OF_SEED,
    Confirmation,
    Prekey,
    PrekeyReply,
    Signed,
    Survivors,
)
from umbel.privacy.secagg.roster import Limits

VICTIM = "m0001"


@pytest.mark.parametrize(("size", "minimum"), [(1, 3), (2, 3), (4, 5)])
def test_no_member_joins_a_cohort_below_the_floor(size, minimum, cohort, weakened, refused):
    members = cohort(size=5, limits=Limits(minimum=minimum), aggregator=weakened.Attacker)
    server = members.open_slot(1, members.names[:size])
    with refused(members, "m0000", "threshold"):
        members.ask("m0000", "prekey", server.prekey_request.to_bytes())
    with pytest.raises(TooFewMembers):
        cohort(size=5, limits=Limits(minimum=minimum)).open_slot(1, members.names[:size])


def test_a_cohort_of_any_size_may_be_one_member_alone(cohort, weakened):
    members = cohort(size=5, aggregator=weakened.Attacker, member=weakened.AnyCohort)
    server = members.open_slot(1, [VICTIM])
    opened = complete(members, server)
    assert np.array_equal(opened, members.plain[VICTIM])


@pytest.mark.parametrize(("size", "minimum"), [(2, 3), (4, 5)])
def test_a_cohort_of_any_size_is_opened_below_the_floor(size, minimum, cohort, weakened):
    members = cohort(
        size=5,
        limits=Limits(minimum=minimum),
        aggregator=weakened.Attacker,
        member=weakened.AnyCohort,
    )
    server = members.open_slot(1, members.names[:size])
    complete(members, server)
    assert len(members.plain) == size
    assert np.array_equal(server._sum, members.expected(server))


def complete(members, server):
    """The rest of a slot with whom there is; what the server opened."""
    members.send_prekeys(server)
    members.close_prekeys(server)
    members.upload_all(server)
    members.confirm_all(server)
    members.reveal_all(server)
    server.open()
    return server._sum


def test_a_cohort_without_the_member_that_is_asked_is_refused(cohort, weakened, refused):
    members = cohort(size=5, aggregator=weakened.Attacker)
    server = members.open_slot(1, ["m0000", "m0002", "m0003"])
    with refused(members, VICTIM, "cohort"):
        members.ask(VICTIM, "prekey", server.prekey_request.to_bytes())


def test_a_cohort_with_strangers_is_refused(cohort, weakened, refused):
    members = cohort(size=5, aggregator=weakened.Attacker)
    server = members.open_slot(1, [*members.names, "m9999"])
    with refused(members, VICTIM, "roster", "m9999"):
        members.ask(VICTIM, "prekey", server.prekey_request.to_bytes())


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_prekeys_of_too_few_members_are_no_set_to_upload_with(kept, cohort, weakened, refused):
    members = cohort(size=6, aggregator=weakened.Attacker)
    server = members.open_slot()
    members.send_prekeys(server, without(members, kept))
    members.close_prekeys(server)
    with refused(members, VICTIM, "threshold"):
        members.upload(server, VICTIM)


def test_with_any_cohort_and_any_threshold_a_member_is_left_alone_with_its_prekey(cohort, weakened):
    weak = weakened.AnyCohortAnyThreshold
    members = cohort(size=6, aggregator=weakened.Attacker, member=weak)
    server = members.open_slot()
    members.send_prekeys(server, without(members, 1))
    members.close_prekeys(server)
    members.upload_all(server)
    members.confirm_all(server)
    members.reveal_all(server)
    seed = server.secret(VICTIM, OF_SEED, 1)
    read = weakened.unmask(members.participants[VICTIM].member, server, seed)
    assert np.array_equal(read, members.plain[VICTIM])


def without(members, kept: int) -> list[str]:
    """All but the victim and `kept` - 1 others."""
    return [name for name in members.names if name != VICTIM][kept - 1 :]


def singled_out(members, server, weakened):
    """Tell two members of different sets of three, and read the victim from their answers alone."""
    sets = {VICTIM: [VICTIM, "m0002", "m0003"], "m0000": ["m0000", VICTIM, "m0004"]}
    for name, names in sets.items():
        names = sorted(names)
        confirmed = Signed.from_bytes(
            members.ask(name, "confirm", server.confirm_request_for(names))
        )
        request = server.reveal_request_for(name, names, [confirmed])
        server.take(name, members.ask(name, "reveal", request.to_bytes()))
    member = {name: members.participants[name].member for name in members.names}
    others = {member[n]: server.secret(n, OF_KEY, 1) for n in members.names if n != VICTIM}
    seed = server.secret(VICTIM, OF_SEED, 1)
    return weakened.unmask(member[VICTIM], server, seed, others=others)


def uploaded(cohort, weakened, size: int = 5, **named):
    members = cohort(size=size, aggregator=weakened.Attacker, **named)
    server = members.open_slot()
    members.send_prekeys(server)
    members.close_prekeys(server)
    members.upload_all(server)
    return members, server


def test_the_threshold_is_the_members_own(cohort, weakened, refused):
    members, server = uploaded(cohort, weakened)
    with refused(members, VICTIM, "threshold"):
        singled_out(members, server, weakened)


def test_a_threshold_given_by_the_server_reads_an_update(cohort, weakened):
    members, server = uploaded(cohort, weakened, member=weakened.GivenThreshold)
    read = singled_out(members, server, weakened)
    assert np.array_equal(read, members.plain[VICTIM])


@pytest.mark.parametrize("stage", ["prekey", "upload", "confirm", "reveal"])
@pytest.mark.parametrize("gone", [2, 3])
def test_beyond_the_tolerated_dropouts_the_slot_is_given_up_and_nothing_opened(stage, gone, cohort):
    members = cohort(size=6)
    server = members.open_slot()

    def at(this: str) -> list[str]:
        return members.names[:gone] if this == stage else []

    def play() -> None:
        members.send_prekeys(server, at("prekey"))
        members.close_prekeys(server)
        members.upload_all(server, at("upload"))
        members.confirm_all(server, at("confirm"))
        members.reveal_all(server, at("reveal"))
        server.open()

    if gone == 2:
        play()
        assert np.array_equal(server._sum, members.expected(server))
        return
    with pytest.raises(TooFewMembers) as caught:
        play()
    assert caught.value.rule == "threshold"
    if stage in ("confirm", "reveal"):
        assert not np.array_equal(server._sum, members.expected(server))
    if stage != "reveal":
        assert not server._shares
    members.sum(2)  # the next slot is none the worse


def test_a_server_that_goes_on_with_too_few_uploads_gets_no_shares(cohort, weakened, refused):
    members, server = too_few_uploads(cohort, weakened)
    for name in server.survivors:
        with refused(members, name, "threshold"):
            members.ask(name, "confirm", server.confirm_request())
        with refused(members, name, "phase"):
            members.ask(name, "reveal", forged_reveal(members, server, name))


def test_a_given_threshold_opens_too_few_uploads(cohort, weakened):
    members, server = too_few_uploads(cohort, weakened, member=weakened.GivenThreshold)
    server._numbers = replace(server._numbers, shares=1)
    members.confirm_all(server)
    members.reveal_all(server)
    assert server.open().members == 3
    assert np.array_equal(server._sum, members.expected(server))


def too_few_uploads(cohort, weakened, **named):
    members = cohort(size=6, aggregator=weakened.Attacker, **named)
    server = members.open_slot()
    members.send_prekeys(server)
    members.close_prekeys(server)
    members.upload_all(server, members.names[3:])
    return members, server


def forged_reveal(members, server, name: str) -> bytes:
    """Asks for shares with confirmations that all members of the set might have given."""
    survivors = Survivors(server._hash, tuple(server.survivors))
    evidence = [
        Signed.by(members.identities[n], Confirmation(n, server._hash, survivors.digest()))
        for n in server.survivors
    ]
    return server.reveal_request_for(name, server.survivors, evidence).to_bytes()


def test_all_colluders_of_the_roster_in_one_small_cohort_read_nothing(cohort, weakened):
    """The server picks cohorts, so it can put all its colluders into one."""
    members = cohort(size=20, limits=Limits(colluders=0.1), aggregator=weakened.Attacker)
    chosen = sorted([VICTIM, "m0000", "m0002"])  # one in ten of all, two in three of this cohort
    with pytest.raises(ProtocolError) as refused:
        complete(members, members.open_slot(1, chosen))
    assert refused.value.rule == "threshold"


def test_where_colluders_are_counted_of_the_cohort_alone_they_read_an_update(cohort, weakened):
    members = cohort(
        size=20,
        limits=Limits(colluders=0.1),
        aggregator=weakened.Attacker,
        member=weakened.CountsTheCohort,
    )
    colluders = ["m0000", "m0002"]
    opened = complete(members, members.open_slot(1, sorted([VICTIM, *colluders]))).copy()
    for name in colluders:
        opened -= members.plain[name]
    assert np.array_equal(opened, members.plain[VICTIM])


def test_a_prekey_from_outside_the_cohort_is_refused_by_the_server(cohort):
    members = cohort(size=5)
    server = members.open_slot(1, members.names[:4])
    request = server.prekey_request.to_bytes()
    reply = PrekeyReply.from_bytes(members.ask("m0000", "prekey", request))
    outsider = replace(Prekey.from_bytes(reply.prekey.body), sender="m0004")
    signed = Signed.by(members.identities["m0004"], outsider)
    with pytest.raises(ProtocolError):
        server.add_prekey("m0004", replace(reply, prekey=signed))
