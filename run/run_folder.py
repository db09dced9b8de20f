"""A run on disk, in standard formats: what a person opens, and what a crash leaves behind.

Files appear whole or not at all. Events are appended line by line to metrics.jsonl; a line cut in
half by a crash is repaired on opening.
"""

from __future__ import annotations

import json
import os
import tomllib
from datetime import datetime
from pathlib import Path
from typing import Any

from ..errors import RunFolderError
from ..job import Job, read_toml
from ..storage.files import cannot_write, flush_folder
from ..storage.logs import append_line
from .events import E, Event, from_json
from .files import rounds_are_safe, write_whole

ANSWERS = "answers.json"
"""What a simulated chat model says of held-out dialogues, before training and after it: quotes records."""


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._before: str | None = None

    @staticmethod
    def free_path(path: Path | None, job: Job, runs: Path = Path("runs")) -> Path:
        """Where a new run may be written; `path` defaults to NAME-TIME in `runs`. Writes nothing."""
        path = path or runs / f"{job.name}-{datetime.now():%Y%m%d-%H%M%S}"
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunFolderError(
                f"{path} exists already. Resume an unfinished run with --resume --run-dir {path}, "
                "choose another folder with --run-dir, or remove it."
            )
        place = next(part for part in path.absolute().parents if part.exists())
        if not os.access(place, os.W_OK | os.X_OK):
            raise RunFolderError(
                f"{path} cannot be made: {place} cannot be written. Choose another folder with --run-dir."
            )
        return path

    @classmethod
    def create(cls, path: Path, job: Job) -> RunFolder:
        """A new folder with job.toml in it."""
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"{path} cannot be made: {error.strerror}") from None
        folder = cls(path)
        folder.write("job.toml", _toml(job).encode())
        folder._point_latest()
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing folder; ``RunFolderError`` when there is no run in it."""
        if not (path / "job.toml").is_file():
            raise RunFolderError(f"{path} holds no run (there is no job.toml in it).")
        folder = cls(path)
        folder._repair_events()
        return folder

    @property
    def job(self) -> Job:
        return Job.build(read_toml(self.path / "job.toml"), source=str(self.path / "job.toml"))

    @property
    def events(self) -> Path:
        return self.path / "metrics.jsonl"

    def write(self, name: str, content: bytes, *, secret: bool = False) -> None:
        """Write a file whole, for this user alone if it is secret; a full disk leaves the old one."""
        write_whole(self.path / name, content, secret=secret)

    def write_json(self, name: str, values: Any, *, secret: bool = False) -> None:
        self.write(name, (json.dumps(values, indent=2) + "\n").encode(), secret=secret)

    def read_json(self, name: str) -> Any:
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{self.path / name} cannot be read: {error}") from None

    def append(self, event: Event) -> None:
        """Add one event to metrics.jsonl."""
        begun = self.events.exists()
        try:
            # What is decided on figures has to be decided alike after a power cut.
            append_line(self.events, json.dumps(event.to_json()), lasting=True)
            if not begun:
                flush_folder(self.path)
        except OSError as error:
            raise rounds_are_safe(cannot_write(self.events, error)) from None

    def read_events(self) -> list[dict[str, Any]]:
        """All lines, as they were written."""
        if not self.events.exists():
            return []
        lines = self.events.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def told(self, *kinds: type[E]) -> list[E]:
        """The events of these kinds, oldest first."""
        found = map(from_json, self.read_events())
        return [event for event in found if isinstance(event, kinds)]

    def _repair_events(self) -> None:
        """Cut off a last line that a crash left unfinished."""
        if not self.events.exists():
            return
        content = self.events.read_bytes()
        if content and not content.endswith(b"\n"):
            os.truncate(self.events, content.rfind(b"\n") + 1)

    def _point_latest(self) -> None:
        """Let PARENT/latest name this run, for people who type."""
        link = self.path.parent / "latest"
        self._before = os.readlink(link) if link.is_symlink() else None
        _point(link, self.path.name)

    def take_back_latest(self) -> None:
        """Let PARENT/latest name again what it named before this run was created, of which nothing came."""
        link = self.path.parent / "latest"
        if link.is_symlink() and os.readlink(link) == self.path.name:
            _point(link, self._before)


def _point(link: Path, target: str | None) -> None:
    try:
        if link.is_symlink():
            link.unlink()
        if target is not None and not link.exists():
            link.symlink_to(target)
    except OSError:
        pass  # a convenience; some file systems have no links


def as_kept(job: Job) -> Job:
    """The job as it is read again from a run's folder: what is signed is what will be sent."""
    return Job.build(tomllib.loads(_toml(job)), source="the job")


def _toml(job: Job) -> str:
    import tomli_w

    return tomli_w.dumps(job.model_dump(mode="json", exclude_none=True))
