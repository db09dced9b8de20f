"""What happened in a run, line by line: ``metrics.jsonl``, typed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RunFolderError
from ..quantities import NOT_DEFINED, metric_text, undefined

Json = dict[str, Any]


def number(values: Mapping[str, Any] | None, key: str) -> float | None:
    """`values[key]` as a float; None when it is absent, null or not a number."""
    value = (values or {}).get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return None
    return float(value)


def figure_text(values: Mapping[str, Any] | None, key: str) -> str:
    """`values[key]` as people read it; of a test whose counts leave it undefined, that it is."""
    return NOT_DEFINED if undefined(values, key) else metric_text(key, number(values, key))


@dataclass(frozen=True)
class Share:
    """What one client holds, in examples; `labels` counts its training examples by class."""

    train: int
    test: int
    labels: dict[str, int]


@dataclass(frozen=True)
class Partition:
    """How the examples are spread over the clients; `labels` is empty for language models."""

    labels: list[str]
    clients: dict[str, Share]


@dataclass(frozen=True)
class Round:
    """One round that was run: who answered, what it cost."""

    number: int
    attempt: int
    seconds: float
    clients: list[str]
    failed: dict[str, str]
    bytes_up: int
    bytes_down: int
    loss: float | None
    epsilon: dict[str, float]
    summed: bool
    """Whether a model came of it; else it was given up, after its last attempt or for now."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics on held-out examples after a round; round 0 is before training.

    `metrics` are exact where a simulation could read them; `seen` are what a deployment's server sees,
    with the noise of private counts.
    """

    round: int
    metrics: Json
    clients: dict[str, Json]
    seen: Json


@dataclass(frozen=True)
class Failure:
    """A client that did not answer, or answered with an error, in one attempt of a round."""

    round: int
    attempt: int
    client: str
    reason: str


class Events:
    """metrics.jsonl, where of lines about the same round the later one wins."""

    def __init__(self, path: Path) -> None:
        self.partition: Partition | None = None
        self.rounds: dict[int, Round] = {}
        self.evaluations: dict[int, Evaluation] = {}
        self.holdouts: dict[int, Evaluation] = {}
        """Tests of the server itself, on public records."""
        self.decisions: dict[str, Json] = {}
        """Where training "ended" early, and which model was "kept"."""
        self.failures: dict[tuple[int, int, str], Failure] = {}
        for line in _read_lines(path):
            match line.get("event"):
                case "partition":
                    self.partition = _partition(line)
                case "round":
                    entry = _round(line)
                    self.rounds[entry.number] = entry
                    # An attempt that a later one replaced still tells who failed in it.
                    for client, reason in entry.failed.items():
                        key = (entry.number, entry.attempt, client)
                        self.failures[key] = Failure(*key, reason)
                case "evaluation":
                    test = _evaluation(line)
                    self.evaluations[test.round] = test
                case "holdout":
                    test = _evaluation(line)
                    self.holdouts[test.round] = test
                case "ended" | "kept" as kind:
                    self.decisions[kind] = line


def _evaluation(line: Json) -> Evaluation:
    seen = dict(line.get("metrics") or {})
    return Evaluation(
        int(line.get("round") or 0),
        dict(line.get("exact") or {}) or seen,
        dict(line.get("clients") or {}),
        seen,
    )


def _partition(line: Json) -> Partition:
    shares = {
        str(name): Share(
            int(held.get("train") or 0), int(held.get("test") or 0), dict(held.get("labels") or {})
        )
        for name, held in (line.get("clients") or {}).items()
    }
    return Partition([str(label) for label in line.get("labels") or []], shares)


def _round(line: Json) -> Round:
    return Round(
        number=int(line.get("round") or 0),
        attempt=int(line.get("attempt") or 1),
        seconds=number(line, "seconds") or 0.0,
        clients=[str(name) for name in line.get("clients") or []],
        failed={str(name): str(why) for name, why in (line.get("failed") or {}).items()},
        bytes_up=int(line.get("bytes_up") or 0),
        bytes_down=int(line.get("bytes_down") or 0),
        loss=number(line, "loss"),
        epsilon={
            str(name): float(value)
            for name, value in (line.get("epsilon") or {}).items()
            if value is not None
        },
        summed=bool(line.get("aggregated", True)),
    )


def _read_lines(path: Path) -> Iterator[Json]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from None
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            # A crash cuts the line that was being written; a resumed run appends after it.
            continue
        if isinstance(value, dict):
            yield value
