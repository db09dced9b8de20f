"""Whether a picture takes longer to read than an owner's agent plans for its size (``learning.pace``)."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SIDE, FEW_SIDE = 400, 32
READ_AS = 16
TURNS = 3
KINDS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("RGBA", "PNG", {}),
    ("P", "PNG", {"transparency": 0}),
    ("RGB", "JPEG", {"quality": 100, "progressive": True}),
    ("CMYK", "JPEG", {"quality": 90}),
    ("RGBA", "WEBP", {"quality": 50}),
    ("RGB", "BMP", {}),
    ("RGB", "GIF", {}),
    ("CMYK", "TIFF", {"compression": "tiff_lzw"}),
)
"""Mode, format and how it is saved, of noise: others than the agent tries; each format that is accepted."""


class Tried:
    """What ``pace`` needs of a learner."""

    longest = 0

    def __init__(self, inputs: Any) -> None:
        self.inputs = inputs


def measured(side: int, clock: Callable[[], float] = time.process_time) -> list[dict[str, Any]]:
    """Of each kind the seconds of `clock` that a picture takes, the quickest of a few, and those planned."""
    from PIL import Image

    from umbel.learning.pace import _read
    from umbel.learning.pictures import Pictures
    from umbel.learning.reading.picture_files import encoded

    inputs = Pictures(READ_AS, 3, {})
    planned = _read(Tried(inputs), side**2, clock)  # type: ignore[arg-type]
    values = np.random.default_rng(0).integers(0, 256, (side, side, 4), np.uint8)
    rows = []
    for mode, kind, options in KINDS:
        file = io.BytesIO()
        Image.fromarray(values).convert(mode).save(file, kind, **options)
        record, took = encoded(file.getvalue()), []
        for _ in range(TURNS):
            begun = clock()
            inputs.encode([record], 0)
            took.append(clock() - begun)
        rows.append({"kind": f"{kind} {mode}", "seconds": min(took), "planned": planned})
    return rows


def line(row: dict[str, Any]) -> str:
    return f"{row['kind']:9s} read in {1000 * row['seconds']:.2f} ms, {1000 * row['planned']:.1f} planned"


def missed(rows: list[dict[str, Any]]) -> list[str]:
    return [f"{line(row)}: longer" for row in rows if row["seconds"] >= row["planned"]]
