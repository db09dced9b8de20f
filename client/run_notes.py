"""What an agent notes of each run: its last order, the seconds that its training took, whether it is over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..storage.files import write_durably
from .run_files import of_run


class RunNotes:
    """A file for each run, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, run: str) -> dict[str, Any]:
        """What is noted of a run; nothing of one that is unknown."""
        try:
            found: dict[str, Any] = json.loads(self._file(run).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return found

    def add(self, run: str, **values: Any) -> None:
        """Note more of a run, durably, in place of what had the same name."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        write_durably(self._file(run), json.dumps(self.of(run) | values).encode())

    def seconds(self, run: str) -> float:
        """Of training that count for a run at this owner: if answers wait, public ones."""
        return float(self.of(run).get("seconds", 0.0))

    def _file(self, run: str) -> Path:
        return of_run(self._folder, run, ".json")
