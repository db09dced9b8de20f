"""How large a picture may be: what it takes to decode one follows from its pixels, bytes and scans.

A data owner declares the most pixels, so that the time in which its pictures can be read is known before
any of them is (``learning.picture_costs``).
"""

from __future__ import annotations

import base64
import io

from PIL import Image

from .jpeg_scans import scans_of
from .picture_limits import MOST_PIXELS
from .tiff_tiles import check_tiles, first_tags

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
_MOST_PROFILES = 8
"""Of colours in a PNG: a kilobyte unpacks to a megabyte."""
_RUN_LENGTHS = (1, 2)
"""Compressions of BMP, which Pillow decodes code by code in Python."""


def largest_file(pixels: int) -> int:
    """Most bytes of a file whose picture has so many pixels."""
    return min(MOST_BYTES, _A_PIXEL * pixels + _BESIDE)


def open_picture(data: bytes, pixels: int = MOST_PIXELS) -> Image.Image:
    """The picture in the bytes of a file; of its pixels nothing is decoded yet.

    Guarantee: it takes a time and a memory that are bounded by `pixels` and the number of bytes, now and when
    it is decoded. ``ValueError`` for a picture of more `pixels`, or one that would take longer than they say.
    """
    _check_bytes(data)
    picture = Image.open(_Stream(data), formats=FORMATS)
    width, height = picture.size
    if width * height > pixels:
        raise ValueError(f"has {width} x {height} pixels, more than {pixels:,}")
    if picture.format == "TIFF":
        check_tiles(data, pixels, MOST_SCANS)
    if picture.format == "BMP" and picture.info.get("compression") in _RUN_LENGTHS:
        raise ValueError("is a BMP with run lengths: save it as PNG")
    return picture


def fault_of(data: bytes, pixels: int) -> str:
    """Why a picture has no place among those of so many `pixels`; empty if it has one.

    What is no picture has one: it is left out when it is decoded, which takes no time.
    """
    most = largest_file(pixels)
    if len(data) > most:
        return f"has a file of {len(data):,} bytes, more than {most:,} for {pixels:,} pixels"
    try:
        open_picture(data, pixels).close()
    except ValueError as error:
        return str(error)
    except Exception:
        return ""
    return ""


def fault_of_record(record: str, pixels: int) -> str:
    """The same of the bytes in base64."""
    most = largest_file(pixels)
    if len(record) > 4 * -(-most // 3):
        return f"has a file of more than {most:,} bytes, too many for {pixels:,} pixels"
    try:
        data = base64.b64decode(record, validate=True)
    except ValueError as error:
        return str(error)
    return fault_of(data, pixels)


def _check_bytes(data: bytes) -> None:
    """What can be seen before Pillow looks at a file, which already takes long for some."""
    if data.startswith(b"\xff\xd8") and (scans := scans_of(data)) > MOST_SCANS:
        raise ValueError(f"has {scans} scans, more than {MOST_SCANS}: save it again")
    if data.startswith(b"\x89PNG") and data.count(b"iCCP") > _MOST_PROFILES:
        raise ValueError(f"has more than {_MOST_PROFILES} profiles of colours: save it again")
    if data[:2] in (b"II", b"MM"):
        first_tags(data)


class _Stream(io.BytesIO):
    """The bytes of a file for Pillow, which reads each part of one in Python.

    Guarantee: the number of parts that are read is bounded by its length; ``ValueError`` for more, as of
    metadata in millions of parts.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._left = 20_000 + len(data) // 256

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise ValueError("consists of too many parts for its bytes: save it again")
        return super().read(size)
