"""What is known of a client before a job runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ClientFacts:
    """What is known of a client before the job: its name and how many records it has."""

    name: str
    train_examples: int
    test_examples: int
    encryption_required: bool = True
    """Whether this owner's policy refuses jobs whose updates the server can read."""


def some(names: Sequence[str], most: int = 5) -> str:
    """A few names, and how many more there are."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more clients" if len(names) > most else shown
