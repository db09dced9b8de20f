"""What the supervisor hands to the process that leads a run: read by both, and light to import."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class RunToLead:
    """A run to lead, and the way to the SuperLink."""

    consortium: str
    name: str
    address: str
    """Of the SuperLink, on loopback."""
    flower_run: int
    secret: str
    """File with what lets this process take the run's work."""
    nodes: dict[str, int]
    """Members and their nodes, as Flower knows them by the keys that were admitted."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> RunToLead:
        return cls(**json.loads(text))
