"""A second sum of a round: over exactly the members of the first, of one question.

A server that gets answers of another set, or to another question, could subtract one owner's part.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from umbel.errors import ProtocolError
from umbel.privacy.secagg.member import Member
from umbel.privacy.secagg.messages import UploadRequest
from umbel.privacy.secagg.roster import Limits

CONTEXT = b"c" * 32
WHAT, KEY = b"w" * 32, b"k" * 32
QUESTION, ANOTHER = b"q" * 32, b"r" * 32
VICTIM = "m0001"


def begun(members, number, cohort=None, missing=()):
    """A slot whose manifest stands."""
    server = members.open_slot(number, cohort)
    members.send_prekeys(server, missing)
    members.close_prekeys(server)
    return server


def content(server, name, about):
    seed = int.from_bytes(hashlib.sha256(name.encode() + about).digest()[:4], "big")
    length = server._manifest.layout.length
    return np.random.default_rng(seed).integers(0, 2**16, length, dtype="<u4")


def hand_over(members, server, name, question=b""):
    participant, request = members.participants[name], server.upload_request(name, repeat=True)
    participant.check_upload(request, CONTEXT)
    if question:
        participant.bind_second(request, WHAT, question)
    words = content(server, name, question)
    reply, masked = participant.upload(request, CONTEXT, words, WHAT, (), question)
    server.add_upload(name, reply, masked)


def first_sum(members, missing=(), number=1, cohort=None):
    """Everybody trains and keeps the update; the sum of those that are not missing is opened."""
    server = begun(members, number, cohort)
    for name in server.members:
        members.participants[name].keep(WHAT, KEY)
        if name not in missing:
            hand_over(members, server, name)
    server.close_uploads()
    opened(members, server)
    return server.survivors


def opened(members, server):
    members.confirm_all(server)
    members.reveal_all(server)
    try:
        server.open()
    except ProtocolError as error:  # these contents have no check word
        if error.rule != "sum":
            raise
    return server._sum.copy()


def answers(members, server, names=None, question=QUESTION):
    for name in server.members if names is None else names:
        hand_over(members, server, name, question)
    server.close_uploads()


@pytest.mark.parametrize("missing", [(), ("m0004",)])
def test_the_members_of_the_first_sum_answer_the_second(cohort, missing):
    members = cohort(size=5)
    survivors = first_sum(members, missing)
    assert len(survivors) == 5 - len(missing)
    second = begun(members, 2, survivors)
    answers(members, second)
    total = sum(content(second, name, QUESTION) for name in survivors)
    assert np.array_equal(opened(members, second), total)


def test_nobody_answers_in_another_cohort_than_the_first_sum(cohort, refused):
    members = cohort(size=6)
    survivors = first_sum(members, ["m0005"])
    for number, names in enumerate((survivors[:-1], members.names), start=2):
        second = begun(members, number, names)
        for name in survivors[:-1]:
            with refused(members, name, "second"):
                hand_over(members, second, name, QUESTION)


def test_nobody_answers_if_one_of_the_first_sum_sent_no_prekey(cohort, refused):
    members = cohort(size=5)
    survivors = first_sum(members)
    second = begun(members, 2, survivors, missing=["m0004"])
    with refused(members, VICTIM, "second"):
        hand_over(members, second, VICTIM, QUESTION)


def test_a_second_sum_of_fewer_is_confirmed_by_nobody(cohort, refused):
    members = cohort(size=5)
    survivors = first_sum(members)
    second = begun(members, 2, survivors)
    answers(members, second, survivors[:-1])
    request = second.confirm_request()
    for name in survivors[:-1]:
        with refused(members, name, "survivors"):
            members.ask(name, "confirm", request)


def test_one_question_is_answered_however_often_and_no_other(cohort, refused):
    members = cohort(size=5)
    survivors = first_sum(members)
    answers(members, begun(members, 2, survivors))
    members.participants[VICTIM] = members.participant(VICTIM)  # its process died in between
    again = begun(members, 3, survivors)
    with refused(members, VICTIM, "second"):
        hand_over(members, again, VICTIM, ANOTHER)
    answers(members, again)
    total = sum(content(again, name, QUESTION) for name in survivors)
    assert np.array_equal(opened(members, again), total)


def test_what_was_in_a_second_sum_enters_no_first_one_again(cohort, refused):
    """Its first sum was confirmed and never opened, so that everybody may state to have kept silent."""
    members = cohort(size=5)
    server = begun(members, 1)
    for name in server.members:
        members.participants[name].keep(WHAT, KEY)
        hand_over(members, server, name)
    server.close_uploads()
    members.confirm_all(server)
    answers(members, begun(members, 2, server.survivors))
    fewer = begun(members, 3, missing=["m0004"])
    with refused(members, VICTIM, "repeat"):
        hand_over(members, fewer, VICTIM)


def test_before_its_survivors_are_confirmed_a_first_sum_has_no_second(cohort, refused):
    members = cohort(size=5)
    server = begun(members, 1)
    for name in server.members:
        members.participants[name].keep(WHAT, KEY)
        hand_over(members, server, name)
    server.close_uploads()
    second = begun(members, 2, server.survivors)
    with refused(members, VICTIM, "second"):
        hand_over(members, second, VICTIM, QUESTION)


def test_without_the_confirmation_trip_there_is_no_second_sum(cohort, refused):
    members = cohort(size=5, limits=Limits(clip=8.0, confirm=False))
    server = begun(members, 1)
    for name in server.members:
        members.participants[name].keep(WHAT, KEY)
        hand_over(members, server, name)
    server.close_uploads()
    members.reveal_all(server)
    second = begun(members, 2, server.survivors)
    with refused(members, VICTIM, "second"):
        hand_over(members, second, VICTIM, QUESTION)


def test_a_member_without_the_check_gives_itself_away(cohort, monkeypatch):
    """What the others answer in a sum without it, and the sums of both trips, show its own part."""
    members = cohort(size=5)
    survivors = first_sum(members)
    monkeypatch.setattr("umbel.privacy.secagg.second.check_second", lambda *_: None)
    whole, fewer = begun(members, 2, survivors), None
    answers(members, whole)
    everybody = opened(members, whole)
    fewer = begun(members, 3, [name for name in survivors if name != VICTIM])
    answers(members, fewer)
    difference = everybody - opened(members, fewer)
    assert np.array_equal(difference, content(whole, VICTIM, QUESTION))


def test_a_second_sum_of_fewer_is_confirmed_by_nobody_who_has_trained_something_else_since(
    cohort, refused
):
    """An asynchronous owner trains a version, and keeps its update, while a sum is under way."""
    members = cohort(size=5)
    survivors = first_sum(members)
    second = begun(members, 2, survivors)
    answers(members, second, survivors[:-1])
    for name in survivors:
        members.participants[name].keep(b"x" * 32, KEY)
    request = second.confirm_request()
    for name in survivors[:-1]:
        with refused(members, name, "survivors"):
            members.ask(name, "confirm", request)


def test_a_member_that_looks_at_what_it_keeps_now_confirms_a_part_of_a_second_sum(
    cohort, monkeypatch
):
    """So what the slot holds is noted as it is masked: the test above would tell."""
    check = Member._check_survivors

    def weakened(self, state, names):
        kept = state.kept[0] if state.kept else None
        second = kept.second if kept else ()
        check(self, replace(state, whole=any(one.slot in state.slot for one in second)), names)

    monkeypatch.setattr(Member, "_check_survivors", weakened)
    members = cohort(size=5)
    survivors = first_sum(members)
    second = begun(members, 2, survivors)
    answers(members, second, survivors[:-1])
    for name in survivors:
        members.participants[name].keep(b"x" * 32, KEY)
    request = second.confirm_request()
    assert all(members.ask(name, "confirm", request) for name in survivors[:-1])


def test_the_first_question_binds_whether_it_is_answered_or_not(cohort, refused):
    """A member whose answer would not fit refuses it, which tells one thing of its update, once."""
    members = cohort(size=5)
    survivors = first_sum(members)
    second = begun(members, 2, survivors)
    participant, request = members.participants[VICTIM], second.upload_request(VICTIM, repeat=True)
    participant.check_upload(request, CONTEXT)
    participant.bind_second(request, WHAT, QUESTION)  # and then it refuses
    members.participants[VICTIM] = members.participant(VICTIM)
    again = begun(members, 3, survivors)
    with refused(members, VICTIM, "second"):
        hand_over(members, again, VICTIM, ANOTHER)
    answers(members, again)


def test_weights_count_in_the_second_sum_as_in_the_first(cohort, refused):
    """Divided by another largest weight, each member's factor would be rounded in a way of its own."""
    members = cohort(size=5)
    survivors = first_sum(members)
    second = begun(members, 2, survivors)
    state = members.participants[VICTIM]
    request = UploadRequest.from_bytes(second.upload_request(VICTIM, repeat=True))
    manifest = replace(request.manifest, weight_cap=request.manifest.weight_cap + 1)
    with refused(members, VICTIM, "second"):
        state.bind_second(replace(request, manifest=manifest).to_bytes(), WHAT, QUESTION)
