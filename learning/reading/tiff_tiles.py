"""What a TIFF says of its tiles, which are unpacked whole, however little of them lies in the picture."""

from __future__ import annotations

import struct

from .jpeg_scans import starts_of_scans

_COMPRESSION, _STRIPS, _TILES = 259, 273, 324
_SIZES = _WIDTH, _LENGTH, _TILE_WIDTH, _TILE_LENGTH = 256, 257, 322, 323
_JPEG = (6, 7)
_WHOLE = {1: "B", 3: "H", 4: "L", 16: "Q"}
"""Types of whole numbers."""
_SIZED = {1: (1, 2, 6, 7), 2: (3, 8), 4: (4, 9, 11, 13), 8: (5, 10, 12, 16, 17, 18)}
_BYTES = {kind: size for size, kinds in _SIZED.items() for kind in kinds}
"""Of a value, by its type."""
_MOST_TILES = 100_000
_AGAIN = "save it again"


def check_tiles(data: bytes, pixels: int, scans: int) -> None:
    """``ValueError`` if the tiles of its first picture have more than `pixels`, or more JPEG `scans` in all.

    Strips need no check: libtiff cuts them to the picture's height.
    """
    values = first_tags(data)
    if _TILE_WIDTH in values or _TILE_LENGTH in values:
        width, height, across, down = (values.get(tag, 0) for tag in _SIZES)
        if not (width and height and across and down):
            raise ValueError(f"has tiles of no plain size: {_AGAIN}")
        padded = -(-width // across) * across * -(-height // down) * down
        if padded > pixels:
            raise ValueError(
                f"has {padded:,} pixels in its tiles of {across} x {down}, more than {pixels:,}"
            )
    if values.get(_COMPRESSION) in _JPEG and starts_of_scans(data) > scans:
        raise ValueError(f"has more than {scans} JPEG scans: save it as JPEG")


def first_tags(data: bytes) -> dict[int, int]:
    """The numbers in the first directory (TIFF 6.0, section 2), by tag; 0 for what is no single number.

    ``ValueError`` for a directory that is damaged, names a tag twice (readers differ in which they take),
    lists too many strips or tiles, or values of more bytes than the file has: libtiff copies each.
    """
    kinds = {b"II*\0": ("<", "L", "H", "L"), b"MM\0*": (">", "L", "H", "L")}
    kinds |= {b"II+\0": ("<", "Q", "Q", "Q")}
    if data[:4] not in kinds:
        raise ValueError(f"is a TIFF of an unusual kind: {_AGAIN}")
    order, place, many, wide = kinds[data[:4]]
    entry, number = struct.Struct(f"{order}HH{wide}"), struct.Struct(f"{order}{wide}").size
    found: dict[int, int] = {}
    total = 0
    try:
        (at,) = struct.unpack_from(order + place, data, 8 if place == "Q" else 4)
        (entries,) = struct.unpack_from(order + many, data, at)
        at += struct.calcsize(order + many)
        size = entry.size + number
        for start in range(at, at + min(entries, 1 << 16) * size, size):
            tag, kind, count = entry.unpack_from(data, start)
            if tag in found:
                raise ValueError(f"names a tag twice ({tag}): {_AGAIN}")
            if tag in (_STRIPS, _TILES) and count > _MOST_TILES:
                raise ValueError(f"has {count:,} strips or tiles, more than {_MOST_TILES:,}")
            total += count * _BYTES.get(kind, 0)
            if total > len(data):
                raise ValueError(f"has tags of more bytes than the file: {_AGAIN}")
            form = order + _WHOLE.get(kind, "")
            here = count == 1 and 0 < struct.calcsize(form) <= number
            found[tag] = struct.unpack_from(form, data, start + entry.size)[0] if here else 0
    except struct.error:
        raise ValueError(f"has a damaged directory: {_AGAIN}") from None
    return found
