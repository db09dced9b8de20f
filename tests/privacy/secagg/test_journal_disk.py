"""A disk that is full or a file that cannot be opened: nothing changes, and no reply leaves."""

from __future__ import annotations

import errno
import os
import resource
import signal
from pathlib import Path

import pytest

from umbel.errors import ProtocolError

from .watched import PHASES, TRIPS


@pytest.mark.parametrize("trip", TRIPS)
@pytest.mark.parametrize("call", range(2))
def test_a_full_disk_changes_nothing_and_no_reply_leaves(trip, call, slots, monkeypatch):
    """Whichever of the writes fails. Once there is room again, the slot goes on."""
    watched = slots()
    request = watched.up_to(trip)
    before = watched.state()
    calls = []

    def full(file):
        calls.append(file)
        if len(calls) == call + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(os, "fdatasync", full)
    # First the folder's, once a process, then the journal's.
    writes = 2 if trip == "prekey" else 1
    if call >= writes:
        assert watched.ask(trip, request)[0]
        return
    with pytest.raises(ProtocolError) as refused:
        watched.ask(trip, request)
    assert refused.value.rule == "journal"
    assert "No space left" in str(refused.value)
    monkeypatch.undo()
    after = watched.state()
    # The journal may be in place already; its reply did not leave.
    assert after == before or after.phase == PHASES[trip]
    reply = watched.ask(trip, request, watched.restarted())[0]
    assert watched.state().phase == PHASES[trip]
    assert reply == watched.state().reply_to(request)


@pytest.mark.parametrize("trip", TRIPS)
@pytest.mark.parametrize("name", ["journal", "witness", "vector"])
def test_a_file_that_cannot_be_opened_stops_the_reply(trip, name, slots, monkeypatch):
    watched = slots()
    request = watched.up_to(trip)
    before = watched.state()
    opening = os.open

    def full(path, *arguments, **named):
        if Path(path).name.startswith(name) and arguments[0] != os.O_RDONLY:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opening(path, *arguments, **named)

    monkeypatch.setattr(os, "open", full)
    if name == "vector" and trip != "upload":
        assert watched.ask(trip, request)[0]
        return
    with pytest.raises(ProtocolError) as refused:
        watched.ask(trip, request)
    assert refused.value.rule == "journal"
    monkeypatch.undo()
    after = watched.state()
    # A witness that is one behind is what a kill leaves too: the reply is known, but did not leave.
    assert after == before or (name == "witness" and after.phase == PHASES[trip])
    assert watched.ask(trip, request, watched.restarted())[0]
    assert watched.state().phase == PHASES[trip]


@pytest.mark.parametrize("trip", TRIPS)
def test_a_disk_without_room_for_the_journal_stops_the_reply(trip, slots, forked):
    """The system itself refuses to write more than a few bytes of a file."""
    watched = slots()
    request = watched.up_to(trip)
    before = watched.state()

    def ask():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (30, 30))
        try:
            watched.ask(trip, request)
        except ProtocolError as error:
            os._exit(7 if error.rule == "journal" else 8)

    assert forked(ask) == 7
    assert watched.state() == before
    assert watched.ask(trip, request)[0]
