"""The newest order that an owner has seen of each operator: an older one that comes new is a replay.

Guarantee: an order for a run that this owner does not know is taken only if its signer made it after every
order that was seen before, also after a crash. The counter is the signer's and stands in the signed order,
so a server that was restored from a backup continues with the runs that it knew, and replays nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import LedgerError, PlanRefused
from ..privacy.secagg.signed import Statement, check_time
from ..storage.files import write_durably


@dataclass(frozen=True)
class SeenOrders:
    """The file with the highest counter by operator's key, in hexadecimal."""

    path: Path

    def check(self, operator: str, said: Statement, known: bool, now: float) -> None:
        """Refuse (``PlanRefused``) an order that has ended, or one for a new run that is not new.

        known: whether this owner has had an order for its run.
        """
        if why := check_time(said, now):
            raise PlanRefused(
                f"the operator's order for this run is not valid: {why}. The operator has to sign a "
                "new one: umbel resume, or umbel sign"
            )
        if not known and said.counter <= self._read().get(operator, -1):
            raise PlanRefused(
                "the operator's order for this run is older than one that came before, so it may be a "
                "replay. If the operator wants this run, it has to sign the job again: umbel run"
            )

    def note(self, operator: str, said: Statement) -> None:
        """Remember an order that was taken, before anything else is done for it."""
        seen = self._read()
        if said.counter > seen.get(operator, -1):
            write_durably(self.path, json.dumps(seen | {operator: said.counter}).encode())

    def _read(self) -> dict[str, int]:
        try:
            found = json.loads(self.path.read_text(encoding="ascii"))
            if not all(type(counter) is int for counter in found.values()):
                raise ValueError("a counter is not a number")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError) as error:
            raise LedgerError(
                f"{self.path} cannot be read ({error}): it records which orders came before. Put "
                "the newest copy back, or make a new folder with umbel client init."
            ) from None
        return dict(found)
