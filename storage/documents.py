"""Small files that people hand to each other or edit: their form is checked, key by key."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from .. import __version__
from ..errors import ConsortiumError
from .files import write_durably


class Document(BaseModel):
    """Base of what stands in a file: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    _what: ClassVar[str] = "file"
    _largest: ClassVar[int] = 2**16
    """Bytes. A request comes from a stranger: a larger file is not even read."""

    @classmethod
    def build(cls, values: Any, source: str) -> Self:
        """Validate `values`; a ``ConsortiumError`` names each wrong key and what is known instead."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConsortiumError(f"{source}: {explain(error, cls)}") from None

    @classmethod
    def read(cls, path: Path) -> Self:
        """The content of a JSON file that has exactly this form."""
        try:
            if path.stat().st_size > cls._largest:
                raise ConsortiumError(f"{path} is far too large for a {cls._what}. Check the path.")
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConsortiumError(f"There is no {cls._what} {path}. Check the path.") from None
        except (OSError, ValueError, RecursionError) as error:
            raise ConsortiumError(f"{path} is not a {cls._what}: {error}") from None
        form = cls.model_fields["format"].default if "format" in cls.model_fields else None
        found = values.get("format") if isinstance(values, dict) else None
        if found != form:
            raise ConsortiumError(
                f"{path} is not a {cls._what} that Umbel {__version__} knows: its format is "
                f"{found!r:.60}, not {form!r}. Check that it is the right file, and that both sides "
                "run the same version."
            )
        return cls.build(values, str(path))

    def write(self, path: Path) -> None:
        """Write whole and durably, as JSON that a person can read."""
        write_durably(path, (self.model_dump_json(indent=2) + "\n").encode())


def toml_value(value: Any) -> str:
    """One value as TOML, a list or table on one line; nothing for None, which TOML does not have."""
    import tomli_w

    if value is None:
        return ""
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, dict) and value:
        pairs = (f"{toml_value(str(key))} = {toml_value(one)}" for key, one in value.items())
        return f"{{{', '.join(pairs)}}}"
    return "{}" if value == {} else tomli_w.dumps({"value": value}).strip().removeprefix("value = ")


def listed(names: Iterable[object], between: str = ", ") -> str:
    """Names in a sentence, each in quotation marks."""
    return between.join(f'"{name}"' for name in names)


def explain(error: ValidationError, model: type[BaseModel], longest: int | None = 80) -> str:
    """Each wrong key of a file, where it stands, and what is known instead.

    Of a value that is wrong at most `longest` characters are quoted.
    """
    return "; ".join(_explain_one(detail, model, longest) for detail in error.errors())


def _explain_one(detail: Any, model: type[BaseModel], longest: int | None) -> str:
    place = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = _known_keys(model, detail["loc"][:-1])
        near = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
        near = near or _elsewhere(model, str(detail["loc"][-1]))
        hint = (
            f"did you mean {' or '.join(map(repr, near))}?"
            if near
            else f"known here: {', '.join(known)}"
        )
        return f"unknown key {place!r} ({hint})"
    if detail["type"] == "missing":
        return f"{place} is missing"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "string_pattern_mismatch":
        message = _in_words(detail["ctx"]["pattern"])
    return f"{place} = {repr(detail['input'])[:longest]}: {message}" if place else message


def _in_words(pattern: str) -> str:
    """What a text has to be: not everybody reads regular expressions."""
    if found := re.fullmatch(r"\^\[0-9a-f\]\{(\d+)\}\$", pattern):
        return f"give {found[1]} hexadecimal digits, in lower case"
    if found := re.fullmatch(r"\^\[A-Za-z0-9\]\[A-Za-z0-9\._-\]\{0,(\d+)\}\$", pattern):
        return (
            f"give at most {int(found[1]) + 1} characters: letters from a to z, digits, '.', '_' and '-', "
            "starting with a letter or a digit"
        )
    return f"it must match {pattern}"


def _elsewhere(model: type[BaseModel], key: str) -> list[str]:
    """Where a key that does not stand here is known: in sections of the same file."""
    sections = [name for name in model.model_fields if key in _known_keys(model, [name])]
    return [f"{section}.{key}" for section in sections]


def _known_keys(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    for part in location:
        annotation = model.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return sorted(model.model_fields)
