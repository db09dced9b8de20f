"""Pictures that nobody took, of the kinds that take longest to decode for their size.

By them an owner's machine finds, before a record is read, how long any picture of a declared size
takes (``pace``). That grows with the pixels, for each format in its own way, and among pictures of a format
it is longest for noise, in which nothing repeats. Pixels, bytes and parts of a file, scans of a JPEG and
tiles of a TIFF are bounded (``reading.picture_sizes``).
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from PIL import Image

from .reading.picture_files import encoded

_SIDE = 512
"""Pixels of a side of those that are tried; larger ones take longer in proportion."""
_SLOW: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("RGBA", "PNG", {"compress_level": 1}),
    ("RGBA", "WEBP", {"quality": 100, "method": 0}),
    ("RGBA", "WEBP", {"lossless": True, "quality": 0, "method": 0}),
    ("CMYK", "JPEG", {"quality": 95, "progressive": True}),
)
"""Mode, format and how it is saved: the slowest of those that Pillow writes."""


def slow_pictures(most: int) -> tuple[list[str], float]:
    """Records of these pictures, and how many times as long one of `most` pixels takes."""
    side = max(2, min(_SIDE, math.isqrt(most)))
    noise = np.random.default_rng(11).integers(0, 256, (side, side, 4), np.uint8)
    records = []
    for mode, kind, options in _SLOW:
        file = io.BytesIO()
        Image.fromarray(noise, mode).save(file, kind, **options)
        records.append(encoded(file.getvalue()))
    return records, max(1.0, most / side**2)
