"""What an owner's accounts have spent: the ledger as its owner reads it."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..privacy.accounting.accountant import epsilon
from ..privacy.ledger.ledger import Entry, Ledger
from .approvals import printable
from .policy import Policy

if TYPE_CHECKING:
    from rich.table import Table

K = TypeVar("K", bound=Hashable)
_MOST_POINTS = 200


@dataclass(frozen=True)
class RunSpending:
    """What one run of one job has spent of an account."""

    run: str
    job: str
    """The job's digest."""
    rounds: int
    """Rounds that were charged, repeated ones once."""
    steps: int
    epsilon: float
    """By itself. Runs compose: together they spend less than the sum of these."""
    first: str
    last: str
    """UTC in ISO 8601."""


@dataclass(frozen=True)
class DataSpending:
    """What one account has spent over all its jobs, and what the policy leaves it."""

    dataset: str
    """The account's name; in a ledger of an earlier version, a fingerprint of the content."""
    epsilon: float
    delta: float
    """The policy's delta_limit: a job with a larger delta is refused."""
    limit: float
    """The policy's epsilon_limit."""
    runs: tuple[RunSpending, ...]

    @property
    def left(self) -> float:
        """Epsilon that the policy leaves, at `delta`. A job with a smaller delta is left less."""
        return max(0.0, self.limit - self.epsilon)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "left": self.left}


def spending(ledger: Path, policy: Policy) -> list[DataSpending]:
    """One item per account, in the order of their first spending; none if there is no ledger yet.

    Raises ``LedgerError`` if the ledger was changed.
    """
    if not Ledger.begun(ledger):
        return []
    with Ledger(ledger) as opened:
        entries = opened.entries()
    rules = policy.privacy
    return [
        DataSpending(
            dataset=dataset,
            epsilon=_epsilon(of_data, rules.delta_limit),
            delta=rules.delta_limit,
            limit=rules.epsilon_limit,
            runs=tuple(
                _run_spending(run, of_run, rules.delta_limit)
                for run, of_run in _grouped(of_data, _run).items()
            ),
        )
        for dataset, of_data in _by_account(entries).items()
    ]


def spending_curves(ledger: Path, delta: float) -> list[tuple[str, list[tuple[str, float]]]]:
    """For each account, its epsilon after some of its rows, the last among them, with their times."""
    with Ledger(ledger) as opened:
        entries = opened.entries()
    curves = []
    for dataset, of_data in _by_account(entries).items():
        stride = max(1, math.ceil(len(of_data) / _MOST_POINTS))
        places = sorted({*range(0, len(of_data), stride), len(of_data) - 1})
        points = [
            (of_data[place].recorded, _epsilon(of_data[: place + 1], delta)) for place in places
        ]
        curves.append((dataset[:8], points))
    return curves


def spending_table(items: list[DataSpending]) -> Table:
    """A table of at least one account: spent is rounded up, left is rounded down."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from ..quantities import epsilon_text

    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False, padding=(0, 1))
    table.add_column("Account", no_wrap=True)
    table.add_column("Run", overflow="fold")
    table.add_column("Job", no_wrap=True)
    table.add_column("Rounds", justify="right", no_wrap=True)
    # One policy, so one delta for all.
    table.add_column(f"Epsilon at\ndelta {items[0].delta:g}", justify="right", no_wrap=True)
    table.add_column("Left", justify="right", no_wrap=True)
    for item in items:
        for run in item.runs:
            cells = [item.dataset[:8], printable(run.run), run.job[:8], f"{run.rounds:,}"]
            cells += [epsilon_text(run.epsilon), ""]
            table.add_row(*map(Text, cells))
        left = f"{_down(item.left)} of {item.limit:g}"
        cells = [item.dataset[:8], "all runs", "", "", epsilon_text(item.epsilon), left]
        table.add_row(*map(Text, cells), style="bold", end_section=True)
    return table


def _grouped(entries: list[Entry], key: Callable[[Entry], K]) -> dict[K, list[Entry]]:
    groups: dict[K, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(key(entry), []).append(entry)
    return groups


def _by_account(entries: list[Entry]) -> dict[str, list[Entry]]:
    """What was charged, under the account that took it over in the end."""
    taken = {e.taken_over: e.dataset for e in entries if e.taken_over is not None}

    def account(entry: Entry) -> str:
        name = entry.dataset
        while name in taken:
            name = taken[name]
        return name

    return _grouped([entry for entry in entries if entry.event.steps], account)


def _run(entry: Entry) -> tuple[str, str]:
    """Run and job of a row, whose key is run/round/attempt."""
    return entry.run, entry.job


def _run_spending(run: tuple[str, str], entries: list[Entry], delta: float) -> RunSpending:
    return RunSpending(
        run=run[0],
        job=run[1],
        rounds=len({entry.what for entry in entries if entry.is_round}),
        steps=sum(entry.event.steps for entry in entries),
        epsilon=_epsilon(entries, delta),
        first=entries[0].recorded,
        last=entries[-1].recorded,
    )


def _epsilon(entries: list[Entry], delta: float) -> float:
    return epsilon([entry.event for entry in entries], delta)


def _down(value: float) -> str:
    return f"{math.floor(value * 100 + 1e-9) / 100:.2f}"
