"""A member that is killed, restored or asked again: one vector and one answer for each slot."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from umbel.errors import ProtocolError
from umbel.privacy.secagg import journal as journal_module
from umbel.privacy.secagg import keys as keys_module
from umbel.privacy.secagg import member as member_module
from umbel.privacy.secagg.masks import Words
from umbel.privacy.secagg.messages import PrekeyReply

CONTEXT = b"c" * 32
VICTIM = "m0001"


def manifested(cohort, size: int = 4, **named):
    members = cohort(size=size, **named)
    server = members.open_slot()
    members.send_prekeys(server)
    members.close_prekeys(server)
    return members, server


def mask(members, server, words: Words) -> Words:
    """The victim's masked vector, by a process that has just started."""
    request = server.upload_request(VICTIM)
    return members.participant(VICTIM).upload(request, CONTEXT, words)[1]


def two_vectors(members, server) -> tuple[Words, Words]:
    """The same data, trained on twice."""
    return members.vector(server, 1), members.vector(server, 2)


def complete(members, server) -> None:
    """The rest of the slot, with everybody whose vector is not in yet."""
    for name in server.members:
        if name not in server._uploads:
            members.upload(server, name)
    server.close_uploads()
    members.confirm_all(server)
    members.reveal_all(server)
    server.open()
    assert np.array_equal(server._sum, members.expected(server))


def test_a_second_vector_is_never_masked_under_the_same_keys(cohort, refused):
    members, server = manifested(cohort)
    first, second = two_vectors(members, server)
    members.upload(server, VICTIM, first)
    again = second.copy()
    with refused(members, VICTIM, "phase"):
        mask(members, server, again)
    assert np.array_equal(again, second)
    reply, vector = members.participant(VICTIM).check_upload(server.upload_request(VICTIM), CONTEXT)
    assert reply == server._uploads[VICTIM].to_bytes()
    assert np.array_equal(vector, first)
    complete(members, server)


def test_two_vectors_under_the_same_keys_give_their_difference_away(cohort, weakened):
    members, server = manifested(cohort, member=weakened.MasksAgain)
    first, second = two_vectors(members, server)
    masked = [mask(members, server, words.copy()) for words in (first, second)]
    assert np.array_equal(masked[1] - masked[0], second - first)


def test_two_processes_of_one_member_upload_one_vector(cohort):
    members, server = manifested(cohort)
    request = server.upload_request(VICTIM)

    def upload(words: Words) -> bool:
        try:
            members.participant(VICTIM).upload(request, CONTEXT, words)
        except ProtocolError as error:
            return error.rule != "phase"
        return True

    with ThreadPoolExecutor(4) as pool:
        vectors = [members.vector(server, seed) for seed in range(4)]
        assert sorted(pool.map(upload, vectors)) == [False, False, False, True]


def restored(members, change: Callable[[], object]) -> None:
    """The victim's journals as they are now, back in place after `change`."""
    backup = {path: path.read_bytes() for path in journals(members, VICTIM)}
    change()
    for path in journals(members, VICTIM):
        path.unlink()
    for path, data in backup.items():
        path.write_bytes(data)


def journals(members, name: str) -> list[Path]:
    return list((members.folder / name).glob("journal-*"))


@pytest.mark.parametrize("lost", ["journal", "witness", "both", "old-journal", "foreign-journal"])
def test_a_lost_or_restored_journal_is_no_reason_to_mask_again(lost, cohort, refused):
    members, server = manifested(cohort)
    first, second = two_vectors(members, server)
    folder = members.folder / VICTIM

    def upload() -> None:
        members.upload(server, VICTIM, first.copy())

    if lost == "old-journal":
        restored(members, upload)
    else:
        upload()
    if lost == "foreign-journal":
        for path in journals(members, "m0000"):
            shutil.copy(path, folder)
    for name in {"both": ["journal-*", "witness"], "journal": ["journal-*"]}.get(lost, [lost]):
        for path in folder.glob(name):
            path.unlink()
    with refused(members, VICTIM, "phase"):
        mask(members, server, second)
    with refused(members, VICTIM, "phase"):
        members.ask(VICTIM, "confirm", server.confirm_request())
    members.sum(2)  # in the next slot it takes part again


def test_a_journal_that_may_be_rolled_back_masks_again(cohort, weakened):
    members, server = manifested(cohort)
    victim = members.participants[VICTIM]
    victim._journal = weakened.RolledBack(members.folder / VICTIM, members.run)
    first, second = two_vectors(members, server)
    request = server.upload_request(VICTIM)
    masked = []
    restored(
        members, lambda: masked.append(victim.upload(request, CONTEXT, first.copy())[1].copy())
    )
    masked.append(victim.upload(request, CONTEXT, second.copy())[1])
    assert np.array_equal(masked[1] - masked[0], second - first)


def killing(file: str, after: bool) -> None:
    """Have this process killed when it writes a file of its journal: before, or right after."""
    overwrite = journal_module._overwrite

    def overwrite_and_die(path: Path, *arguments, **named) -> None:
        if not path.name.startswith(file):
            return overwrite(path, *arguments, **named)
        if after:
            overwrite(path, *arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("still alive")

    journal_module._overwrite = overwrite_and_die


MOMENTS = [
    ("journal", False, False),
    ("journal", True, True),
    ("witness", False, True),
    ("witness", True, True),
]


@pytest.mark.parametrize(("file", "after", "sent"), MOMENTS)
def test_a_member_killed_at_any_moment_of_its_upload_sends_one_vector(
    file, after, sent, cohort, forked, refused
):
    members, server = manifested(cohort)
    first, second = two_vectors(members, server)
    request = server.upload_request(VICTIM)

    def die() -> None:
        killing(file, after)
        members.participants[VICTIM].upload(request, CONTEXT, first.copy())

    assert forked(die) == -signal.SIGKILL
    members.participants[VICTIM] = members.participant(VICTIM)
    if not sent:  # nothing had left: the slot goes on with what is trained now
        members.upload(server, VICTIM, second)
        complete(members, server)
        return
    with refused(members, VICTIM, "phase"):
        mask(members, server, second)
    answers = [members.participant(VICTIM).check_upload(request, CONTEXT) for _ in range(2)]
    (reply, vector), (again, same) = answers
    assert reply == again
    assert np.array_equal(vector, same)
    server.add_upload(VICTIM, reply, vector)
    members.plain[VICTIM] = first
    complete(members, server)


def test_a_member_that_replies_before_its_journal_masks_again_once_killed(
    cohort, weakened, forked, tmp_path
):
    members, server = manifested(cohort)
    first, second = two_vectors(members, server)
    request, wire = server.upload_request(VICTIM), tmp_path / "wire"

    def reply_and_die() -> None:
        member = members.participants[VICTIM].member
        hasty = weakened.RepliesFirst(member, members.folder / VICTIM, members.run)
        wire.write_bytes(hasty.upload(request, CONTEXT, first.copy())[1].tobytes())
        os.kill(os.getpid(), signal.SIGKILL)

    assert forked(reply_and_die) == -signal.SIGKILL
    sent = np.frombuffer(wire.read_bytes(), dtype="<u4")
    assert np.array_equal(mask(members, server, second.copy()) - sent, second - first)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("trip", ["prekey", "confirm", "reveal"])
def test_a_member_killed_between_journal_and_reply_gives_that_very_reply(
    trip, after, cohort, forked
):
    members = cohort(size=4)
    server = members.open_slot()
    request = server.prekey_request.to_bytes()
    if trip != "prekey":
        members.send_prekeys(server)
        members.close_prekeys(server)
        members.upload_all(server)
        request = server.confirm_request()
    if trip == "reveal":
        members.confirm_all(server)
        request = server.reveal_request(VICTIM)

    def die() -> None:
        killing("journal", after)
        members.ask(VICTIM, trip, request)

    assert forked(die) == -signal.SIGKILL
    stored = members.participant(VICTIM)
    with stored._journal.turn() as turn:
        journaled = turn.state.reply_to(request)
    assert (journaled is not None) == after
    reply = stored.answer(trip, request)
    assert journaled in (None, reply)
    assert members.participant(VICTIM).answer(trip, request) == reply


def test_a_journal_that_was_once_ahead_of_its_witness_cannot_be_rolled_back(cohort, forked):
    members, server = manifested(cohort)
    first, second = two_vectors(members, server)
    request = server.upload_request(VICTIM)
    left = []

    def die() -> None:
        killing("journal", after=True)
        members.participants[VICTIM].upload(request, CONTEXT, first.copy())

    def killed_and_asked_again() -> None:
        assert forked(die) == -signal.SIGKILL
        left.append(members.participant(VICTIM).check_upload(request, CONTEXT)[1].copy())

    restored(members, killed_and_asked_again)
    try:
        again = mask(members, server, second.copy())
    except ProtocolError:
        return
    assert not np.array_equal(again - left[0], second - first)


class Uses:
    """Counts every key under which something is sealed or masked."""

    def __init__(self, monkeypatch) -> None:
        self.sealed: Counter[tuple[bytes, bytes]] = Counter()
        self.masked: Counter[tuple[bytes, int]] = Counter()
        uses, real, add_masks = self, keys_module.AESGCM, member_module.add_masks

        class Counted:
            def __init__(self, key: bytes) -> None:
                self.key, self.cipher = key, real(key)
                self.decrypt = self.cipher.decrypt

            def encrypt(self, nonce: bytes, plain: bytes, header: bytes) -> bytes:
                uses.sealed[self.key, nonce] += 1
                return self.cipher.encrypt(nonce, plain, header)

        def counted(words: Words, masks, threads: int = 1) -> None:
            uses.masked.update(masks)
            add_masks(words, masks, threads)

        monkeypatch.setattr(keys_module, "AESGCM", Counted)
        monkeypatch.setattr(member_module, "add_masks", counted)
        monkeypatch.setattr(os, "fdatasync", lambda _: None)  # nothing is killed here


def long_run(members, slots: int) -> None:
    server = members.open_slot(1)
    members.send_prekeys(server)
    for number in range(2, slots + 2):
        members.close_prekeys(server)
        members.upload_all(server, members.names[number % 5 : number % 5 + 1])
        members.confirm_all(server)
        following = members.open_slot(number)
        prekeys = members.reveal_all(server, following=following.prekey_request)
        server.open()
        server = following
        for name, prekey in prekeys.items():
            server.add_prekey(name, prekey)
        missing = [name for name in members.names if name not in prekeys]
        for name in missing:
            reply = members.ask(name, "prekey", server.prekey_request.to_bytes())
            server.add_prekey(name, PrekeyReply.from_bytes(reply))


def test_no_key_is_used_twice_over_a_long_run(cohort, monkeypatch):
    uses = Uses(monkeypatch)
    long_run(cohort(size=5), slots=25)
    assert len(uses.sealed) > 25 * 5 * 4
    assert set(uses.sealed.values()) == {1}
    # A pair's mask is added by one of the two and subtracted by the other: each sign once.
    assert len(uses.masked) == 25 * 4 * 5
    assert set(uses.masked.values()) == {1}


def test_one_sealing_key_for_all_slots_is_noticed(cohort, weakened, monkeypatch):
    uses = Uses(monkeypatch)
    long_run(cohort(size=5, member=weakened.OneSealingKey), slots=3)
    assert max(uses.sealed.values()) == 4


def test_masks_that_are_used_again_are_noticed(cohort, weakened, monkeypatch):
    uses = Uses(monkeypatch)
    members, server = manifested(cohort, member=weakened.MasksAgain)
    for words in two_vectors(members, server):
        mask(members, server, words)
    assert set(uses.masked.values()) == {2}
