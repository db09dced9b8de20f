"""How large a picture may be: what it takes to decode one follows from its pixels, bytes and scans.

A data owner declares the most pixels, so that the time in which its pictures can be read is known before
any of them is (``learning.picture_costs``).
"""

from __future__ import annotations

import base64
import io
import re

from PIL import Image

from .picture_limits import MOST_PIXELS
from .table import Table

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""As Pillow calls them."""
MOST_BYTES = 64 << 20
"""Of one file."""
MOST_SCANS = 24
"""Of a JPEG. Each goes over the whole picture again, and a small file can have thousands."""
_BESIDE = 64 << 10
"""Bytes of a file beside its pixels: what a camera says of it."""
_A_PIXEL = 8
"""Most bytes that a pixel needs: four channels of 16 bits."""
_MOST_SEGMENTS = 10_000
_MARK = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
"""In a JPEG, where a segment begins."""


def largest_file(pixels: int) -> int:
    """Most bytes of a file whose picture has so many pixels."""
    return min(MOST_BYTES, _A_PIXEL * pixels + _BESIDE)


def check_size(picture: Image.Image, data: bytes, pixels: int = MOST_PIXELS) -> None:
    """``ValueError`` for a picture of more `pixels`, or one that takes longer than its pixels say.

    Of it, only what stands before the pixels is read.
    """
    width, height = picture.size
    if width * height > pixels:
        raise ValueError(f"has {width} x {height} pixels, more than {pixels:,}")
    if picture.format == "JPEG" and (scans := _scans(data)) > MOST_SCANS:
        raise ValueError(f"has {scans} scans, more than {MOST_SCANS}: save it again")


def within(table: Table, column: str, pixels: int) -> Table:
    """The table without pictures of more `pixels`, or of files that are too large for so few.

    What is no picture stays: it is left out when it is decoded, which takes no time.
    """
    values, faults = list(table.columns[column]), dict(table.faults)
    for row, value in enumerate(values):
        if value and (fault := _too_large(value, pixels)):
            faults[row], values[row] = f"{table.place(row)} {fault}", None
    columns = table.columns | {column: values}
    return Table(table.source, table.unit, table.numbers, columns, faults, table.notes)


def _too_large(record: str, pixels: int) -> str:
    most = largest_file(pixels)
    if len(record) > 4 * -(-most // 3):
        return f"has a file of more than {most:,} bytes, too many for {pixels:,} pixels"
    try:
        data = base64.b64decode(record, validate=True)
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            check_size(picture, data, pixels)
    except ValueError as error:
        return str(error)
    except Exception:
        return ""
    return ""


def _scans(data: bytes) -> int:
    """How many scans the first picture of a JPEG file has; pictures within its segments do not count."""
    at = found = 0
    for _ in range(_MOST_SEGMENTS):
        mark = _MARK.search(data, at)
        if mark is None or mark[0] == b"\xff\xd9":
            return found
        found += mark[0] == b"\xff\xda"
        at = mark.end()
        if mark[0] != b"\xff\xd8":
            at += int.from_bytes(data[at : at + 2], "big")
    return _MOST_SEGMENTS
