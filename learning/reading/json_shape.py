"""Which shape a JSON file has as a whole, if it is neither records in lines nor a list of them.

For a person at a terminal only: an owner's agent reads lines, or a list, and refuses nothing for what a
record holds.
"""

from __future__ import annotations

import json
import re
from itertools import islice
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...quantities import counted
from .encoding import text_of
from .packing import ending

_LOOK = 20
_NAMED = 4
_WRITE = (
    'Write a list of objects, or one object per line (pandas: df.to_json(FILE, orient="records")).'
)
_AGAIN = "It is cut off or damaged: write or download it again."
_CLOSES = re.compile(r'[]}"]')


def refuse_shape(path: Path, codec: str) -> None:
    """``DataError`` for a JSON document of which no records can be read, with its shape and the place."""
    with text_of(path, codec) as text:
        first = list(islice((line for line in text if line.strip()), _LOOK))
    if not first or not first[0].lstrip().startswith(("{", "[")):
        return
    alone = [_whole(line) for line in first]
    if alone[0] is not None and len(first) > 1:
        return  # lines, each a value
    objects = first[0].lstrip().startswith("{") and any(isinstance(one, dict) for one in alone)
    if objects and (len(first) > 1 or ending(path) != ".json"):
        return  # lines, the first of which may be damaged
    with text_of(path, codec) as text:
        content = text.read()
    try:
        found = json.loads(content)
    except RecursionError:
        return
    except json.JSONDecodeError as error:
        raise DataError(_broken(path, codec, content, error)) from None
    if isinstance(found, list) and ending(path) != ".json" and len(found) and len(first) > 1:
        raise DataError(
            f"{path} is one JSON list, not one object per line. Give it the ending .json."
        )
    if isinstance(found, dict) and (shape := shape_of(found)):
        raise DataError(f"{path} {shape} {_WRITE}")


def shape_of(found: dict[str, Any]) -> str:
    """The shape of a JSON object that is not a list of records, as a predicate; "" if it holds one."""
    lists = {name: value for name, value in found.items() if isinstance(value, list)}
    maps = {name: value for name, value in found.items() if isinstance(value, dict)}
    names = ", ".join(map(repr, list(found)[:_NAMED])) + (", ..." if len(found) > _NAMED else "")
    if {"columns", "data"} <= set(lists):
        return 'holds names of columns beside lists of values (pandas\' orient "split").'
    if len(lists) == 1:
        return ""
    if len(maps) == len(found) and found:
        inner = [tuple(value) for value in maps.values()]
        if len(set(inner)) == 1 and all(key.isdigit() for key in inner[0]):
            return f"is written by column, not by record: its columns {names} hold a value for each row."
        if all(key.isdigit() for key in found):
            return (
                f"holds {counted(len(found), 'record')}, each under its number, not a list of them."
            )
    if len(lists) == len(found) and found:
        if any(isinstance(one, dict) for value in lists.values() for one in value[:1]):
            return f"holds several lists of records ({names}), not one: which one is meant is not clear."
        return (
            f"is written by column, not by record: its columns {names} hold a value for each row."
        )
    if len(lists) > 1:
        return f"holds several lists ({', '.join(map(repr, lists))}), not one list of records."
    if maps:
        return f"is one JSON object ({names}), not a list of records."
    return ""


def _broken(path: Path, codec: str, content: str, error: json.JSONDecodeError) -> str:
    what = "list" if content.lstrip().startswith("[") else "object"
    rest = content[error.pos :].rstrip()
    if not _CLOSES.search(rest[1:]) or error.msg.startswith("Unterminated string"):
        size = len(content.encode(codec, "replace"))
        return f"{path} is a JSON {what} that ends in the middle, at byte {size:,}. {_AGAIN}"
    at = len(content[: error.pos].encode(codec, "replace"))
    return (
        f"{path} is a JSON {what} that is broken at line {error.lineno}, column {error.colno} (byte "
        f"{at:,}): {error.msg}. {_AGAIN}"
    )


def _whole(line: str) -> Any:
    """The value that a line holds by itself; None if it holds none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
