"""A member's memory of a run: on disk before a reply leaves, and useless to whoever copies it.

Two files. The *journal* holds the sealed ``State`` and is replaced and fsynced at every transition.
The *witness* holds the key that the journal is sealed with and the digest of the newest journal; it
belongs where backups do not reach and a reboot forgets, such as a tmpfs. So a journal that was lost,
restored from a backup or copied from elsewhere does not match its witness, and the member fails
closed: it discards the slot's secrets and counts as dropped out until the next slot. Every slot has
a new sealing key, so the secrets of slots that are over cannot be read from old disk blocks either.

Not detected: journal and witness put back together, as by the snapshot of a running virtual machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator
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
    """The journal's file. `before` is the digest of the one that it replaced."""

    sequence: int
    slot: int
    """The highest slot ever entered: readable also where the state no longer is."""
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
    keys: Annotated[tuple[Digest, ...], Size(1, 2)]


class Journal:
    """The stored state of one member in one run.

    Guarantee: when ``Turn.store`` has returned, the state survives the process and, but for the
    witness, the machine. Of two processes one waits for the other. Assumes a disk that honours fsync.
    """

    def __init__(self, folder: Path, run: str, witness: Path | None = None) -> None:
        """`folder` is this owner's and this run's alone; `witness` is a folder (default: the same)."""
        self._folder, self._run = folder, run
        self._journal = folder / "journal"
        self._vector = folder / "vector"
        self._witness = (witness or folder) / "witness"
        self._known: tuple[bytes, bytes, Turn] | None = None
        """Journal and witness as this process wrote them last, and what is in them."""
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
                # Else the journal before this one would still be taken for the newest.
                turn._witness([turn.key])
            yield turn
        finally:
            os.close(lock)

    def _load(self) -> Turn:
        stored, witness = _read(self._journal), _read(self._witness)
        if self._known is not None and self._known[:2] == (stored, witness):
            return replace(self._known[2])
        if stored is None and (witness is None or _first(witness)):
            return self._fresh(State(self._run))
        try:
            if stored is None or witness is None:
                missing = "journal" if stored is None else "journal's witness"
                raise ProtocolError("journal", "this client", f"the {missing} is gone")
            return self._matched(stored, witness)
        except ProtocolError as error:
            logging.getLogger(__name__).error(
                "%s; the keys of the slot in progress are discarded", error
            )
            return self._fresh(State(self._run, floor=_floor(stored, witness)))

    def _matched(self, stored: bytes, known: bytes) -> Turn:
        witness = _Witness.from_bytes(known, "this client")
        sealed = _Sealed.from_bytes(stored, "this client")
        digest = hashlib.sha256(stored).digest()
        current = (sealed.sequence, digest) == (witness.sequence, witness.journal)
        # Killed between the journal and its witness: the journal is exactly one ahead.
        ahead = (sealed.sequence, sealed.before) == (witness.sequence + 1, witness.journal)
        for key in witness.keys if current or ahead else ():
            plain = unseal(_file_key(key, sealed.salt), sealed.state, _header(sealed))
            if plain is not None:
                state = State.from_bytes(plain, "this client")
                return Turn(self, state, sealed.sequence, digest, key, ahead)
        raise ProtocolError("journal", "this client", "the journal is not the newest one")

    def _fresh(self, state: State) -> Turn:
        return Turn(self, state, 0, _NEW, os.urandom(32))

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
    """Whether the witness is still that of the journal before."""

    def store(self, state: State, vector: Words | None = None) -> None:
        """Write the new state (and the masked vector before it) through to the disk."""
        journal, keys = self.journal, [self.key]
        if state.number != self.state.number or not state.secrets or self.sequence == 0:
            keys.append(os.urandom(32))
            # Both keys, lest a crash between the two files lose the state.
            self._witness(keys)
        if vector is not None:
            _overwrite(journal._vector, vector.data.cast("B"))
        sealed = _Sealed(self.sequence + 1, state.number, self.digest, os.urandom(32), b"\0")
        box = seal(_file_key(keys[-1], sealed.salt), state.to_bytes(), _header(sealed))
        data = replace(sealed, state=box).to_bytes()
        _replace(journal._journal, data)
        self.state, self.sequence, self.key = state, sealed.sequence, keys[-1]
        self.digest = hashlib.sha256(data).digest()
        self.journal._known = (data, self._witness([self.key]), replace(self))

    def _witness(self, keys: list[bytes]) -> bytes:
        witness = _Witness(self.sequence, self.state.number, self.digest, tuple(keys)).to_bytes()
        _replace(self.journal._witness, witness, durable=False)
        return witness


def _first(known: bytes) -> bool:
    """Whether a witness was written before the first journal ever was."""
    try:
        return _Witness.from_bytes(known, "this client").sequence == 0
    except ProtocolError:
        return False


def _floor(stored: bytes | None, known: bytes | None) -> int:
    """The highest slot that journal or witness tell of, where they do not belong together."""
    found = [0]
    for kind, data in ((_Sealed, stored), (_Witness, known)):
        with contextlib.suppress(ProtocolError):
            found.append(kind.from_bytes(data or b"", "this client").slot)
    return max(found)


def _file_key(key: bytes, salt: bytes) -> bytes:
    return derive(key, 32, "journal", salt)


def _header(sealed: _Sealed) -> bytes:
    return sealed.sequence.to_bytes(8, "big") + sealed.slot.to_bytes(8, "big") + sealed.before


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error) from error


def _overwrite(path: Path, data: memoryview) -> None:
    """Write a file that may be lost or torn: its reader knows its digest.

    A vector survives a killed process, not a power cut; then it is not sent again, which is allowed.
    """
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            at = 0
            while at < len(data):
                at += os.write(file, data[at:])
            os.ftruncate(file, len(data))
        finally:
            os.close(file)
    except OSError as error:
        raise _unusable(path, error) from error


def _replace(path: Path, data: bytes, durable: bool = True) -> None:
    """Put a whole file in the place of another; readable by its owner only."""
    temporary = path.with_suffix(".new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    try:
        with open(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if durable:
            place = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(place)
            finally:
                os.close(place)
    except OSError as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: OSError) -> ProtocolError:
    return ProtocolError("journal", "this client", f"{path}: {error.strerror}")
