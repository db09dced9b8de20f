"""``--json``: how every command that finds or does something answers a program.

Guarantee: with --json one JSON value is on standard output, and nothing else is; whatever the command says
for people meanwhile goes to standard error. Errors and exit status are the same with and without it: an
error is text on standard error, and standard output is then empty.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import typer

from ..foreign import console, say
from .options import Command, Json, parameter


@dataclass(frozen=True)
class Answer:
    """What a command found: for programs, and for people."""

    values: Any
    """As JSON values; paths are texts, and numbers that JSON lacks are "inf", "-inf" and "nan"."""
    text: Any = ()
    """What people read in its place: lines, a text, something that rich prints, or what makes one of them."""
    status: int = 0
    """The exit status."""


def answers(command: Command) -> Command:
    """Give a command --json. It returns an ``Answer``, or JSON values if it has said all there is to say."""
    own = inspect.signature(command, eval_str=True)
    shown = [parameter(p.name, p.annotation, p.default) for p in own.parameters.values()]
    shown.append(parameter("as_json", Json, False))

    @functools.wraps(command)
    def answered(*given: Any, as_json: bool = False, **values: Any) -> None:
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            found = command(*given, **values)
        answer = found if isinstance(found, Answer) else Answer(found)
        if as_json:
            say(json.dumps(plain(answer.values), indent=2, allow_nan=False))
        else:
            show(answer.text)
        if answer.status:
            raise typer.Exit(answer.status)

    answered.__signature__ = own.replace(parameters=shown, return_annotation=None)  # type: ignore[attr-defined]
    answered.__annotations__ = {p.name: p.annotation for p in shown}
    return answered


def plain(value: Any) -> Any:
    """`value` as JSON can say it."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Iterable):
        return [plain(one) for one in value]
    return str(value)


def show(text: Any) -> None:
    """Print what people read: each text as a line of its own, all else as rich prints it."""
    if isinstance(text, Callable):  # type: ignore[arg-type]
        text = text()
    if isinstance(text, str):
        say(text)
    elif isinstance(text, Iterable) and not hasattr(text, "__rich_console__"):
        for one in text:
            show(one)
    else:
        console(highlight=False).print(text)
