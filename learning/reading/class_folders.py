"""Folders in which each file is a record, and the folder around a file its class: pictures, and texts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

_SPLITS = {"train": "train", "training": "train", "test": "test", "val": "test", "valid": "test"}
_SPLITS |= {"validation": "test", "dev": "test"}
UNTRAINED = "untrained"
"""In place of a split: all files but those that a folder says are trained on."""
_OF_PARTS = {
    None: ("", "train"),
    "train": ("", "train"),
    "test": ("test",),
    UNTRAINED: ("", "test"),
}
_DATASETS = ("state.json", "dataset_dict.json")


class ClassFolders:
    """Where the files lie, with slashes; those of a class in a folder of its name.

    Folders around these may say what is trained and tested on ("train", "test", "val", ...); a file for
    which none does is trained on. Which side one is on follows from its own path.
    """

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        self.path = path
        self.names = sorted(names)
        self._parts = [_split_of(name) for name in self.names]

    @property
    def splits(self) -> list[str]:
        """Of "train" and "test" those that some file is for; empty if no folder says so."""
        return sorted({part or "train" for part in self._parts}) if any(self._parts) else []

    def of(self, split: str | None, *, by_path: bool = False) -> list[str]:
        """Those of that split; None: those for training, if there are some, else all.

        by_path: None are those that no folder says are tested on, and `split` may be `UNTRAINED`. Guarantee:
        whether a file is among them then follows from its own path.
        """
        if by_path:
            parts = _OF_PARTS[split]
            return [n for n, part in zip(self.names, self._parts, strict=True) if part in parts]
        if not self.splits:
            return self.names
        wanted = split or self.splits[-1]  # of "test" and "train"
        return [
            n
            for n, part in zip(self.names, self._parts, strict=True)
            if (part or "train") == wanted
        ]


def class_of(name: str) -> str | None:
    """The name of the folder around a file; None if there is none."""
    return PurePosixPath(name).parent.name or None


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder around it, is one that systems and programs keep for themselves."""
    return any(
        part.startswith((".", "__MACOSX")) and part != ".." for part in PurePosixPath(name).parts
    )


def is_saved_dataset(path: Path) -> bool:
    """Whether ``datasets`` wrote this folder."""
    return any((path / name).exists() for name in _DATASETS)


def lies_inside(folder: Path, name: str) -> bool:
    """Whether a file lies in a folder also if links are followed. Raises ``OSError``, ``ValueError`` or
    ``RuntimeError`` for what is no name of a file, or a link to itself."""
    return (folder / name).resolve().is_relative_to(folder.resolve())


def _split_of(name: str) -> str:
    """ "train" or "test", if a folder around that of the file's class is called so; else empty."""
    around = PurePosixPath(name).parts[:-2]
    return next((_SPLITS[p.lower()] for p in around if p.lower() in _SPLITS), "")
