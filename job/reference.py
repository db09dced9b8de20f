"""Job files for people: the commented template and the reference, both made from the models."""

from __future__ import annotations

import textwrap
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, WithJsonSchema
from pydantic.fields import FieldInfo

from ..errors import JobError
from ..storage.documents import toml_value
from ..storage.files import write_new
from .job import Job
from .toml_file import set_key

_WIDTH = 92


def write_template(path: Path, given: Mapping[str, Any]) -> None:
    """Write a job file with every field, its meaning and its default; `given` is filled in."""
    values: dict[str, Any] = {"name": _name(path), "data": {"path": "data.csv"}}
    for key, value in given.items():
        set_key(values, key, value)
    Job.build(values, source="umbel init")
    try:
        write_new(path, "\n".join(_template(values)) + "\n")
    except FileExistsError:
        raise JobError(f"{path} exists already; choose another name or remove it.") from None


def reference() -> str:
    """The job reference as Markdown."""
    lines = [
        "# Job reference",
        "",
        "A job file is TOML. Unknown keys are refused. This page is generated from the code: "
        "`umbel schema --markdown`.",
        "`umbel schema` prints a JSON Schema with which editors complete and check job files.",
    ]
    for section, model in _sections():
        lines += [
            "",
            f"## {f'[{section}]' if section else 'Top level'}",
            "",
            _first_line(model),
            "",
        ]
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        for name, field in _plain_fields(model):
            default = _default(field)
            meaning = (field.description or "").replace("|", "\\|")
            lines.append(f"| `{name}` | {_type_of(field)} | {default} | {meaning} |")
    return "\n".join(lines)


def _template(values: Mapping[str, Any]) -> Iterator[str]:
    yield "# An Umbel job. Lines that start with '# key =' show defaults; remove the '# ' to change one."
    for section, model in _sections():
        chosen: Any = values
        for part in filter(None, section.split(".")):
            chosen = chosen.get(part, {})
        if section:
            yield from ("", f"[{section}]")
        yield f"# {_first_line(model)}"
        for name, field in _plain_fields(model):
            yield ""
            yield from textwrap.wrap(
                field.description or "", _WIDTH, initial_indent="# ", subsequent_indent="# "
            )
            if name in chosen:
                yield f"{name} = {toml_value(chosen[name])}"
            else:
                yield f"# {name} = {toml_value(field.get_default(call_default_factory=True))}".rstrip()


def keys() -> list[str]:
    """Every key that a job may have: training.rounds, ..."""
    return [
        f"{section}.{name}".lstrip(".")
        for section, model in _sections()
        for name, _ in _plain_fields(model)
    ]


def _sections(
    model: type[BaseModel] = Job, prefix: str = ""
) -> Iterator[tuple[str, type[BaseModel]]]:
    yield prefix, model
    for name, field in model.model_fields.items():
        if _is_section(field):
            yield from _sections(field.annotation, f"{prefix}.{name}".lstrip("."))  # type: ignore[arg-type]


def _plain_fields(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    return ((n, f) for n, f in model.model_fields.items() if not _is_section(f))


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = toml_value(field.get_default(call_default_factory=True))
    return f"`{value}`" if value else ""


def _type_of(field: FieldInfo) -> str:
    for said in field.metadata:
        if isinstance(said, WithJsonSchema) and said.json_schema:
            return " \\| ".join(f'"{name}"' for name in said.json_schema["enum"])
    return _type(field.annotation)


def _type(annotation: Any) -> str:
    """A type as a reader of the reference would say it."""
    arguments = get_args(annotation)
    origin = get_origin(annotation)
    if origin is types.UnionType or str(origin) == "typing.Union":
        return " or ".join(_type(a) for a in arguments if a is not type(None))
    if str(origin) == "typing.Literal":
        return " \\| ".join(f'"{a}"' for a in arguments)
    if hasattr(annotation, "__metadata__"):
        return _type(arguments[0])
    if origin is list:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return "table"
    return {int: "integer", float: "number", str: "string", bool: "boolean"}.get(
        annotation, str(annotation)
    )


def _name(path: Path) -> str:
    stem = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in path.stem)
    return stem.lstrip("._-")[:64] or "job"
