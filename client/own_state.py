"""What a strategy has an owner keep from round to round, and never send: on the disk, sealed.

An update proposes the next state. It is on the disk before the update leaves, and becomes the current one
when a later request says that the opened sum had the update; under secure aggregation the request shows it
(``privacy.secagg.counted``). Else the state stays as it was.

Guarantee: at each instant there is one current state, whole, whenever the process dies; an update counts in
it once, however often its round is repeated, and only if its sum was opened, as far as that is shown. What
is on the disk is of no use without its keys, which lie where no backup reaches. An owner whose state is not
the one that was counted (it is lost, or an old copy, or the owner joined late) begins with the strategy's
first, all zeros, and says so. A state is of one job: another job of the same run is refused, because what one
strategy keeps without noise another would send.

Assumption: without encryption the server's word has to do. A false one, and a true one that is withheld,
spoil what is learned, as a false model would; nothing more leaves for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np

from ..errors import FileError, PlanRefused, ProtocolError
from ..privacy.secagg.counted import Place
from ..privacy.secagg.encoding import Digest, Encoded, Size
from ..privacy.secagg.messages import Run
from ..privacy.secagg.state import MOST_REPEATS
from ..storage.files import write_durably
from ..strategies.contract import Shapes
from ..wire.arrays import Arrays
from .run_files import delete_old, of_run
from .sealing import opened, sealed

_OLD_SECONDS = 30 * 24 * 3600.0
"""States of runs that were heard of no more are deleted after so long."""
_log = logging.getLogger(__name__)

Shown = Callable[[tuple[Place, ...]], bool]
"""Whether it is shown that an update that was masked in these slots was counted; raises if it is untrue."""


@dataclass(frozen=True)
class _Stored(Encoded):
    """One state on the disk."""

    round: int
    what: Digest
    """The question whose update it follows from: run, job, round, settings, model and the state before."""
    content: Digest
    """SHA-256 of its numbers."""
    key: Annotated[bytes, Size(32, 32)]
    places: Annotated[tuple[Place, ...], Size(0, MOST_REPEATS)] = ()
    """The slots that the update was masked in."""


@dataclass(frozen=True)
class _States(Encoded):
    """An owner's states of a run. The file that holds it decides which is the current one."""

    version: ClassVar[int] = 2
    run: Run
    job: Digest
    """Of the job that they are of (``Job.digest``)."""
    current: Annotated[tuple[_Stored, ...], Size(0, 1)] = ()
    proposed: Annotated[tuple[_Stored, ...], Size(0, 1)] = ()


@dataclass(frozen=True)
class Own:
    """An owner's state as a round begins."""

    run: str
    job: str
    """The digest of the run's job, in hexadecimal."""
    round: int
    """Of the update that it follows from; 0: it is the strategy's first."""
    arrays: Arrays

    @property
    def digest(self) -> bytes:
        return _digest(self.arrays)


class OwnStates:
    """One owner's folder of states, at most two per run: the current one, and what may follow.

    keys: a folder that no backup reaches (default: beside the states). lasting: whether those of runs
    that were heard of no more stay.
    """

    def __init__(self, folder: Path, keys: Path | None = None, *, lasting: bool = False) -> None:
        self._folder, self._keys, self._lasting = folder, keys or folder, lasting

    def begin(self, run: str, job: str, shapes: Shapes, counted: int, shown: Shown) -> Own:
        """The state that a round begins with. `counted`: the newest round whose opened sum has the update.

        job: the digest of the run's job. Raises ``PlanRefused`` if what is here is of another one, and
        ``ProtocolError`` if what is `shown` is untrue: nothing changes then.
        """
        known, found = self._settled(run, job, counted, shown)
        if found is not None and (arrays := self._opened(run, found, shapes)) is not None:
            return Own(run, job, counted, arrays)
        if counted or known.current:
            _log.warning(
                "run %s: the state that was counted last, of round %d, is not here; it begins again, with "
                "zeros",
                run,
                counted,
            )
        zeros = {n: np.zeros(shape, np.float32) for n, shape in shapes.items()}
        return Own(run, job, 0, zeros)

    def _settled(
        self, run: str, job: str, counted: int, shown: Shown
    ) -> tuple[_States, _Stored | None]:
        """What there was of a run, and what is the current one from now on."""
        known = self._read(run, job)
        found = next((one for one in known.current if one.round == counted), None)
        if found is None:
            found = next((one for one in known.proposed if one.round == counted), None)
            if found is not None and not shown(found.places):
                found = None
            if found is not None:
                self._write(replace(known, current=(found,), proposed=()))
        return known, found

    def _opened(self, run: str, one: _Stored, shapes: Shapes) -> Arrays | None:
        arrays = opened(self._file(run, one), one.key, one.what, shapes)
        return arrays if arrays is not None and _digest(arrays) == one.content else None

    def current(self, run: str, job: str, shapes: Shapes) -> Own | None:
        """The current state of a run; None if none is here, whole. Raises ``PlanRefused`` as ``begin``."""
        for one in self._read(run, job).current:
            if (arrays := self._opened(run, one, shapes)) is not None:
                return Own(run, job, one.round, arrays)
        return None

    def hand_over(self, run: str, job: str, counted: int, shown: Shown, to: OwnStates) -> bool:
        """Move the state that was counted last to another folder, for good; whether there was one.

        If it is not shown which one that is, it is the last of which it was. After a crash it can be done
        again. Raises as ``begin``.
        """
        known, found = self._settled(run, job, counted, shown)
        found = found or next(iter(known.current), None)
        if found is None or not self._file(run, found).exists():
            return False
        to._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        sealed_bytes = self._file(run, found).read_bytes()
        write_durably(to._file(run, found), sealed_bytes, secret=True)
        to._write(replace(known, current=(found,), proposed=()))
        self.close(run)
        return True

    def propose(
        self, own: Own, round_: int, what: bytes, arrays: Arrays, place: Place | None
    ) -> None:
        """Keep what follows from an update, before that leaves, in the `place` of the last proposal.

        If it cannot be written, that is logged: the owner then begins anew if the update is counted.
        """
        try:
            self._propose(own, round_, what, arrays, place)
        except (FileError, OSError) as error:
            _log.error("run %s: the state that follows is not kept: %s", own.run, error)

    def again(self, own: Own, round_: int, what: bytes, place: Place | None) -> None:
        """Note that the update of an earlier proposal leaves once more, in another `place`."""
        known = self._read(own.run, own.job)
        for one in known.proposed:
            if (one.round, one.what) == (round_, what):
                current = tuple(c for c in known.current if own.round == c.round)
                try:
                    self._write(replace(known, current=current, proposed=(_also_in(one, place),)))
                except (FileError, OSError) as error:
                    _log.error("run %s: where an update leaves is not noted: %s", own.run, error)
                return
        _log.error("run %s: the state that follows from this update is not here", own.run)

    def close(self, run: str) -> None:
        """Delete what is kept of a run."""
        with contextlib.suppress(OSError):
            self._record(run).unlink(missing_ok=True)
        self._delete(run, ())

    def _propose(
        self, own: Own, round_: int, what: bytes, arrays: Arrays, place: Place | None
    ) -> None:
        known, content = self._read(own.run, own.job), _digest(arrays)
        current = tuple(one for one in known.current if own.round == one.round)
        places = (place,) if place else ()
        for one in known.proposed:
            if (one.round, one.what, one.content) == (round_, what, content):
                self._write(replace(known, current=current, proposed=(_also_in(one, place),)))
                return
        self._tidy()
        found = _Stored(round_, what, content, os.urandom(32), places)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(self._file(own.run, found), sealed(found.key, what, arrays), secret=True)
        self._write(replace(known, current=current, proposed=(found,)))

    def _write(self, states: _States) -> None:
        self._keys.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(self._record(states.run), states.to_bytes(), secret=True)
        self._delete(states.run, (*states.current, *states.proposed))

    def _read(self, run: str, job: str) -> _States:
        nothing = _States(run, bytes.fromhex(job))
        try:
            found = _States.from_bytes(self._record(run).read_bytes(), "this client")
        except OSError:
            return nothing
        except ProtocolError:
            _log.error(
                "run %s: what this owner kept of it is not read: %s is damaged, or of an earlier version of "
                "Umbel, which did not note the job of a state. The owner begins again, without that state.",
                run,
                self._record(run),
            )
            return nothing
        if found.run != run:
            return nothing
        if found.job != nothing.job:
            raise PlanRefused(
                f"Run {run} had another job before, and what this owner keeps of it is of that job. A run "
                "must keep its job: start a new run."
            )
        return found

    def _delete(self, run: str, but: tuple[_Stored, ...]) -> None:
        """Whatever lies there of a run but for these states."""
        kept = {self._file(run, one) for one in but}
        for path in self._folder.glob(f"{_stem(run)}-*.state"):
            if path not in kept:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)

    def _tidy(self) -> None:
        """Delete what runs left behind that nobody closed."""
        if self._lasting:
            return
        paths = (*self._folder.glob("*.state"), *self._keys.glob("*.state-keys"))
        delete_old(paths, _OLD_SECONDS)

    def _file(self, run: str, one: _Stored) -> Path:
        name = hashlib.sha256(one.key).hexdigest()[:16]
        return self._folder / f"{_stem(run)}-{name}.state"

    def _record(self, run: str) -> Path:
        return of_run(self._keys, run, ".state-keys")


def _also_in(one: _Stored, place: Place | None) -> _Stored:
    """A proposal whose update leaves in this place, too."""
    if place is None:
        return one
    others = tuple(p for p in one.places if p != place)
    return replace(one, places=(*others, place)[-MOST_REPEATS:])


def _stem(run: str) -> str:
    return of_run(Path(), run).name


def _digest(arrays: Arrays) -> bytes:
    found = hashlib.sha256()
    for array in arrays.values():
        found.update(np.ascontiguousarray(array, dtype="<f4").data)
    return found.digest()
