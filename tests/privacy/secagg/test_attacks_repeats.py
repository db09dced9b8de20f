"""The same content in another slot: at most one sum with it is ever opened.

A server that gets one update into two sums which it can both open reads the update of whoever is in
one of them alone.
"""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from umbel.errors import ProtocolError, TooFewMembers
from umbel.privacy.secagg import journal as journal_module
from umbel.privacy.secagg import parameters
from umbel.privacy.secagg.messages import Prekey, PrekeyReply, Signed, UploadRequest
from umbel.privacy.secagg.parameters import fewest, thresholds
from umbel.privacy.secagg.repeats import statements_needed
from umbel.privacy.secagg.roster import Entry, Limits, Roster
from umbel.privacy.secagg.state import MOST_REPEATS

from .repeated import KEY, VICTIM, WHAT, begun, content, first_slot, hand_over, opened, unmasked


@pytest.fixture
def small_circles(monkeypatch):
    """Cohorts of 13 and more order a circle, as those of 101 do."""
    monkeypatch.setattr(parameters, "COMPLETE", 12)
    thresholds.cache_clear()
    yield
    thresholds.cache_clear()


@pytest.mark.parametrize("n", [*range(3, 41), 60, 97, 100])
@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.25, 0.45])
@pytest.mark.parametrize("confirm", [True, False])
def test_no_number_of_revealers_both_opens_a_slot_and_leaves_enough_statements(n, gamma, confirm):
    numbers = thresholds(n, gamma, confirm)
    if fewest(numbers, Limits(confirm=confirm)) > n:
        return
    needed, colluders = statements_needed(numbers), numbers.colluders
    assert 1 <= needed <= n
    both = [
        honest
        for honest in range(n - colluders + 1)  # honest members that revealed
        if honest + colluders >= numbers.quorum and n - honest >= needed  # all colluders lie
    ]
    assert both == []
    # One statement less, and one more honest member may have revealed: then both are possible.
    honest = n - (needed - 1)
    assert honest + colluders >= numbers.quorum


def test_an_update_is_repeated_in_a_new_slot_after_one_that_nobody_opened(cohort):
    members = cohort(size=5)
    first_slot(members)
    again = begun(members, 2, missing=["m0004"])
    for name in again.members:
        hand_over(members, again, name)
    again.close_uploads()
    expected = sum(content(again, name) for name in again.members)
    assert np.array_equal(opened(members, again), expected.astype("<u4"))


def test_a_server_that_asks_again_without_one_member_gets_no_second_sum(cohort, refused):
    members = cohort(size=5)
    opened(members, first_slot(members))
    others = [name for name in members.names if name != VICTIM]
    again = begun(members, 2, others)
    for name in others:
        with refused(members, name, "repeat"):
            hand_over(members, again, name)


def test_without_statements_two_sums_give_the_difference_away(cohort, weakened):
    members = cohort(size=5, member=weakened.HandsOver)
    whole = opened(members, first_slot(members))
    others = [name for name in members.names if name != VICTIM]
    again = begun(members, 2, others)
    for name in others:
        hand_over(members, again, name)
    again.close_uploads()
    assert np.array_equal(whole - opened(members, again), content(again, VICTIM))


def test_nor_does_one_that_called_a_member_dropped_and_then_sums_it_with_the_rest(cohort, refused):
    members = cohort(size=5)
    opened(members, first_slot(members, missing=[VICTIM]))
    again = begun(members, 2)
    for name in members.names:
        if name != VICTIM:
            with refused(members, name, "repeat"):
                hand_over(members, again, name)
    hand_over(members, again, VICTIM)  # was in no sum


def lying(members, liar: str, server) -> None:
    """A colluder's prekey that says it revealed nothing."""
    participant = members.participants[liar]
    with participant._journal.turn() as turn:
        turn.store(replace(turn.state, unrevealed=1, unconfirmed=1))
    reply = members.ask(liar, "prekey", server.prekey_request.to_bytes())
    server.add_prekey(liar, PrekeyReply.from_bytes(reply, liar))


def after_lies(members, revealers, cohort, liar: str = "m0000"):
    """Slot 1 with the shares of `revealers` and of the liar; then slot 2, where all are asked."""
    first = first_slot(members)
    members.confirm_all(first)
    members.reveal_all(first, [n for n in first.revealers if n not in (*revealers, liar)])
    again = members.open_slot(2, cohort)
    lying(members, liar, again)
    members.send_prekeys(again, missing=[liar])
    members.close_prekeys(again)
    return first, again


def test_lies_of_as_many_as_may_collude_open_nothing(cohort, refused):
    # n = 5, t = 4, one colluder: three statements are needed, and one may be a lie.
    members = cohort(size=5)
    first, again = after_lies(members, ["m0002", "m0003"], members.names)
    for name in members.names:
        hand_over(members, again, name)
    with pytest.raises(TooFewMembers):
        first.open()
    members = cohort(size=5)
    first, again = after_lies(members, ["m0002", "m0003", "m0004"], members.names)
    unmasked(first)  # four shares open it, so two statements may not be enough
    with refused(members, VICTIM, "repeat"):
        hand_over(members, again, VICTIM)


def test_a_rule_that_trusts_every_statement_opens_two_sums(cohort, weakened):
    members = cohort(size=5, member=weakened.BelievesStatements)
    others = [name for name in members.names if name != "m0004"]
    first, again = after_lies(members, ["m0002", "m0003", "m0004"], others)
    whole = unmasked(first)
    for name in others:
        hand_over(members, again, name)
    again.close_uploads()
    assert np.array_equal(whole - opened(members, again), content(again, "m0004"))


@pytest.mark.parametrize("lost", ["old-journal", "journal", "witness", "both"])
def test_a_member_whose_journal_is_not_the_newest_states_nothing(lost, cohort, refused):
    members = cohort(size=5)
    first = first_slot(members)
    members.confirm_all(first)
    restless = ["m0002", "m0003", "m0004"]
    backup = {
        path: path.read_bytes()
        for name in restless
        for path in (members.folder / name).glob("journal-*")
    }
    members.reveal_all(first)
    for name in restless:
        folder = members.folder / name
        for pattern in {"both": ["journal-*", "witness"], "journal": ["journal-*"]}.get(
            lost, [lost]
        ):
            for path in folder.glob(pattern):
                path.unlink()
    if lost == "old-journal":
        for path, data in backup.items():
            path.write_bytes(data)
    for name in restless:
        members.participants[name] = members.participant(name)
    again = begun(members, 2)
    for name in restless:
        stated = again._prekeys[name][1]
        assert stated.unrevealed == stated.unconfirmed == 2
    with refused(members, VICTIM, "repeat"):
        hand_over(members, again, VICTIM)
    for name in restless:
        with refused(members, name, "repeat"):  # with the journal the kept update's key is gone
            hand_over(members, again, name)


def test_journal_and_witness_put_back_together_state_what_is_not_so(cohort):
    """The limit that the documents name: a snapshot of the whole machine is not noticed."""
    members = cohort(size=5)
    first = first_slot(members)
    members.confirm_all(first)
    folder = members.folder / "m0004"
    backup = {p: p.read_bytes() for p in (*folder.glob("journal-*"), folder / "witness")}
    members.reveal_all(first)
    for path, data in backup.items():
        path.write_bytes(data)
    assert begun(members, 2)._prekeys["m0004"][1].unrevealed == 1  # and its share is out


@pytest.mark.parametrize("of", ["slot", "run"])
def test_statements_of_another_slot_or_run_do_not_count(of, cohort, small_circles):
    members = cohort(size=16, limits=Limits(colluders=0.0))
    first_slot(members)
    again = begun(members, 2)
    request = UploadRequest.from_bytes(again.upload_request(VICTIM, repeat=True))
    assert request.others
    name = Prekey.from_bytes(request.others[0].body).sender
    other = begun(
        members,
        3,
        [n for n in members.names if n != members.names[-1 if name != members.names[-1] else 0]],
    )
    if of == "run":
        body = Prekey.from_bytes(request.others[0].body)
        slot = replace(again.slot, run="another").digest()
        stale = Signed.by(members.identities[name], replace(body, slot=slot))
    else:
        stale = other._prekeys[name][0]
    state = members.participants[VICTIM]._journal
    with state.turn() as turn:
        # As it was in slot 2: nobody has left it for the third.
        turn.state = replace(turn.state, slot=(again.slot,), unrevealed=1, unconfirmed=1)
        forged = replace(request, others=(stale, *request.others[1:]))
        with pytest.raises(ProtocolError) as caught:
            members.participants[VICTIM].member.check_repeat(turn.state, forged.to_bytes(), WHAT)
        assert (caught.value.rule, caught.value.peer) == ("repeat", name)
        members.participants[VICTIM].member.check_repeat(turn.state, request.to_bytes(), WHAT)
        few = {"prekeys": request.prekeys[:1] * 10, "others": request.others[:1] * 5}
        repeated = replace(request, **few)
        with pytest.raises(ProtocolError, match="state that they confirmed nothing"):
            members.participants[VICTIM].member.check_repeat(turn.state, repeated.to_bytes(), WHAT)


def test_on_a_circle_confirmations_count_and_not_shares(cohort, refused, small_circles):
    members = cohort(size=16, limits=Limits(colluders=0.0))
    first = first_slot(members)
    numbers = first._numbers
    assert numbers.circle
    enough = numbers.quorum - numbers.colluders  # with all colluders' they would be a quorum
    request = first.confirm_request()
    for name in members.names[:enough]:
        members.ask(name, "confirm", request)
    again = begun(members, 2)
    with refused(members, VICTIM, "repeat"):
        hand_over(members, again, VICTIM)
    members = cohort(size=16, limits=Limits(colluders=0.0))
    first = first_slot(members)
    request = first.confirm_request()
    for name in members.names[: enough - 1]:
        members.ask(name, "confirm", request)
    hand_over(members, begun(members, 2), VICTIM)


def test_a_circle_without_confirmations_repeats_nothing(cohort, refused, small_circles):
    members = cohort(size=16, limits=Limits(confirm=False, colluders=0.0))
    assert first_slot(members)._numbers.circle
    again = begun(members, 2)
    with refused(members, VICTIM, "repeat"):
        hand_over(members, again, VICTIM)


def test_an_update_meets_nobody_new(cohort, refused):
    """Groups that are dealt anew, and cohorts that are drawn anew, hold somebody from elsewhere."""
    members = cohort(size=9)
    first_slot(members, cohort=members.names[:5])
    again = begun(members, 2, [*members.names[:4], "m0007"])
    with refused(members, VICTIM, "repeat"):
        hand_over(members, again, VICTIM)


def test_an_update_is_masked_under_one_roster(cohort, refused):
    members = cohort(size=5)
    first_slot(members)
    entries = tuple(Entry(n, members.identities[n].public) for n in members.names)
    members.roster = Roster(2, entries, members.limits, members.roster.hash)
    members.participants = {name: members.participant(name) for name in members.names}
    again = begun(members, 2)
    with refused(members, VICTIM, "repeat"):
        hand_over(members, again, VICTIM)


def test_what_is_kept_for_one_question_is_no_answer_to_another(cohort, refused):
    members = cohort(size=5)
    first_slot(members)
    again = begun(members, 2)
    participant = members.participants[VICTIM]
    with refused(members, VICTIM, "repeat"):
        participant.check_repeat(again.upload_request(VICTIM), b"o" * 32)
    assert participant.kept(b"o" * 32) is None
    assert participant.kept(WHAT) == KEY
    assert participant.close(WHAT) is False
    assert participant.close() is True
    with refused(members, VICTIM, "repeat"):
        hand_over(members, again, VICTIM)


def test_a_chain_of_slots_that_failed_needs_statements_of_each(cohort, refused):
    members = cohort(size=5)
    for number in range(1, MOST_REPEATS + 1):
        server = begun(members, number) if number > 1 else first_slot(members)
        if number > 1:
            for name in members.names:
                hand_over(members, server, name)
    last = begun(members, MOST_REPEATS + 1)
    with refused(members, VICTIM, "repeat"):
        hand_over(members, last, VICTIM)
    members = cohort(size=5)
    opened(members, first_slot(members))
    begun(members, 2)  # in which nobody uploads or reveals
    third = begun(members, 3)
    with refused(members, VICTIM, "repeat"):
        hand_over(members, third, VICTIM)


def test_statements_only_ever_name_slots_that_a_member_was_silent_in(cohort):
    """Whatever the trips: a slot that it revealed in is below its statement, for good."""
    members = cohort(size=5)
    chance = np.random.default_rng(5)
    revealed, stated = 0, []
    for number in range(1, 13):
        server = begun(members, number)
        stated.append(server._prekeys[VICTIM][1].unrevealed)
        assert revealed < stated[-1] <= number
        if chance.random() < 0.6:
            members.upload_all(server)
            members.confirm_all(server)
            if chance.random() < 0.6:
                members.reveal_all(server)
                revealed = number
        if chance.random() < 0.2:
            members.participants[VICTIM] = members.participant(VICTIM)
    assert all(before <= after for before, after in pairwise(stated))
    assert revealed > 0


@pytest.mark.parametrize("after", [False, True])
def test_a_member_killed_while_it_masks_remembers_where_it_did(after, cohort, forked):
    members = cohort(size=5)
    server = begun(members)
    members.participants[VICTIM].keep(WHAT, KEY)

    def die() -> None:
        overwrite = journal_module._overwrite

        def overwrite_and_die(path, *arguments, **named) -> None:
            if path.name.startswith("journal"):
                if after:
                    overwrite(path, *arguments, **named)
                os.kill(os.getpid(), signal.SIGKILL)
            overwrite(path, *arguments, **named)

        journal_module._overwrite = overwrite_and_die
        hand_over(members, server, VICTIM)

    assert forked(die) == -signal.SIGKILL
    stored = members.participant(VICTIM)
    assert stored.kept(WHAT) == KEY
    with stored._journal.turn() as turn:
        assert turn.state.kept[0].slots == ((server.slot,) if after else ())
