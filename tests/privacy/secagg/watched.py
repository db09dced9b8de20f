"""A cohort, one member of which is watched, and the files of its journal."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np

from umbel.privacy.secagg import journal as journal_module
from umbel.privacy.secagg.journal import Journal, _Sealed
from umbel.privacy.secagg.participant import Participant
from umbel.privacy.secagg.state import CONFIRMED, PREKEY, REVEALED, UPLOADED, State

TRIPS = ["prekey", "upload", "confirm", "reveal"]
PHASES = dict(zip(TRIPS, [PREKEY, UPLOADED, CONFIRMED, REVEALED], strict=True))
CONTEXT = b"c" * 32
WHO = "m0001"


class Slots:
    """A cohort, one member of which is watched: every request that it gets, ready to be asked."""

    def __init__(self, members, number=1):
        self.members, self.number = members, number
        self.server = members.open_slot(number)
        self.words = None
        self.history: list[dict[str, bytes]] = []
        """The watched member's files, before each request was made ready."""

    def request(self, trip: str) -> bytes:
        """What the watched member is asked in a trip; everybody has done all trips before it."""
        server, members = self.server, self.members
        self.history.append(files(self.folder))
        if trip == "prekey":
            return server.prekey_request.to_bytes()
        if trip == "upload":
            members.send_prekeys(server)
            members.close_prekeys(server)
            self.words = members.vector(server, 1)
            return server.upload_request(WHO)
        if trip == "confirm":
            for name in server.members:
                if name != WHO:
                    members.upload(server, name)
            members.plain[WHO] = self.words.copy()
            reply, masked = self.ask("upload", server.upload_request(WHO))
            server.add_upload(WHO, reply, np.frombuffer(masked, dtype="<u4"))
            server.close_uploads()
            return server.confirm_request()
        members.confirm_all(server)
        return server.reveal_request(WHO)

    def up_to(self, trip: str) -> bytes:
        """The request of this trip, after all trips before it."""
        for earlier in TRIPS[: TRIPS.index(trip)]:
            self.request(earlier)
        return self.request(trip)

    def ask(self, trip: str, request: bytes, participant=None) -> tuple[bytes, bytes]:
        """A trip of the watched member: reply and masked vector (empty but for an upload)."""
        participant = participant or self.members.participants[WHO]
        if trip != "upload":
            return participant.answer(trip, request), b""
        known = participant.check_upload(request, CONTEXT)
        if isinstance(known, tuple):
            return known[0], known[1].tobytes()
        reply, masked = participant.upload(request, CONTEXT, self.words.copy())
        return reply, masked.tobytes()

    @property
    def folder(self) -> Path:
        return self.members.folder / WHO

    def restarted(self) -> Participant:
        return self.members.participant(WHO)

    def state(self) -> State:
        with Journal(self.folder, self.members.run).turn() as turn:
            return turn.state


def files(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, but for the empty lock."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}


def kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def newest(folder: Path) -> Path:
    """The journal that was written last."""
    written = [path for path in folder.glob("journal-*") if path.stat().st_size]
    return max(written, key=lambda path: _Sealed.from_bytes(path.read_bytes()).sequence)


def before_each_write(monkeypatch, act) -> None:
    """Call `act` with the path of every file of the journal that is about to be written."""
    overwrite = journal_module._overwrite

    def overwritten(path, *arguments, **named):
        act(path)
        overwrite(path, *arguments, **named)

    monkeypatch.setattr(journal_module, "_overwrite", overwritten)
