"""The tensors of a model or an update as records that travel, and how they are checked on arrival."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..errors import MessageError
from .packing import SMALL, pack, parsed

if TYPE_CHECKING:
    from flwr.app import ArrayRecord

Arrays = dict[str, np.ndarray]
"""Tensors of a model or an update: name -> float32 array, in the model's own order."""
_PACKED = "packed"


def to_array_record(arrays: Arrays | Iterable[tuple[str, np.ndarray]]) -> ArrayRecord:
    """Pack float32 arrays; names and order are kept. Pairs are packed one by one, as they come."""
    from flwr.app import ArrayRecord

    pairs = arrays.items() if isinstance(arrays, dict) else arrays
    return ArrayRecord({name: pack(array) for name, array in pairs})


def packed(record: ArrayRecord) -> ArrayRecord:
    """The same float32 arrays, small ones as one: what ``to_arrays`` takes apart again.

    Between machines Flower sends every array, and every piece of it, in requests of its own. A large
    array is not copied.
    """
    from flwr.app import ArrayRecord

    small = {n: a for n, a in record.items() if a.dtype == "float32" and len(a.data) < SMALL}
    if len(small) < 2:
        return record
    flat = np.concatenate([parsed(name, small[name]).reshape(-1) for name in sorted(small)])
    large = {name: array for name, array in record.items() if name not in small}
    return ArrayRecord({_PACKED: pack(flat), **large})


def _unpacked(arrays: Arrays, like: Mapping[str, tuple[int, ...]]) -> Arrays:
    """The arrays of `like`, in its order: those that were packed are the ones that are missing."""
    flat, at = arrays.pop(_PACKED), 0
    found, missing = dict(arrays), sorted(like.keys() - arrays.keys())
    total = sum(math.prod(like[name]) for name in missing)
    if flat.shape != (total,):
        raise MessageError(f"Packed values of shape {flat.shape}, expected {total}")
    for name in missing:
        size = math.prod(like[name])
        found[name] = flat[at : at + size].reshape(like[name])
        at += size
    return {name: found[name] for name in [*like, *(found.keys() - like.keys())]}


def to_arrays(record: ArrayRecord, like: Mapping[str, tuple[int, ...]] | None = None) -> Arrays:
    """Unpack arrays, refusing other dtypes, non-finite values, and other names or shapes than `like`."""
    arrays: Arrays = {}
    for name, array in record.items():
        if array.dtype != "float32":
            raise MessageError(f"Array {name!r} has dtype {array.dtype}, expected float32")
        value = parsed(name, array)
        if not np.isfinite(value).all():
            raise MessageError(f"Array {name!r} holds NaN or infinity")
        arrays[name] = value
    if like is not None and _PACKED in arrays and _PACKED not in like:
        arrays = _unpacked(arrays, like)
    if like is not None:
        shapes = {name: tuple(value.shape) for name, value in arrays.items()}
        if shapes != dict(like):
            raise MessageError(_difference(shapes, dict(like)))
    return arrays


def _difference(found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> str:
    missing, extra = expected.keys() - found.keys(), found.keys() - expected.keys()
    if missing or extra:
        return f"Arrays do not match the model: missing {sorted(missing)}, unknown {sorted(extra)}"
    name = next(name for name in expected if found[name] != expected[name])
    return f"Array {name!r} has shape {found[name]}, expected {expected[name]}"
