"""Journals that are not the newest, or are damaged: fail closed."""

from __future__ import annotations

import os
import shutil

import pytest

from umbel.errors import ProtocolError
from umbel.privacy.secagg.journal import _Witness
from umbel.privacy.secagg.participant import Participant
from umbel.privacy.secagg.state import IDLE

from .watched import PHASES, newest


def lose_journal(folder, older):
    newest(folder).unlink()


def lose_both_journals(folder, older):
    for path in folder.glob("journal-*"):
        path.unlink()


def lose_witness(folder, older):
    (folder / "witness").unlink()


def roll_back(folder, older):
    for path in folder.glob("journal-*"):
        path.unlink()
    for name, data in older.items():
        if name.startswith("journal-"):
            (folder / name).write_bytes(data)


def put_the_older_one_in_both_places(folder, older):
    path = newest(folder)
    (other,) = set(folder.glob("journal-*")) - {path}
    shutil.copy(other, path)


def truncate_journal(folder, older):
    path = newest(folder)
    os.truncate(path, path.stat().st_size // 2)


def empty_journal(folder, older):
    os.truncate(newest(folder), 0)


def truncate_witness(folder, older):
    os.truncate(folder / "witness", 40)


def flip_a_bit(folder, older):
    path = newest(folder)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def flip_a_bit_of_a_key(folder, older):
    data = bytearray((folder / "witness").read_bytes())
    key = _Witness.from_bytes(bytes(data)).keys[0]
    at = data.index(key)
    while at >= 0:  # it is there twice
        data[at] ^= 1
        at = data.find(key, at)
    (folder / "witness").write_bytes(data)


def copy_from_elsewhere(folder, older):
    shutil.copy(newest(folder.parent / "m0002"), newest(folder))


DAMAGES = [
    lose_journal,
    lose_both_journals,
    put_the_older_one_in_both_places,
    lose_witness,
    roll_back,
    truncate_journal,
    empty_journal,
    truncate_witness,
    flip_a_bit,
    flip_a_bit_of_a_key,
    copy_from_elsewhere,
]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("trip", ["upload", "confirm", "reveal"])
def test_a_journal_that_is_not_the_newest_fails_closed(damage, trip, slots, caplog):
    watched = slots(2)
    watched.members.sum(1)
    request = watched.up_to(trip)
    phase = watched.state().phase
    assert phase == PHASES[trip] - 1
    damage(watched.folder, watched.history[-1])
    assert watched.state().secrets == ()
    assert "discarded" in caplog.text
    with pytest.raises(ProtocolError) as refused:
        watched.ask(trip, request, watched.restarted())
    assert refused.value.rule == "phase"
    # The next slot works, and is remembered.
    watched.members.sum(3)
    assert watched.restarted().slot == 3


@pytest.mark.parametrize("damage", [lose_journal, lose_both_journals, roll_back, flip_a_bit])
@pytest.mark.parametrize("number", [1, 2])
def test_a_member_that_lost_its_state_enters_no_slot_that_it_had_entered(damage, number, slots):
    """The witness is there, and could tell."""
    watched = slots(2)
    watched.members.sum(1)
    watched.up_to("upload")
    damage(watched.folder, watched.history[-1])
    again = watched.members.open_slot(number).prekey_request.to_bytes()
    with pytest.raises(ProtocolError) as refused:
        watched.restarted().answer("prekey", again)
    assert refused.value.rule == "slot"


def test_a_witness_two_steps_behind_fails_closed(slots, caplog):
    """One step behind is what a kill leaves, and harmless: the journal is still the newest."""
    watched = slots()
    request = watched.up_to("reveal")
    state = watched.state()
    (watched.folder / "witness").write_bytes(watched.history[-1]["witness"])
    assert watched.state() == state
    assert not caplog.text
    (watched.folder / "witness").write_bytes(watched.history[-2]["witness"])
    assert (watched.state().phase, watched.state().secrets) == (IDLE, ())
    assert "discarded" in caplog.text
    with pytest.raises(ProtocolError):
        watched.ask("reveal", request)


def test_the_witness_may_lie_in_a_folder_of_its_own(slots, tmp_path):
    watched = slots()
    kept = tmp_path / "kept"
    participant = Participant(watched.restarted().member, tmp_path / "own", "run", kept)
    participant.answer("prekey", watched.request("prekey"))
    assert sorted(p.name for p in kept.iterdir()) == ["witness"]
    assert sorted(p.name for p in (tmp_path / "own").iterdir()) == [
        "journal-0",
        "journal-1",
        "lock",
    ]
    assert participant.slot == 1
    shutil.rmtree(kept)  # a reboot
    kept.mkdir()
    assert participant.slot == 1  # which is known to be used up
    with pytest.raises(ProtocolError) as refused:
        participant.answer("prekey", watched.members.open_slot(1).prekey_request.to_bytes())
    assert refused.value.rule == "slot"
