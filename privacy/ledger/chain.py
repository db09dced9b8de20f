"""The rows of a ledger and the hashes that chain them: what a third party needs to check an export."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import LedgerError
from ..accounting.accountant import MechanismEvent

VERSION = 2
GENESIS = hashlib.sha256(b"umbel privacy ledger").hexdigest()
"""The hash before the first row."""
COLUMNS = (
    "number", "dataset", "kind", "noise_multiplier", "sampling_rate", "steps", "job", "key",
    "delta", "epsilon_limit", "replay", "recorded", "version",
)  # fmt: skip
"""The columns of a row that are hashed, in this order; `version` says by which recipe."""
_KIND = COLUMNS.index("kind")

SIZE_RUN = "published size"
"""Takes the place of the run in the key of a published size, which belongs to no run."""
TAKES_OVER = "takes over"
DISJOINT = "declared disjoint"
MOVED = "moved"
"""Takes the place of the run in the key of an owner's note about its account."""
TEST = "test "
"""In the key of a test of the model, the text before the number of its round."""
LOSS = "loss "
"""In the key of a released loss, the text before the number of its round."""


@dataclass(frozen=True)
class Entry:
    """One row: `event` was reserved for `dataset` by request `key` of `job`.

    `delta` and `limit` are those of the decision, `recorded` is UTC in ISO 8601, `hash` is SHA-256
    over all of it and the hash of the row before. A row of no steps is a note: its key says what the
    owner declared of the account (takes over/NAME/0), or, of no account, that it accepted the ledger.
    """

    number: int
    dataset: str
    event: MechanismEvent
    job: str
    key: str
    delta: float
    limit: float
    replay: bool
    recorded: str
    hash: str
    version: int = VERSION

    @property
    def run(self) -> str:
        """Of a key that is run/what/attempt."""
        return self.key.rsplit("/", 2)[0]

    @property
    def taken_over(self) -> str | None:
        """The data set, or account, whose spending this note adds to the account's."""
        return self.what if self.key.startswith(f"{TAKES_OVER}/") else None

    @property
    def what(self) -> str:
        """The round, its loss, or the test that was charged."""
        return self.key.split("/")[-2]

    @property
    def is_test(self) -> bool:
        """Whether a test of the model was charged, and no round of training."""
        return self.what.startswith(TEST)

    @property
    def is_round(self) -> bool:
        """Whether the steps of a round of training were charged: no test, and no released loss."""
        return not self.what.startswith((TEST, LOSS))

    @classmethod
    def of(cls, row: Sequence[Any], hash_: str) -> Entry:
        (number, dataset, kind, sigma, rate, steps, job, key, delta, limit, replay, recorded,
         version) = row  # fmt: skip
        event = MechanismEvent(sigma, rate, steps, kind)
        return cls(
            number, dataset, event, job, key, delta, limit, bool(replay), recorded, hash_, version
        )

    def row(self) -> tuple[Any, ...]:
        """The columns of ``COLUMNS``."""
        event = self.event
        mechanism = (event.kind, event.noise_multiplier, event.sampling_rate, event.steps)
        decision = (self.job, self.key, self.delta, self.limit, int(self.replay), self.recorded)
        return (self.number, self.dataset, *mechanism, *decision, self.version)


def chained(previous: str, identity: str, row: Sequence[Any]) -> str:
    """SHA-256 of the row before, the ledger's identity and this row, as a JSON list in ASCII.

    JSON writes a float64 so that it reads back equal. Rows of version 1 knew neither identities
    nor kinds. A value that JSON does not know cannot have been written here; its repr makes the
    check fail.
    """
    if row[-1] == 1:
        hashed = [previous, *(value for place, value in enumerate(row[:-1]) if place != _KIND)]
    else:
        hashed = [previous, identity, *row]
    return hashlib.sha256(json.dumps(hashed, default=repr).encode()).hexdigest()


def checked(rows: Iterable[Sequence[Any]], identity: str, source: str) -> Iterator[Entry]:
    """The entries of (*columns, hash) rows, each checked against the one before."""
    previous = GENESIS
    for place, (*row, stored) in enumerate(rows, start=1):
        known = row[-1] == VERSION or (row[-1] == 1 and row[_KIND] == "gaussian")
        if row[0] != place or not known or chained(previous, identity, row) != stored:
            raise LedgerError(
                f"The privacy ledger {source} was changed: row {row[0]} does not follow from the "
                "rows before it (a row was edited, removed, or copied from another ledger). The "
                "record of what was spent can no longer be trusted. Move the file away and run: "
                "umbel ledger recover (its witness has a copy of every row), or "
                "restore a backup."
            )
        previous = stored
        yield Entry.of(row, stored)
