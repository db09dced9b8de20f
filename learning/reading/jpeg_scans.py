"""How many scans a JPEG file has: a decoder goes over the whole picture for each, and one takes few bytes."""

from __future__ import annotations

import re

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
"""A zero follows an 0xFF among the codes of pixels; fill bytes and restarts stand for themselves."""
_START_OF_SCAN = 0xDA
_END_OF_IMAGE = 0xD9
_MOST_MARKERS = 10_000


def scans_of(data: bytes) -> int:
    """Of the first picture in it; an upper bound from its first scan on.

    Segments are skipped as libjpeg skips them (ITU T.81, B.1.1.4), so that previews within them do not
    count and nothing in them ends the picture. From the first scan on every start of a scan counts, also one
    within a segment.
    """
    at, first, end = 2, None, len(data)
    for _ in range(_MOST_MARKERS):
        marker = _MARKER.search(data, at)
        if marker is None:
            break
        at, code = marker.end(), marker[0][1]
        if code == _END_OF_IMAGE:
            end = at
            break
        if code == _START_OF_SCAN and first is None:
            first = marker.start()
        if code >= 0xC0 and code != 0xD8:  # what is below, and the start of an image, has no length
            at += int.from_bytes(data[at : at + 2], "big")
    else:
        return _MOST_MARKERS
    return 0 if first is None else starts_of_scans(data[first:end])


def starts_of_scans(data: bytes) -> int:
    """Wherever they are."""
    return data.count(bytes((0xFF, _START_OF_SCAN)))
