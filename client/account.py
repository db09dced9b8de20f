"""An owner's account: the name that its spending stands under, and the one size that it publishes.

An account is what its owner declared, not what a file holds: it goes on when the file changes or
grows, and has the same budget whatever columns, labels or split a job would like to see.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import LedgerError, PlanRefused
from ..foreign import typed
from ..job import Job
from ..planning.facts import training_size
from ..privacy.ledger.ledger import Ledger
from ..privacy.noise.sizes import SMALLEST_SIZE, Sizes, published_sizes
from ..privacy.randomness import SecretStream, reproducible_stream
from ..storage.files import write_durably

if TYPE_CHECKING:
    from .budget import Budget


class Size(Protocol):
    """What is published once of how much there is, and charged before."""

    @property
    def known(self) -> bool:
        """Whether it is there without a look at records."""
        ...

    def published(self, budget: Budget) -> Sizes: ...


@dataclass(frozen=True)
class Account:
    """What an agent may say of its owner's data: declared, or published and charged."""

    name: str
    """Random; its name in the ledger."""
    training_share: float
    """Declared: the share of the data to train on."""
    holds_out: bool
    """Declared: whether there are held-out records."""
    size: Size
    smallest: int = 1
    """Declared: the account takes part in no job while the published size is below this."""

    @property
    def known(self) -> bool:
        """Whether its size was published, so that what follows from it needs no record."""
        return self.size.known

    def published(self, job: Job, budget: Budget) -> int:
        """The size that the job's operator is told; none if whole clients are hidden.

        ``PlanRefused`` if it is below what the owner declared; both numbers may be told.
        """
        if job.per_client:
            return 0
        size = self.size.published(budget).data
        # The least that is published stands for all that is less.
        if size < self.smallest or size == self.smallest == SMALLEST_SIZE:
            raise PlanRefused(
                f"{budget.owner} takes part in no job while its published size ({size:,}) is "
                f"{'not above' if size == self.smallest else 'below'} {self.smallest:,} "
                "(client.toml: smallest_size)"
            )
        return size

    def training_size(self, job: Job, budget: Budget) -> int:
        """The public number of training units, from which noise, sampling and weight follow."""
        return training_size(self.published(job, budget), self.training_share)

    def test_size(self, job: Job, budget: Budget) -> int:
        """The public number of held-out units, by which tests take their time; 0 if there is none."""
        if job.per_client or not self.holds_out:
            return 0
        size = self.size.published(budget)
        if size.held_out is not None:
            return size.held_out
        return max(0, size.data - training_size(size.data, self.training_share))


@dataclass(frozen=True)
class SeededSize:
    """A virtual owner's: drawn from the job's seed, so that a simulation can be repeated.

    Nothing is private about it; a deployment never uses it.
    """

    seed: int
    owner: str
    counts: Sizes
    known: bool = field(default=True, init=False)

    @property
    def value(self) -> Sizes:
        return published_sizes(
            self.counts, lambda what: reproducible_stream(self.seed, f"{self.owner}/{what}")
        )

    def published(self, budget: Budget) -> Sizes:
        budget.charge_size(f"seed {self.seed}", replay=True)
        return self.value


def seeded_name(owner: str) -> str:
    """The account of a virtual owner."""
    return hashlib.sha256(f"umbel simulated account\n{owner}".encode()).hexdigest()[:32]


@dataclass(frozen=True)
class AccountFile:
    """`account.json` in an owner's folder.

    Guarantee: sizes are charged before they are drawn, and on disk before anybody hears of them; the
    same ones hold ever after, until their owner has others drawn and charged. A crash in between
    costs a charge, never an unpaid draw.
    """

    path: Path

    @staticmethod
    def fresh_name() -> str:
        """A random name, which says nothing."""
        return secrets.token_hex(16)

    def begin(self, name: str) -> None:
        """Begin the account of this name, in place of any other; no size of it is known yet."""
        self._write({"account": name, "sizes": 0, "size": None, "held_out": None, "place": None})

    @property
    def name(self) -> str:
        return str(self._read()["account"])

    @property
    def sizes(self) -> Sizes | None:
        """What was published; None as long as nothing was."""
        found = self._read()
        if found["size"] is None:
            return None
        held_out = found.get("held_out")
        return Sizes(int(found["size"]), None if held_out is None else int(held_out))

    def publish(self, counts: Sizes, budget: Budget) -> Sizes:
        """Charge, draw, keep and return sizes with fresh noise, in place of any earlier ones."""
        values = self._read()
        number = int(values["sizes"]) + 1
        budget.charge_size(f"size {number}")
        sizes = published_sizes(counts, lambda _: SecretStream.from_os())
        drawn = {"sizes": number, "size": sizes.data, "held_out": sizes.held_out}
        self._write(values | drawn)
        return sizes

    def check_place(self, ledger: Path, *, settle: bool = True) -> None:
        """Refuse (``LedgerError``) to spend from a copy of the folder that first spent.

        Two copies that both spend would each count its own half. A folder is known by the numbers
        that its file system gave it and its ledger, which a copy or a restored backup does not keep
        as a rule. Not noticed: a copy of a whole disk, and files that were written over in place.
        """
        place, known = self._place(ledger), self._read().get("place")
        if known is None and place is not None:
            if settle:
                self.settle(ledger)
        elif known not in (None, place):
            raise LedgerError(
                f"{self.path.parent} was copied, moved or restored since it last spent. If two copies "
                "spend, neither counts everything. If this is the only copy, and its ledger is "
                f"the newest: umbel client moved {typed(self.path.parent)}"
            )

    def check_ledger(self, ledger: Path, seen: Path | None) -> None:
        """Refuse (``LedgerError``) a ledger that holds more spending than the account counts, or less.

        `seen`: where this machine's memory keeps the newest head, which no backup holds. So a ledger
        that was put back in place is noticed until the machine starts again.
        """
        if not Ledger.begun(ledger):
            return
        with Ledger(ledger) as opened:
            strangers = opened.strangers(self.name)
            last = seen.read_text().split() if seen and seen.exists() else []
            if last[:1] == [opened.identity] and not opened.has(last[-1]):
                raise LedgerError(
                    f"{ledger} is older than what this machine has already spent: it was restored "
                    "from a copy. The later spending still counts: put back the newest copy of ledger "
                    f"and witness. If there is none: umbel client moved {typed(self.path.parent)}"
                )
        if strangers:
            raise LedgerError(
                f"{ledger} holds the spending of {len(strangers)} other accounts or data sets, "
                f"which {self.path} does not count. Put back the account.json that belongs to "
                "this ledger, or let this account take all of it over: umbel client moved "
                f"{self.path.parent}"
            )

    def settle(self, ledger: Path) -> None:
        """Take this place for the only one, from now on."""
        self._write(self._read() | {"place": self._place(ledger)})

    def _place(self, ledger: Path) -> str | None:
        if not ledger.exists():
            return None
        numbers = [os.stat(path).st_ino for path in (self.path.parent, ledger)]
        return "-".join(map(str, numbers))

    def _read(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            _ = found["account"], found["sizes"], found["size"]
        except FileNotFoundError:
            raise LedgerError(
                f"{self.path} is missing: it names the account of this owner's spending. Put the "
                "newest copy back; if the folder is from an earlier version: "
                f"umbel client upgrade {typed(self.path.parent)}"
            ) from None
        except (OSError, ValueError, KeyError, TypeError):
            raise LedgerError(
                f"{self.path} is damaged. Put the newest copy back; without it nothing is done with "
                "the data."
            ) from None
        return found

    def _write(self, values: dict[str, Any]) -> None:
        write_durably(self.path, (json.dumps(values, indent=1) + "\n").encode(), secret=True)


@dataclass(frozen=True)
class KeptSize:
    """An owner's: drawn when it is first asked for, and then kept. `counts` counts the data.

    apart: whether held-out records are declared to be a file of their own. One that was added to the
    declaration has both sizes drawn again, and charged: a record may have moved from file to file.
    """

    file: AccountFile
    counts: Callable[[], Sizes]
    apart: bool = False

    @property
    def known(self) -> bool:
        return self._kept() is not None

    def published(self, budget: Budget) -> Sizes:
        known = self._kept()
        return self.file.publish(self.counts(), budget) if known is None else known

    def _kept(self) -> Sizes | None:
        sizes = self.file.sizes
        if sizes is not None and not self.apart:
            return Sizes(sizes.data)
        return sizes if sizes is not None and sizes.held_out is not None else None
