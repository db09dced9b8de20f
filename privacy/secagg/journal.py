"""A member's memory of a run: on disk before a reply leaves, and useless to anyone who copies it.

A *journal* holds the sealed ``State``. There are two, written through to the disk in turn, so that
the one before is whole while the next is written. The *witness* holds the key that they are sealed
with and the digest of the newest one; it belongs where backups do not reach and a reboot forgets,
such as a tmpfs. So a journal that was lost, restored from a backup or copied from elsewhere does not
match its witness, and the member fails closed: it discards the slot's secrets and counts as dropped
out until the next slot. Every slot has a new sealing key, so the secrets of slots that are over
cannot be read from old disk blocks either.

Not detected: journal and witness put back together, as by the snapshot of a running virtual machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np

from ...errors import ProtocolError
from .encoding import Digest, Encoded, Size
from .keys import derive, seal, unseal
from .masks import Words, digest_of
from .state import State

_NEW = bytes(32)


@dataclass(frozen=True)
class _Sealed(Encoded):
    """A journal's file. `before` is the digest of the journal before this one."""

    sequence: int
    slot: int
    """The highest slot ever entered: readable even if the state is not."""
    before: Digest
    salt: Digest
    """Random; makes the sealing key one of this file only."""
    state: Annotated[bytes, Size(1, 2**27)]


@dataclass(frozen=True)
class _Witness(Encoded):
    """What the journal has to be, and the keys that it may be sealed with."""

    sequence: int
    slot: int
    journal: Digest
    keys: Annotated[tuple[Digest, ...], Size(2, 2)]
    """The same key twice, except while it is changed: a witness always has the same length."""


class Journal:
    """The stored state of one member in one run.

    Guarantee: when ``Turn.store`` has returned, the state survives the process and, but for the
    witness, the machine. Of two processes one waits for the other. Assumes a disk that honours fsync.
    """

    def __init__(self, folder: Path, run: str, witness: Path | None = None) -> None:
        """`folder` is this owner's and this run's alone; `witness` is a folder (default: the same)."""
        self._folder, self._run = folder, run
        self._journals = folder / "journal-0", folder / "journal-1"
        self._vector = folder / "vector"
        self._witness = (witness or folder) / "witness"
        self._placed = False
        self._stored: tuple[bytes | None, ...] = ()
        """The files on disk: both journals, and the witness."""
        self._known: tuple[tuple[bytes | None, ...], Turn] | None = None
        """The files as this process last wrote them, and their content."""
        for path in {folder, self._witness.parent}:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)

    @contextlib.contextmanager
    def turn(self) -> Iterator[Turn]:
        """Load the state and keep others out until it is stored or given up."""
        try:
            lock = os.open(self._folder / "lock", os.O_WRONLY | os.O_CREAT, 0o600)
        except OSError as error:
            raise _unusable(self._folder / "lock", error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            turn = self._load()
            if turn.ahead:
                self._adopt(turn)
            yield turn
        finally:
            os.close(lock)

    def _load(self) -> Turn:
        *journals, witness = self._stored = tuple(
            _read(path) for path in (*self._journals, self._witness)
        )
        if self._known is not None and self._known[0] == self._stored:
            return replace(self._known[1])
        stored = _newest_first(journals)
        if not stored and (witness is None or _first(witness)):
            return self._fresh(State(self._run), 0)
        try:
            if not stored or witness is None:
                missing = "journal's witness" if stored else "journal"
                raise ProtocolError("journal", "this client", f"the {missing} is missing")
            return self._matched(stored, witness)
        except ProtocolError as error:
            logging.getLogger(__name__).error(
                "%s; the keys of the slot in progress are discarded", error
            )
            slot, sequence = _highest(stored, witness)
            return self._fresh(State(self._run, floor=slot), sequence)

    def place(self) -> None:
        """Have both journals' names on the disk; done once by each process."""
        if self._placed:
            return
        try:
            for path in self._journals:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise _unusable(self._folder, error) from error
        self._placed = True

    def _adopt(self, turn: Turn) -> None:
        """Make a journal that a killed process, or a full disk, left ahead of its witness the newest.

        Written again, because nobody knows whether it had reached the disk.
        """
        place = turn.sequence % 2
        _overwrite(self._journals[place], self._stored[place] or b"", durable=True)
        turn._witness(turn.key, turn.key)

    def _matched(self, stored: Sequence[tuple[_Sealed, bytes]], known: bytes) -> Turn:
        witness = _Witness.from_bytes(known, "this client")
        for sealed, digest in stored:
            if sealed.sequence > witness.sequence + 1:
                break  # the witness is an old one, and cannot tell which journal is the newest
            current = (sealed.sequence, digest) == (witness.sequence, witness.journal)
            # Killed between the journal and its witness: the journal is exactly one ahead. If it was
            # killed while writing, it cannot be opened, and the one before it counts.
            ahead = (sealed.sequence, sealed.before) == (witness.sequence + 1, witness.journal)
            for key in witness.keys if current or ahead else ():
                plain = unseal(_file_key(key, sealed.salt), sealed.state, _header(sealed))
                if plain is not None:
                    state = State.from_bytes(plain, "this client")
                    return Turn(self, state, sealed.sequence, digest, key, ahead)
        raise ProtocolError("journal", "this client", "the journal is not the newest one")

    def _fresh(self, state: State, sequence: int) -> Turn:
        return Turn(self, state, sequence, _NEW, os.urandom(32))

    def vector_bytes(self) -> bytes | None:
        """What was stored last as a masked vector, unchecked."""
        return _read(self._vector)

    def vector(self, digest: bytes) -> Words | None:
        """The masked vector that was stored last, if it is the one of `digest`."""
        data = self.vector_bytes()
        if data is None or len(data) % 4:
            return None
        words = np.frombuffer(data, dtype="<u4")
        return words if digest_of(words) == digest else None


@dataclass
class Turn:
    """One transition in progress: the state as stored, and how to store the next."""

    journal: Journal
    state: State
    sequence: int
    digest: bytes
    key: bytes
    ahead: bool = False
    """Whether the witness is still that of the previous journal."""

    def store(self, state: State, vector: Words | None = None) -> None:
        """Write the new state (and the masked vector before it) through to the disk."""
        journal, key = self.journal, self.key
        journal.place()
        if state.number != self.state.number or not state.secrets or self.digest == _NEW:
            key = os.urandom(32)
            # Both keys, lest a crash between the two files lose the state.
            self._witness(self.key, key)
        if vector is not None:
            _overwrite(journal._vector, vector.data.cast("B"))
        sealed = _Sealed(self.sequence + 1, state.number, self.digest, os.urandom(32), b"\0")
        box = seal(_file_key(key, sealed.salt), state.to_bytes(), _header(sealed))
        data = replace(sealed, state=box).to_bytes()
        place = sealed.sequence % 2
        _overwrite(journal._journals[place], data, durable=True)
        self.state, self.sequence, self.key = state, sealed.sequence, key
        self.digest = hashlib.sha256(data).digest()
        witness, other = self._witness(key, key), journal._stored[1 - place]
        journals = (other, data) if place else (data, other)
        journal._known = ((*journals, witness), replace(self))

    def _witness(self, *keys: bytes) -> bytes:
        witness = _Witness(self.sequence, self.state.number, self.digest, keys).to_bytes()
        _overwrite(self.journal._witness, witness)
        return witness


def _first(known: bytes) -> bool:
    """Whether a witness was written before the first journal ever was."""
    try:
        return _Witness.from_bytes(known, "this client").sequence == 0
    except ProtocolError:
        return False


def _newest_first(files: Sequence[bytes | None]) -> list[tuple[_Sealed, bytes]]:
    """What can be read of the journals, each with its digest; one half written may not be."""
    found = []
    for data in files:
        with contextlib.suppress(ProtocolError):
            sealed = _Sealed.from_bytes(data or b"", "this client")
            found.append((sealed, hashlib.sha256(data or b"").digest()))
    return sorted(found, key=lambda each: each[0].sequence, reverse=True)


def _highest(stored: Sequence[tuple[_Sealed, bytes]], known: bytes | None) -> tuple[int, int]:
    """The highest slot and sequence that any file tells of, if they do not belong together."""
    found: list[_Sealed | _Witness] = [sealed for sealed, _ in stored]
    with contextlib.suppress(ProtocolError):
        found.append(_Witness.from_bytes(known or b"", "this client"))
    slots, sequences = [each.slot for each in found], [each.sequence for each in found]
    return max(slots, default=0), max(sequences, default=0)


def _file_key(key: bytes, salt: bytes) -> bytes:
    return derive(key, 32, "journal", salt)


def _header(sealed: _Sealed) -> bytes:
    return sealed.sequence.to_bytes(8, "big") + sealed.slot.to_bytes(8, "big") + sealed.before


def _read(path: Path) -> bytes | None:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            parts = [os.read(file, os.fstat(file).st_size)]
            while part := os.read(file, 1 << 20):
                parts.append(part)
        finally:
            os.close(file)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error) from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _overwrite(path: Path, data: bytes | memoryview, durable: bool = False) -> None:
    """Write a file in its place; readable by its owner only. `durable`: also past a power cut.

    A kill may tear it: anyone who reads a vector or a journal knows its digest, and a witness fits one
    page, which is written whole or not.
    """
    view = memoryview(data)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            at = 0
            while at < len(view):
                at += os.write(file, view[at:])
            os.ftruncate(file, len(view))
            if durable:
                os.fdatasync(file)
        finally:
            os.close(file)
    except OSError as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: OSError) -> ProtocolError:
    return ProtocolError("journal", "this client", f"{path}: {error.strerror}")
