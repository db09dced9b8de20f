"""What the server last heard of this owner's ledger comes back with its requests: a rollback is found.

Every private answer carries the run's last row of the ledger, sealed (``certificate.seal``). The server
keeps the newest one of each member, and sends it along with the next requests.

Guarantee: an owner's agent spends nothing on a ledger that lacks the row whose seal comes back, unless its
owner has said that what is missing is lost (``umbel client moved``). So a folder that was put back from a
copy, with ledger and witness alike, is found at the first request, without anybody running a command, also
on a machine that forgot what it had in memory.

Assumptions: the server tells what it heard last. One that does not can hide a rollback, which costs the
owner a count of what was spent, not the noise of what it sends. One that makes a seal up stops the agent,
which it could do by asking for nothing as well; it learns nothing from that, for a seal tells nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from ..certificate.seal import bound_row
from ..errors import LedgerError, MessageError
from ..foreign import typed
from ..privacy.ledger.chain import MOVED
from ..privacy.ledger.ledger import Ledger
from ..storage.files import write_durably

_SEAL = re.compile("[0-9a-f]{64}")


class Echo:
    """The check of one owner's ledger. `behind` is the file that keeps a seal of which no row is there."""

    def __init__(self, ledger: Path, behind: Path) -> None:
        self._ledger, self._behind = ledger, behind
        self._known: dict[str, str] = {}

    def check(self, seal: object) -> None:
        """Refuse (``LedgerError``) to go on behind what the server was told before."""
        if not isinstance(seal, str) or not _SEAL.fullmatch(seal):
            raise MessageError(f"A request brings a malformed ledger head: {seal!r:.100}")
        if Ledger.begun(self._ledger):
            with Ledger(self._ledger) as ledger:
                if self._holds(ledger, seal):
                    return
        write_durably(self._behind, seal.encode(), secret=True)
        raise LedgerError(
            f"{self._ledger} is older than what this owner has reported to the server: the "
            "ledger, or the whole folder, was restored from a copy or started again. The later "
            "spending still counts: put back the newest copy of ledger and witness. If there is "
            "none, and no other copy of the folder spends: umbel client moved "
            f"{typed(self._ledger.parent)}"
        )

    def _holds(self, ledger: Ledger, seal: str) -> bool:
        known = self._known.get(seal)
        if known is not None and ledger.has(known):
            return True
        row = bound_row(ledger, {seal})
        if row is not None:
            self._known = {seal: row.hash}
            return True
        return seal in given_up(ledger)


def given_up(ledger: Ledger) -> Collection[str]:
    """Seals of rows that the ledger's owner has said to be lost."""
    return {entry.what for entry in ledger.entries() if entry.run == MOVED and entry.what}


def missing(behind: Path) -> str:
    """The seal that an agent found no row of; empty if there is none."""
    try:
        found = behind.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return found if _SEAL.fullmatch(found) else ""
