"""Tensors at rest: sealed chunk by chunk under a key of their own, and read back whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ..privacy.secagg.keys import derive, seal, unseal
from ..wire.arrays import Arrays

_CHUNK = 1 << 24
"""Bytes that are sealed together."""
_TAG = 16


def sealed(key: bytes, what: bytes, arrays: Arrays) -> Iterator[bytes]:
    """The numbers, chunk by chunk; a chunk that is missing or out of place does not open.

    key: of these tensors alone. what: which they are; with another they do not open either.
    """
    waiting, number = bytearray(), 0
    for array in arrays.values():
        waiting += np.ascontiguousarray(array, dtype="<f4").tobytes()
        while len(waiting) >= _CHUNK:
            yield seal(_chunk_key(key, what, number), bytes(waiting[:_CHUNK]), what)
            del waiting[:_CHUNK]
            number += 1
    if waiting or not number:
        yield seal(_chunk_key(key, what, number), bytes(waiting), what)


def opened(
    path: Path, key: bytes, what: bytes, shapes: Mapping[str, tuple[int, ...]]
) -> Arrays | None:
    """The tensors that were sealed in a file; None if they are not there, whole and under this key."""
    sizes = {name: int(np.prod(shape, dtype=np.int64)) for name, shape in shapes.items()}
    flat = np.empty(sum(sizes.values()), dtype="<f4")
    if not _open(path, key, what, flat):
        return None
    found, at = {}, 0
    for name, shape in shapes.items():
        found[name] = flat[at : at + sizes[name]].reshape(shape)
        at += sizes[name]
    return found


def _open(path: Path, key: bytes, what: bytes, flat: np.ndarray) -> bool:
    data = flat.data.cast("B")
    try:
        with path.open("rb") as file:
            for number, start in enumerate(range(0, max(1, len(data)), _CHUNK)):
                part = data[start : start + _CHUNK]
                box = file.read(len(part) + _TAG)
                plain = unseal(_chunk_key(key, what, number), box, what)
                if plain is None or len(plain) != len(part):
                    return False
                part[:] = plain
            return not file.read(1)
    except OSError:
        return False


def _chunk_key(key: bytes, what: bytes, number: int) -> bytes:
    return derive(key, 32, "sealed tensors", what, number.to_bytes(8, "big"))
