"""One value of a data file as a string: the only place where a value can be refused.

Guarantee: whether a value can be read, and as what, follows from this value alone.
"""

from __future__ import annotations

import json
import math
from decimal import Decimal

import numpy as np
import pyarrow as pa

from ...errors import DataError
from ...quantities import quoted
from .names import number_name

_NOT_ONE = {
    "list": "a list of several values",
    "tuple": "a list of several values",
    "dict": "an object",
    "bytes": "bytes",
}
"""What is no single value, by its type in Python."""

HALF = (
    "half of a surrogate pair (such as \\ud83d alone), which is not a character. Write the data again with "
    "whole characters."
)


def is_whole(text: str) -> bool:
    """Whether all of a text is characters, so that it has bytes in UTF-8.

    JSON may spell half of a surrogate pair, which Python reads as a string like any other.
    """
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def whole(record: str) -> str:
    """A record that was made of what a cell spells. Raises ``DataError`` if it is not whole."""
    if not is_whole(record):
        raise DataError(f"it holds {HALF}")
    return record


def as_name(value: object) -> str | None:
    """A label, group or client as a string: 1.0 and 1 are "1", True is "true", NaN is missing."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return None if math.isnan(value) else number_name(value)
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, dict | list | tuple | bytes):
        raise TypeError(type(value).__name__)
    return str(value)


def single(value: object) -> object:
    """What a list of one value holds, as annotation tools write a class; None for an empty list."""
    if isinstance(value, list) and len(value) < 2:
        return value[0] if value else None
    return value


def cell(name: str, value: object, is_text: bool, nested: bool = False) -> str | None:
    """A value of the column `name`; `is_text`: if nothing but a string will do.

    nested: lists and objects become JSON, and strings stay as they are.

    Raises ``DataError`` without the place, which its caller knows.
    """
    if nested and isinstance(value, list | dict):
        value = json.dumps(value, ensure_ascii=False)
    value = single(value)
    if is_text and not isinstance(value, str | None):
        raise DataError(
            f"{name!r} holds {quoted(value)}, which is not a text. Point data.text_column to a column "
            "of strings."
        )
    try:
        text = as_name(value)
    except TypeError as error:
        raise DataError(
            f"{name!r} holds {_NOT_ONE.get(str(error), str(error))}; a string, a number or a truth value "
            "is needed."
        ) from None
    if text is not None and not is_whole(text):
        raise DataError(f"{name!r} holds {HALF}")
    return text


def reason(error: Exception) -> str:
    """Why a value cannot be read, as a sentence."""
    return (
        str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error!s:.100}."
    )


def arrow_cells(
    name: str,
    column: pa.ChunkedArray,
    classes: list[object] | None,
    is_text: bool,
    unreadable: dict[int, str],
    nested: bool = False,
) -> list[str | None]:
    """A column of Arrow's. `classes`: what its numbers stand for, if they are class labels.

    unreadable: gets the rows (from 0) whose value cannot be read, which is None then, with the reason.
    Every value is converted by itself: a string that is not UTF-8, or a time that no calendar has, would
    else make the whole column fail.
    """
    of = _item(column.type)
    short = pa.types.is_float32(of) or pa.types.is_float16(of)
    kind = np.dtype(of.to_pandas_dtype()).type if short else None
    found: list[str | None] = []
    for row, scalar in enumerate(column):
        try:
            value = scalar.as_py() if nested else single(scalar.as_py())
            if classes and nested and isinstance(value, list):
                value = [_class_name(name, one, classes) for one in value]
            if kind is not None and isinstance(value, float):
                # The shortest spelling in its own precision: 0.1, not 0.10000000149011612.
                value = float(str(kind(value)))
            if classes and not isinstance(value, list):
                value = _class_name(name, value, classes)
            found.append(cell(name, value, is_text, nested))
        except Exception as error:
            # Not DataError alone: deep nests, huge numbers and times fail in ways of their own.
            unreadable.setdefault(row, reason(error))
            found.append(None)
    return found


def is_list(kind: pa.DataType) -> bool:
    """Whether values of an Arrow type are lists."""
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _item(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if is_list(kind) else kind


def _class_name(name: str, value: object, classes: list[object]) -> object:
    """The class that a number stands for; None for -1, which datasets writes if none is known."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        return classes[value] if 0 <= value < len(classes) else None
    raise DataError(
        f"{name!r} holds {quoted(value)}, which is not the number of a class. Store class labels as "
        "whole numbers."
    )
