"""What is in a run's folder, read as it is: a run may go on, have crashed, or be of an older version."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..errors import JobError, RunFolderError
from ..job import Job
from .events import Evaluation, Event, Holdout, Json, Round, from_json

T = TypeVar("T", Round, Evaluation, Holdout)


@dataclass(frozen=True)
class Failure:
    """A client that did not answer, or answered with an error, in one attempt of a round; "" if what was
    collected came to nothing, and no client did that."""

    round: int
    attempt: int
    client: str
    reason: str


def events_of(path: Path) -> Iterator[Event]:
    """What is on record; a line that a crash cut is passed over, for a resumed run appends after it."""
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
            continue
        if isinstance(value, dict) and (event := from_json(value)) is not None:
            yield event


def each_once(events: Iterable[T]) -> list[T]:
    """Of events about the same round the later one, in the order of rounds.

    A round that is made stays so: an attempt that came to nothing, even if it is told of later, replaces no
    whole one. (An asynchronous job may make a version while another sum still waits for its members.)
    """
    last = {event.round: event for event in sorted(events, key=_is_whole)}
    return [last[round_] for round_ in sorted(last)]


def _is_whole(event: Event) -> bool:
    return not isinstance(event, Round) or event.aggregated


def failures_of(rounds: Sequence[Round]) -> list[Failure]:
    """Also of attempts that a later one replaced: they tell who failed in them."""
    found = {
        (event.round, event.attempt, client): reason
        for event in rounds
        for client, reason in event.failed.items()
    }
    found |= {(event.round, event.attempt, ""): event.lacks for event in rounds if event.lacks}
    return [Failure(*key, found[key]) for key in sorted(found)]


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from None


def read_object(path: Path) -> Json:
    try:
        value = json.loads(read_text(path))
    except ValueError as error:
        raise RunFolderError(f"{path} is damaged: {error}") from None
    if not isinstance(value, dict):
        raise RunFolderError(f"{path} is damaged: it is not a JSON object")
    return value


def read_job(path: Path, text: str) -> Json:
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RunFolderError(f"{path} is not valid TOML: {error}") from None
    try:
        return Job.build(values).model_dump(mode="json")
    except JobError:
        # Written by another version: report what it says, without this version's defaults.
        return values
