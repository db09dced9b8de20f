"""Survey a folder, or an archive, of pictures: each is decoded as a training would, and only counted."""

from __future__ import annotations

import base64
import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import DataError
from ..learning.pictures import Pictures
from ..learning.reading.picture_files import IMAGE, LABEL, PictureFolder
from ..learning.reading.picture_sizes import FORMATS

_SIDE = 32
"""Of the pictures by which equal ones are found."""
SHOWN = 5


@dataclass(frozen=True)
class Copies:
    """Pictures beyond the first of each, whatever their files are: equal once they are scaled to 32 x 32."""

    equal: int = 0
    across: int = 0
    """For the test, and equal to one that is trained on."""
    contradicting: int = 0
    """In another class than one that is equal to them."""


@dataclass(frozen=True)
class PictureSurvey:
    """What a folder holds. Counts, and names of folders and of files that cannot be read."""

    path: str
    files: int
    classes: dict[str, int]
    """Pictures that can be read by class, the most frequent first."""
    tested: int | None
    """Of those, how many are for the test; None if no folder says so."""
    unlabelled: int
    """In no folder of a class."""
    formats: dict[str, int]
    modes: dict[str, int]
    """As Pillow calls them, before they are brought to one."""
    sides: tuple[int, int, int] = (0, 0, 0)
    """Of the shorter sides in pixels: least, median, most."""
    pixels: tuple[int, int] = (0, 0)
    """Of a picture: median, most."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Why, by file."""
    copies: Copies = Copies()

    @property
    def used(self) -> int:
        return sum(self.classes.values())

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"used": self.used}


@dataclass(frozen=True)
class _Seen:
    """One picture that can be read."""

    label: str
    held_out: bool
    kind: str
    mode: str
    size: tuple[int, int]
    digest: bytes


def survey_pictures(path: Path) -> PictureSurvey:
    """Survey all pictures at `path`. Raises ``DataError`` if none is there."""
    folder = PictureFolder(path)
    if not folder.names:
        raise DataError(
            f"{path} holds no picture. Name a folder, or a .zip, with a folder per class."
        )
    seen: list[_Seen] = []
    unreadable: dict[str, str] = {}
    files = 0
    for split in folder.splits or [""]:
        for name, found in _looked_at(folder, split):
            files += 1
            if isinstance(found, str):
                unreadable[name] = found
            else:
                seen.append(found)
    labelled = [one for one in seen if one.label]
    shorter = np.array([min(one.size) for one in labelled] or [0])
    pixels = np.array([one.size[0] * one.size[1] for one in labelled] or [0])
    return PictureSurvey(
        path=str(path),
        files=files,
        classes=dict(Counter(one.label for one in labelled).most_common()),
        tested=sum(one.held_out for one in labelled) if folder.splits else None,
        unlabelled=len(seen) - len(labelled),
        formats=dict(Counter(one.kind for one in labelled).most_common()),
        modes=dict(Counter(one.mode for one in labelled).most_common()),
        sides=(int(shorter.min()), int(np.median(shorter)), int(shorter.max())),
        pixels=(int(np.median(pixels)), int(pixels.max())),
        unreadable=unreadable,
        copies=_copies(labelled),
    )


def _looked_at(folder: PictureFolder, split: str) -> Iterator[tuple[str, _Seen | str]]:
    """Each file's name, with what was seen, or why nothing was."""
    inputs = Pictures(_SIDE, 3, {})
    table = folder.read(IMAGE, [LABEL], split or None)
    columns = table.columns
    for row, (name, record) in enumerate(zip(columns["file"], columns[IMAGE], strict=True)):
        place = name or ""
        if record is None:
            yield place, table.faults.get(row, "").removeprefix(f"{place} ")
            continue
        try:
            yield place, _seen(inputs, record, columns[LABEL][row] or "", split == "test")
        except Exception as error:  # whatever a decoder says of it
            yield place, _reason(error)


def _seen(inputs: Pictures, record: str, label: str, held_out: bool) -> _Seen:
    (row,) = inputs.encode([record], inputs.numbers)
    with Image.open(io.BytesIO(base64.b64decode(record)), formats=FORMATS) as picture:
        kind, mode, size = picture.format or "", picture.mode, picture.size
    return _Seen(label, held_out, kind, mode, size, hashlib.sha256(row.tobytes()).digest())


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "is no picture of a format that is read"
    return str(error) if isinstance(error, ValueError) else f"cannot be decoded: {error}"


def _copies(pictures: Sequence[_Seen]) -> Copies:
    of: dict[bytes, list[_Seen]] = {}
    for one in pictures:
        of.setdefault(one.digest, []).append(one)
    groups = [group for group in of.values() if len(group) > 1]
    across = [group for group in groups if not all(one.held_out for one in group)]
    return Copies(
        equal=sum(len(group) - 1 for group in groups),
        across=sum(one.held_out for group in across for one in group),
        contradicting=sum(len(group) for group in groups if len({one.label for one in group}) > 1),
    )


def grouped_reasons(unreadable: dict[str, str]) -> list[str]:
    """Reasons with how many files have them, and the first of these."""
    count = Counter(unreadable.values())
    first = {why: name for name, why in reversed(unreadable.items())}
    return [
        f"{PurePosixPath(first[why])} {why}" + (f" (and {n - 1:,} more)" if n > 1 else "")
        for why, n in count.most_common(SHOWN)
    ]
