"""Figures of a benchmark in one JSON file: what is there is not measured again, after a stop or elsewhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from umbel.storage.files import write_durably

Figures = dict[str, Any]


class Kept:
    """Figures by what was measured: all settings that they depend on. Without a path they are not kept."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        there = path is not None and path.exists()
        self._found: dict[str, Figures] = json.loads(path.read_text("utf-8")) if there else {}

    def figures(self, said: Figures, make: Callable[[], Figures]) -> Figures:
        """Of these settings: kept ones, else made and kept, the whole file at once."""
        token = _token(said)
        if token not in self._found:
            self._found[token] = {"of": said, "figures": make()}
            if self._path:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_durably(self._path, (json.dumps(self._found, indent=1) + "\n").encode())
        found: Figures = self._found[token]["figures"]
        return found

    def has(self, said: Figures) -> bool:
        return _token(said) in self._found


def _token(said: Figures) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
