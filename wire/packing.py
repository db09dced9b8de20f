"""Values as bytes: single arrays, and byte strings, each in what Flower sends."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..errors import MessageError

if TYPE_CHECKING:
    from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

SECAGG = "secagg"
"""Key of the record in which the bytes of secure aggregation travel."""
_BYTES = "umbel.bytes"
SMALL = 2**20
"""Bytes: smaller messages travel together with others of their kind."""
_PIECE = 2**24
"""Bytes, a multiple of every word's size: longer messages travel in pieces, which need less memory."""


def pack(array: np.ndarray) -> Array:
    """One array as Flower sends it; a large one that came from there is not copied."""
    from flwr.app import Array

    if array.dtype != np.float32:
        return Array(np.asarray(array, order="C"))
    if (data := _bytes_behind(array)) is not None:
        return Array("float32", array.shape, "numpy.ndarray", data)
    # The bytes of numpy.save, whose header takes longer to make than a small array to copy.
    return Array("float32", array.shape, "numpy.ndarray", _header(array.shape) + array.tobytes())


def _bytes_behind(array: np.ndarray) -> bytes | None:
    """The bytes that ``_packed_here`` made this view of: a model that travels on is not copied."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    header = _header(array.shape)
    if type(base) is not bytes or len(base) != len(header) + array.nbytes:
        return None
    start = np.frombuffer(base, dtype=np.uint8).__array_interface__["data"][0] + len(header)
    whole = array.flags.c_contiguous and array.__array_interface__["data"][0] == start
    return base if whole and base.startswith(header) else None


def parsed(name: str, array: Array) -> np.ndarray:
    """Flower parses without unpickling; whatever else is wrong with the bytes is refused here."""
    try:
        value = _packed_here(array)
        if value is None:
            value = array.numpy()
    except Exception as error:
        raise MessageError(f"Array {name!r} cannot be read: {error}") from None
    if not isinstance(value, np.ndarray) or value.dtype != np.float32:
        raise MessageError(f"Array {name!r} does not hold the float32 values that it claims")
    return value


def _packed_here(array: Array) -> np.ndarray | None:
    """A read-only view of the values, if the bytes are laid out as ``to_array_record`` does.

    ``Array.numpy`` copies the values, and compiles the text of the header again for every array.
    """
    shape = tuple(array.shape)
    start = len(array.data) - 4 * math.prod(shape)
    if array.stype != "numpy.ndarray" or array.data[: max(0, start)] != _header(shape):
        return None
    return np.frombuffer(array.data, dtype=np.float32, offset=start).reshape(shape)


@lru_cache(maxsize=1024)
def _header(shape: tuple[int, ...]) -> bytes:
    """What ``numpy.save`` writes before the values of a C-ordered float32 array."""
    written = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        written, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    return written.getvalue()


def to_bytes_record(**parts: bytes) -> ConfigRecord | ArrayRecord:
    """Pack byte strings; long ones as arrays, because Flower cuts those into what a network takes.

    An array takes three requests between machines, a setting none of its own.
    """
    from flwr.app import Array, ArrayRecord, ConfigRecord

    if sum(map(len, parts.values())) < SMALL:
        return ConfigRecord(dict(parts))
    cut = {
        f"{name}.{start // _PIECE}" if start else name: part[start : start + _PIECE]
        for name, part in parts.items()
        for start in range(0, max(1, len(part)), _PIECE)
    }
    return ArrayRecord({n: Array("uint8", (len(b),), _BYTES, b) for n, b in cut.items()})


def bytes_of(content: RecordDict, name: str) -> bytes:
    """One byte string of a message's ``SECAGG`` record; a ``MessageError`` if there is none."""
    first, *others = pieces_of(content, name)
    return b"".join((first, *others)) if others else first


def pieces_of(content: RecordDict, name: str) -> list[bytes]:
    """The same as it came: a long one in pieces, so that nobody needs it twice in memory."""
    record: Mapping[str, Any] = content.get(SECAGG) or {}
    pieces: list[bytes] = []
    key = name
    while not pieces or key in record:
        found = record.get(key)
        if isinstance(found, bytes):
            return [found]
        if (getattr(found, "dtype", ""), getattr(found, "stype", "")) != ("uint8", _BYTES):
            raise MessageError(f"A message of secure aggregation carries no {name!r}")
        pieces.append(bytes(cast(Any, found).data))
        key = f"{name}.{len(pieces)}"
    return pieces
