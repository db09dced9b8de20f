"""What is known of a client before a job runs: nothing exact, all of it declared or published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ClientFacts:
    """What is known of a client before the job: what its owner declared, or published with noise."""

    name: str
    size: int
    """The account's published size; 0 under client-level privacy, which needs none."""
    training_share: float = 1.0
    """Declared: the share of its data that the owner trains on."""
    encryption_required: bool = True
    """Whether this owner's policy refuses jobs whose updates the server can read."""
    holds_out: bool = True
    """Declared: whether the owner has held-out records, as a share of its data or in a separate file."""

    @property
    def training_size(self) -> int:
        """The public number of training units: sampling rate, batch and weight come from it."""
        return training_size(self.size, self.training_share)

    @property
    def test_size(self) -> int:
        """About how many units are held out; 0 if none are, or if they are a file of their own."""
        return max(0, self.size - self.training_size) if self.holds_out else 0


def training_size(size: int, training_share: float) -> int:
    """How many units of a published size are trained on, at least one."""
    return max(1, round(size * training_share))


def some(names: Sequence[str], most: int = 5) -> str:
    """A few names, and how many more there are."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more clients" if len(names) > most else shown
