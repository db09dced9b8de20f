"""One value of a data file as a string: the only place where a value can be refused.

Guarantee: whether a value can be read, and as what, follows from this value alone.
"""

from __future__ import annotations

import math

import pyarrow as pa

from ..errors import DataError


def as_name(value: object) -> str | None:
    """A label, group or client as a string: 1.0 and 1 are "1", True is "true", NaN is missing."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, dict | list | tuple | bytes):
        raise TypeError(type(value).__name__)
    return str(value)


def cell(place: str, name: str, value: object, is_text: bool) -> str | None:
    """A value of the column `name`; `is_text`: where nothing but a string will do."""
    if is_text and not isinstance(value, str | None):
        raise DataError(
            f"{place}: {name!r} holds {value!r:.60}, which is no text. Point data.text_column to "
            "a column of strings."
        )
    try:
        text = as_name(value)
    except TypeError as error:
        raise DataError(
            f"{place}: {name!r} holds a {error}; a string, a number or a truth value is needed."
        ) from None
    if text is not None and not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{place}: {name!r} holds half of a surrogate pair (such as \\ud83d alone), which "
                "is no character. Write the data again with whole characters."
            ) from None
    return text


def arrow_cells(
    source: str,
    name: str,
    column: pa.ChunkedArray,
    classes: list[object] | None,
    is_text: bool,
    unreadable: set[int] | None,
) -> list[str | None]:
    """A column of Arrow's. `classes`: what its numbers stand for, if they are class labels.

    unreadable: gets the rows (from 0) whose value cannot be read, which is None then; without it such
    a value is an error. Every value is converted by itself: a string that is not UTF-8, or a time
    that no calendar has, would else make the whole column fail.
    """
    if unreadable is None:
        values = enumerate(column.to_pylist(), start=1)
        return [_arrow_cell(source, name, row, value, classes, is_text) for row, value in values]
    found: list[str | None] = []
    for row, scalar in enumerate(column):
        try:
            value = scalar.as_py()
            found.append(_arrow_cell(source, name, row + 1, value, classes, is_text))
        except Exception:
            # Not DataError alone: deep nests, huge numbers and times fail in ways of their own.
            unreadable.add(row)
            found.append(None)
    return found


def _arrow_cell(
    source: str, name: str, row: int, value: object, classes: list[object] | None, is_text: bool
) -> str | None:
    place = f"{source}, row {row}"
    if classes:
        value = _class_name(place, name, value, classes)
    return cell(place, name, value, is_text)


def _class_name(place: str, name: str, value: object, classes: list[object]) -> object:
    """The class that a number stands for; None for -1, which datasets writes where none is known."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        return classes[value] if 0 <= value < len(classes) else None
    raise DataError(
        f"{place}: {name!r} holds {value!r:.60}, which is the number of no class. Store class "
        "labels as whole numbers."
    )
