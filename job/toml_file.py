"""Job files as tables of TOML, before anything is known of their keys."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import JobError


def read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise JobError(f"There is no job file {path}. Write one with: umbel init {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"{path} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise JobError(f"{path} is not valid TOML: {error}") from None


def set_key(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Set ``section.name`` in nested tables, making those that are missing."""
    *sections, name = dotted.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise JobError(f"{dotted}: {section} is a value, not a section")
    values[name] = value


def dotted(
    sections: Mapping[str, Any], prefix: str = "", whole: Collection[str] = ()
) -> Iterator[tuple[str, Any]]:
    """Values of nested tables by ``section.name``; what stands under a key in `whole` is one value."""
    for name, value in sections.items():
        key = prefix + name
        if isinstance(value, Mapping) and key not in whole:
            yield from dotted(value, f"{key}.", whole)
        else:
            yield key, value


def parse_override(text: str) -> tuple[str, Any]:
    """A value is read as TOML if it is TOML, otherwise as a plain string."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise JobError(f"--set {text}: expected KEY=VALUE, such as training.rounds=3")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


def resolve_paths(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make file paths absolute, starting at `folder`."""
    for section, key in (("data", "path"), ("data", "test_path"), ("evaluation", "public_path")):
        found = values.get(section)
        if isinstance(found, dict) and isinstance(found.get(key), str):
            found[key] = str((folder / Path(found[key]).expanduser()).resolve())
    model = values.get("model")
    if isinstance(model, dict) and isinstance(model.get("base"), str):
        local = folder / Path(model["base"]).expanduser()
        if local.exists() and not model["base"].startswith("package:"):
            model["base"] = str(local.resolve())
    return values
