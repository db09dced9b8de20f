"""Slots that nobody opened, and members that mask in a later one what they kept."""

from __future__ import annotations

import hashlib

import numpy as np

from umbel.errors import ProtocolError

CONTEXT = b"c" * 32
WHAT, KEY = b"w" * 32, b"k" * 32
VICTIM = "m0001"


def begun(members, number: int = 1, cohort=None, missing=()):
    """A slot whose manifest stands."""
    server = members.open_slot(number, cohort)
    members.send_prekeys(server, missing)
    members.close_prekeys(server)
    return server


def content(server, name: str) -> np.ndarray:
    """What a member would send in the clear, the same in every slot of one length."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return np.random.default_rng(seed).integers(
        0, 2**16, server._manifest.layout.length, dtype="<u4"
    )


def hand_over(members, server, name: str) -> None:
    """One member masks what it keeps, the very same whatever the slot."""
    participant = members.participants[name]
    request = server.upload_request(name, repeat=True)
    participant.check_upload(request, CONTEXT)
    reply, masked = participant.upload(request, CONTEXT, content(server, name), WHAT)
    server.add_upload(name, reply, masked)


def first_slot(members, missing=(), **named):
    """Everybody trains, keeps the update, and masks it."""
    server = begun(members, **named)
    for name in server.members:
        members.participants[name].keep(WHAT, KEY)
    for name in server.members:
        if name not in missing:
            hand_over(members, server, name)
    server.close_uploads()
    return server


def opened(members, server, by=None) -> np.ndarray:
    members.confirm_all(server)
    revealers = server.revealers if by is None else by
    members.reveal_all(server, [name for name in server.revealers if name not in revealers])
    return unmasked(server)


def unmasked(server) -> np.ndarray:
    """The sum; these contents are no vectors with a check word."""
    try:
        server.open()
    except ProtocolError as error:
        if error.rule != "sum":
            raise
    return server._sum.copy()
