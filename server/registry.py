"""Which nodes the link lets in: those of the roster's members, and no others."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol

from ..consortium.authority import Consortium
from ..errors import ConsortiumError, DeploymentError, FileError
from ..flower.control import Registered

_LONGEST_WAIT = 30.0
_log = logging.getLogger(__name__)


class Door(Protocol):
    """What a link is asked (``flower.control.Control``)."""

    def registered(self) -> list[Registered]: ...

    def register(self, public_key: bytes, name: str) -> None: ...

    def unregister(self, public_key: bytes) -> None: ...

    def close(self) -> None: ...


def changes(
    members: Mapping[bytes, str], unknown: Collection[str], nodes: Iterable[Registered]
) -> tuple[list[bytes], list[bytes]]:
    """Keys to register, and keys to unregister, so that the nodes let in are those of the members.

    members: names by key. unknown: members whose key cannot be read now; their nodes stay as they are.
    """
    here = {node.public_key: node.name for node in nodes}
    gone = [key for key, name in here.items() if key not in members and name not in unknown]
    return [key for key in members if key not in here], gone


class Registry:
    """Makes the link's nodes those of the members, whatever was done before, and by whom.

    Every change is looked up before it is made, so that one that was made already is not made again. One
    that fails is told, and tried again later; it stops neither the others nor who calls.
    """

    def __init__(
        self,
        consortium: Consortium,
        open_door: Callable[[], Door],
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tell` is given what is wrong at the moment; an empty text once nothing is."""
        self._consortium, self._open, self._tell, self._clock = consortium, open_door, tell, clock
        self._settled: tuple[int, bool] | None = None
        self._tried: tuple[int, bool] | None = None
        self._told = ""
        self._next = 0.0
        self._wait = 1.0

    def forget(self) -> None:
        """The link is another one: look again."""
        self._settled, self._tried, self._wait = None, None, 1.0

    def settle(self, *, keep: bool = False) -> None:
        """Let members in, and removed ones no longer; those not yet, if `keep`: a round needs them."""
        troubles: list[str] = []
        try:
            wanted = self._consortium.epoch, keep
            if wanted in (self._settled, self._tried if self._clock() < self._next else None):
                return
            self._tried = wanted
            members, unreadable = self._consortium.node_keys()
            troubles = [*unreadable.values(), *self._change(members, unreadable, keep)]
            if not troubles:
                self._settled = wanted
        except (ConsortiumError, DeploymentError, FileError) as error:
            troubles.append(str(error))
        if troubles:
            self._next = self._clock() + self._wait
            self._wait = min(2 * self._wait, _LONGEST_WAIT)
        else:
            self._next, self._wait = 0.0, 1.0
        told = " ".join(troubles)
        if told != self._told:
            self._told = told
            self._tell(told)

    def _change(
        self, members: Mapping[bytes, str], unknown: Collection[str], keep: bool
    ) -> list[str]:
        troubles = []
        with contextlib.closing(self._open()) as door:
            wanted, gone = changes(members, unknown, door.registered())
            for key in wanted:
                try:
                    door.register(key, members[key])
                except DeploymentError as error:
                    troubles.append(f"{members[key]} cannot be admitted: {error}")
            for key in [] if keep else gone:
                try:
                    door.unregister(key)
                except DeploymentError as error:
                    troubles.append(f"A removed member cannot be shut out: {error}")
        if not troubles:
            names = ", ".join(sorted(members.values()))
            _log.info("members: %s", names or "none yet")
        return troubles
