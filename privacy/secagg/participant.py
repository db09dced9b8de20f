"""A member with its journal: answers requests, and never says anything that it could forget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ...errors import ProtocolError
from .checks import SERVER
from .journal import Journal
from .masks import Words
from .member import Member
from .messages import Manifest
from .state import Kept, State

Trip = Literal["commit", "nonce", "prekey", "confirm", "reveal"]
"""The short trips: those whose request alone decides the reply."""


class Participant:
    """Drives a ``Member`` from its journal.

    Each method loads the state, makes one transition, stores it and then returns the reply. An
    identical request is answered with the identical bytes; any other second request is refused.
    """

    def __init__(self, member: Member, folder: Path, run: str, witness: Path | None = None) -> None:
        self.member = member
        self._journal = Journal(folder, run, witness)

    @property
    def slot(self) -> int:
        """The highest slot that this member ever entered in this run."""
        with self._journal.turn() as turn:
            return turn.state.number

    def answer(self, trip: Trip, request: bytes) -> bytes:
        """The reply of a short trip."""
        transitions: dict[Trip, Callable[[State, bytes], tuple[State, bytes]]] = {
            "commit": self.member.commit,
            "nonce": self.member.nonce,
            "prekey": self.member.prekey,
            "confirm": self.member.confirm,
            "reveal": self.member.reveal,
        }
        with self._journal.turn() as turn:
            known = turn.state.reply_to(request)
            if known is not None:
                return known
            state, reply = transitions[trip](turn.state, request)
            turn.store(state)
            return reply

    def check_upload(self, request: bytes, context: bytes) -> Manifest | tuple[bytes, Words]:
        """What a request to upload is for; or, if it was answered before, that answer.

        Raises ``ProtocolError`` before any data is touched.
        """
        with self._journal.turn() as turn:
            known = turn.state.reply_to(request)
            if known is None:
                return self.member.check_upload(turn.state, request, context)
            vector = self._journal.vector(turn.state.vector or turn.state.revealed)
            if vector is None:
                raise ProtocolError(
                    "vector", SERVER, "this slot's vector was sent before and is no longer stored"
                )
            return known, vector

    def upload(
        self,
        request: bytes,
        context: bytes,
        words: Words,
        what: bytes = b"",
        groups: Sequence[Sequence[str]] = (),
        question: bytes = b"",
    ) -> tuple[bytes, Words]:
        """Mask `words` in place; the signed upload and the masked words, once both are on disk.

        `what` names the kept content that is among them, if any; refused if it must not be.
        `groups`: it is there to name one of these (``repeats.check_naming``). `question`: they are for a
        second sum (``second.bound``).
        """
        with self._journal.turn() as turn:
            state, reply = self.member.upload(
                turn.state, request, context, words, what, groups, question
            )
            turn.store(state, words)
            return reply, words

    def keep(self, what: bytes, key: bytes) -> None:
        """Remember the key of a new content, in place of the one before."""
        with self._journal.turn() as turn:
            turn.store(replace(turn.state, kept=(Kept(what, key),)))

    def kept(self, what: bytes) -> bytes | None:
        """The key of the content that is kept for `what`; the journal alone knows it."""
        with self._journal.turn() as turn:
            kept = turn.state.kept
            return kept[0].key if kept and kept[0].what == what else None

    def close(self, what: bytes = b"") -> bool:
        """Let go of what is kept for anything but `what`; whether there was such."""
        with self._journal.turn() as turn:
            kept = turn.state.kept
            if not kept or kept[0].what == what:
                return False
            turn.store(replace(turn.state, kept=()))
            return True

    def check_repeat(
        self, request: bytes, what: bytes, groups: Sequence[Sequence[str]] = ()
    ) -> None:
        """Refuse (``ProtocolError``, rule "repeat") a slot in which the kept content has no place."""
        with self._journal.turn() as turn:
            self.member.check_repeat(turn.state, request, what, groups)

    def bind_second(self, request: bytes, what: bytes, question: bytes) -> None:
        """Refuse (``ProtocolError``, rule "second") a slot in which no second sum may be; else hold on to its
        `question`, on disk: whatever comes of it, no other is answered of this content."""
        with self._journal.turn() as turn:
            turn.store(self.member.bind_second(turn.state, request, what, question))

    def sent(self) -> bytes:
        """The bytes of the vector that was masked last. Who lets go of the words first holds it once."""
        data = self._journal.vector_bytes()
        if data is None:
            raise ProtocolError("vector", "this client", "the masked vector is missing on disk")
        return data
