"""A second sum of a round: over exactly the members of the first, of one question.

A server that gets answers of another set, or to another question, could subtract one owner's part.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from umbel.errors import ProtocolError
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
        participant.check_second(request, WHAT, question)
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
    monkeypatch.setattr("umbel.privacy.secagg.member.check_second", lambda *_: None)
    whole, fewer = begun(members, 2, survivors), None
    answers(members, whole)
    everybody = opened(members, whole)
    fewer = begun(members, 3, [name for name in survivors if name != VICTIM])
    answers(members, fewer)
    difference = everybody - opened(members, fewer)
    assert np.array_equal(difference, content(whole, VICTIM, QUESTION))
