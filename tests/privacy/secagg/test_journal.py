"""The journal: what survives a crash, what fails closed, and what nobody can read afterwards."""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from umbel.errors import ProtocolError
from umbel.privacy.secagg import journal as journal_module
from umbel.privacy.secagg.journal import Journal, _file_key, _header, _Sealed, _Witness
from umbel.privacy.secagg.keys import unseal

from .watched import CONTEXT, PHASES, TRIPS, before_each_write, files, kill_this_process, newest

# A restart.


@pytest.mark.parametrize("trip", TRIPS)
def test_the_state_survives_a_restart(trip, slots):
    watched = slots()
    request = watched.up_to(trip)
    watched.ask(trip, request)
    state = watched.state()
    assert state.phase == PHASES[trip]
    assert watched.restarted().slot == 1
    with Journal(watched.folder, "run").turn() as turn:
        assert turn.state == state


@pytest.mark.parametrize("trip", TRIPS)
def test_after_a_restart_the_same_request_gets_the_identical_bytes(trip, slots):
    watched = slots()
    request = watched.up_to(trip)
    before = watched.ask(trip, request)
    stored = files(watched.folder)
    for _ in range(2):
        assert watched.ask(trip, request, watched.restarted()) == before
    assert files(watched.folder) == stored
    if trip == "upload":
        assert len(before[1]) == 4 * watched.server._manifest.layout.length
        with pytest.raises(ProtocolError) as refused:
            watched.restarted().upload(request, CONTEXT, watched.words.copy())
        assert refused.value.rule == "phase"


def test_every_trip_can_be_replayed_at_the_end_of_the_slot(slots):
    watched = slots()
    given = []
    for trip in TRIPS:
        request = watched.request(trip)
        given.append((trip, request, watched.ask(trip, request)))
    for trip, request, reply in given:
        assert watched.ask(trip, request, watched.restarted()) == reply


def test_a_slot_goes_on_when_every_process_restarts_after_every_trip(slots):
    watched = slots()
    members, server = watched.members, watched.server

    def restart():
        members.participants = {name: members.participant(name) for name in members.names}

    members.send_prekeys(server)
    restart()
    members.close_prekeys(server)
    members.upload_all(server)
    restart()
    members.confirm_all(server)
    restart()
    members.reveal_all(server)
    server.open()
    assert np.array_equal(server._sum, members.expected(server))


def test_a_vector_that_is_gone_is_refused_rather_than_made_again(slots):
    watched = slots()
    request = watched.up_to("upload")
    watched.ask("upload", request)
    (watched.folder / "vector").write_bytes(bytes(40))
    with pytest.raises(ProtocolError) as refused:
        watched.restarted().check_upload(request, CONTEXT)
    assert refused.value.rule == "vector"


# A kill while it writes.


# What a transition writes. Keys are changed with the slot, and once its secrets are gone.
WRITES = {
    "prekey": ["witness", "journal", "witness"],
    "upload": ["vector", "journal", "witness"],
    "confirm": ["journal", "witness"],
    "reveal": ["witness", "journal", "witness"],
}


@pytest.mark.parametrize("trip", TRIPS)
@pytest.mark.parametrize("moment", range(4))
def test_a_member_that_is_killed_at_any_write_goes_on_or_answers_the_same(
    trip, moment, slots, forked, monkeypatch
):
    """Killed before the `moment`-th file of a transition is written.

    Either nothing was changed, or the very reply that the dead process would have given is known.
    """
    watched = slots()
    request = watched.up_to(trip)
    before = watched.state()
    done = []

    def die(path):
        if len(done) == moment:
            kill_this_process()
        assert path.name.startswith(WRITES[trip][len(done)])
        done.append(path)

    before_each_write(monkeypatch, die)
    code = forked(lambda: watched.ask(trip, request))
    monkeypatch.undo()
    assert code == (-signal.SIGKILL if moment < len(WRITES[trip]) else 0)
    goes_on(watched, trip, request, before, journalled=moment > WRITES[trip].index("journal"))


def goes_on(watched, trip, request, before, journalled):
    after = watched.state()
    if journalled:
        assert after.phase == PHASES[trip]
        assert watched.ask(trip, request, watched.restarted())[0] == after.reply_to(request)
    else:
        assert after == before
        assert watched.ask(trip, request, watched.restarted())[0]
        assert watched.state().phase == PHASES[trip]


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("part", [0, 1, 7, 60, "half", -1])
@pytest.mark.parametrize("trip", TRIPS)
def test_a_member_that_is_killed_in_the_middle_of_a_journal_goes_on(
    trip, part, number, slots, forked, monkeypatch
):
    """Some bytes of the new journal lie before the rest of an old one, or are all that there is."""
    watched = slots(number)
    if number > 1:
        watched.members.sum(1)
    request = watched.up_to(trip)
    before = watched.state()
    write, names = os.write, {}
    opening = os.open

    def opened(path, *arguments, **named):
        file = opening(path, *arguments, **named)
        names[file] = Path(path).name
        return file

    def half(file, data):
        if names.get(file, "").startswith("journal-"):
            write(file, data[: len(data) // 2 if part == "half" else part])
            kill_this_process()
        return write(file, data)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "write", half)
    assert forked(lambda: watched.ask(trip, request)) == -signal.SIGKILL
    monkeypatch.undo()
    goes_on(watched, trip, request, before, journalled=False)


@pytest.mark.parametrize("trip", ["confirm", "reveal"])
def test_a_member_that_is_killed_twice_between_journal_and_witness_goes_on(
    trip, slots, forked, monkeypatch
):
    """Once in the trip before, once in this one."""
    watched = slots()
    kill_between(watched, "upload" if trip == "confirm" else "confirm", forked, monkeypatch)
    request = watched.request(trip)
    assert watched.state().phase == PHASES[trip] - 1
    kill(watched, trip, request, forked, monkeypatch)
    assert watched.state().phase == PHASES[trip]


def kill_between(watched, trip, forked, monkeypatch):
    """Do every trip up to this one, in which the member dies between journal and witness."""
    request = watched.up_to(trip)
    kill(watched, trip, request, forked, monkeypatch)
    assert watched.state().phase == PHASES[trip]


def kill(watched, trip, request, forked, monkeypatch):
    done = []

    def die(path):
        if path.name == "witness" and any(name.startswith("journal-") for name in done):
            kill_this_process()
        done.append(path.name)

    before_each_write(monkeypatch, die)
    assert forked(lambda: watched.ask(trip, request)) == -signal.SIGKILL
    monkeypatch.undo()


def test_a_journal_rolled_back_after_a_kill_and_an_answer_is_noticed(slots, forked, monkeypatch):
    """The vector was sent, so no other one may be masked under the same keys."""
    watched = slots()
    request = watched.up_to("upload")
    earlier = newest(watched.folder).read_bytes()
    kill(watched, "upload", request, forked, monkeypatch)
    answer = watched.ask("upload", request, watched.restarted())
    assert len(answer[1]) == 4 * len(watched.words)  # it left
    newest(watched.folder).write_bytes(earlier)
    watched.words += np.uint32(1)
    with pytest.raises(ProtocolError):
        watched.restarted().upload(request, CONTEXT, watched.words.copy())


def test_a_vector_that_a_killed_process_left_half_written_is_ignored(slots):
    watched = slots()
    request = watched.up_to("upload")
    state = watched.state()
    (watched.folder / "vector").write_bytes(b"half of")
    assert watched.state() == state
    assert watched.ask("upload", request)[0]


# Who can read it.


def test_every_file_is_for_its_owner_only(slots):
    watched = slots()
    before = os.umask(0)
    try:
        watched.ask("reveal", watched.up_to("reveal"))
    finally:
        os.umask(before)
    modes = {p.name: p.stat().st_mode & 0o777 for p in watched.folder.iterdir()}
    assert modes.keys() == {"journal-0", "journal-1", "witness", "vector", "lock"}
    assert (watched.folder / "lock").read_bytes() == b""
    del modes["lock"]
    assert set(modes.values()) == {0o600}
    assert watched.folder.stat().st_mode & 0o777 == 0o700


def opened(journal: bytes, witness: bytes) -> list[bytes]:
    """What the witness's keys open a journal to, whatever its place in the history."""
    sealed = _Sealed.from_bytes(journal)
    keys = _Witness.from_bytes(witness).keys
    plain = [unseal(_file_key(k, sealed.salt), sealed.state, _header(sealed)) for k in keys]
    return [each for each in plain if each is not None]


def test_the_secrets_of_a_slot_are_in_no_file_once_it_is_over(slots, monkeypatch):
    """Neither in the files as they are, nor, after the next slot began, in any that ever was."""
    watched = slots()
    ever: list[bytes] = []
    overwrite = journal_module._overwrite

    def keep(path, data, **named):
        if path.parent == watched.folder and path.name.startswith("journal-"):
            ever.append(bytes(data))
        overwrite(path, data, **named)

    monkeypatch.setattr(journal_module, "_overwrite", keep)
    request = watched.up_to("reveal")
    (own,) = watched.state().secrets
    secrets = [own.key, own.seed, own.key_share, own.seed_share]

    def readable() -> list[bytes]:
        witness = (watched.folder / "witness").read_bytes()
        return [plain for journal in ever for plain in opened(journal, witness)[:1]]

    def held(data: bytes) -> bool:
        return any(secret in data for secret in secrets)

    assert any(held(plain) for plain in readable())  # the slot is in progress
    assert not any(held(data) for data in files(watched.folder).values())  # but sealed
    watched.ask("reveal", request)
    current = files(watched.folder)
    found = opened(newest(watched.folder).read_bytes(), current["witness"])
    assert len(set(found)) == 1
    plain = found[0]
    secrets.remove(own.seed_share)  # the one that it had to reveal
    assert not held(plain)
    secrets.append(own.seed_share)
    watched.restarted().answer("prekey", watched.members.open_slot(2).prekey_request.to_bytes())
    assert len(ever) == 5
    assert not any(held(plain) for plain in readable())
    assert len(readable()) == 1  # the one journal of the new slot
    assert not any(held(data) for data in files(watched.folder).values())


def test_a_dropout_forgets_its_secrets_when_it_enters_the_next_slot(slots):
    watched = slots()
    watched.up_to("confirm")
    (own,) = watched.state().secrets
    older = newest(watched.folder).read_bytes()
    watched.restarted().answer("prekey", watched.members.open_slot(2).prekey_request.to_bytes())
    assert own not in watched.state().secrets
    assert opened(older, (watched.folder / "witness").read_bytes()) == []


# Two processes at once.


def test_two_processes_take_turns(slots):
    watched = slots()
    request = watched.up_to("prekey")
    here, there = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        with Journal(watched.folder, "run").turn():
            os.write(there[1], b"x")
            os.read(here[0], 1)
        os._exit(0)
    os.read(there[0], 1)  # the other process has its turn now
    with open(watched.folder / "lock") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.write(here[1], b"x")
    assert watched.ask("prekey", request)[0]  # waits until the other is done
    assert os.waitpid(child, 0)[1] == 0
    for end in (*here, *there):
        os.close(end)


def test_of_many_processes_with_different_vectors_one_masks_its_own(slots, tmp_path):
    """The others send the same bytes, or nothing."""
    watched = slots()
    request = watched.up_to("upload")
    start = os.pipe()
    children = []
    for number in range(6):
        child = os.fork()
        if child == 0:
            os.close(start[1])
            os.read(start[0], 1)  # until the parent closes its end
            watched.words += np.uint32(number)
            try:
                reply, masked = watched.ask("upload", request, watched.restarted())
                (tmp_path / f"sent-{number}").write_bytes(reply + masked)
            except ProtocolError as error:
                (tmp_path / f"refused-{number}").write_text(error.rule)
            finally:
                os._exit(0)
        children.append(child)
    os.close(start[0])
    os.close(start[1])
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)
    sent = [path.read_bytes() for path in tmp_path.glob("sent-*")]
    refusals = [path.read_text() for path in tmp_path.glob("refused-*")]
    assert len(sent) + len(refusals) == 6
    assert len(set(sent)) == 1
    assert set(refusals) <= {"phase"}
