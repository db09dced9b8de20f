"""Text that somebody else wrote, as it may be shown: names, reasons, logs of other machines.

Guarantee: what ``shown`` gives has only characters that are printed. So nothing in it moves a cursor,
changes a title or a colour, reverses what stands beside it, or ends a line and begins a false one; a
terminal shows what a person then reads. What ``cell`` gives is taken for a formula by no spreadsheet.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderResult

LONGEST = 10_000
"""At most this many characters of a text are shown."""
_FORMULA = (*"=+-@\t\r\n'", *"\uff1d\uff0b\uff0d\uff20")
"""The last four are the wide forms of the first, which some spreadsheets take for them."""


def shown(text: object, *, lines: bool = False, longest: int | None = LONGEST) -> str:
    """The text with everything unprintable spelled out, as in ``\\x1b``. `lines` keeps ends of lines."""
    written = str(text)
    if longest is not None and len(written) > longest:
        written = f"{written[:longest]} ... ({len(written) - longest} characters more)"
    if written.isprintable():
        return written
    return "".join(c if c.isprintable() or (lines and c == "\n") else _spelled(c) for c in written)


def _spelled(character: str) -> str:
    return (
        character.encode("ascii", "backslashreplace").decode()
        if ord(character) > 127
        else ({"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character) or f"\\x{ord(character):02x}")
    )


def say(*texts: object, end: str = "\n", flush: bool = False, file: TextIO | None = None) -> None:
    """Print for a person: like ``print``, with what others wrote made harmless."""
    text = shown(" ".join(map(str, texts)), lines=True, longest=None)
    print(text, end=end, flush=flush, file=file)


def console(**options: Any) -> Console:
    """rich's console for tables with colours of our own, and with what others wrote made harmless."""
    from rich.console import Console, RenderHook

    class Harmless(RenderHook):
        def process_renderables(
            self, renderables: list[ConsoleRenderable]
        ) -> list[ConsoleRenderable]:
            return [_Harmless(renderable) for renderable in renderables]

    made = Console(**options)
    made.push_render_hook(Harmless())
    return made


class _Harmless:
    """A renderable whose text is only printed; colours and what moves the cursor are rich's own."""

    def __init__(self, renderable: Any) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self._segments(console, options)

    def _segments(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        for segment in console.render(self._renderable, options):
            if segment.control:
                yield segment
            else:
                text = shown(segment.text, lines=True, longest=None)
                yield segment._replace(text=text)


def typed(path: object) -> str:
    """A path as it is typed into a shell, also one with spaces: for commands that a reader copies."""
    return shlex.quote(str(path))


def cell(value: Any) -> Any:
    """A value for a cell of a table that spreadsheets open.

    A text that would be taken for a formula, or begins with an apostrophe, gets an apostrophe before it;
    anyone who reads texts back takes one away.
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


class PlainFormatter(logging.Formatter):
    """Lines of a log in which nothing but ends of lines is unprintable.

    Every line of a record but the first is indented, so that no text in it begins a line of its own.
    """

    def format(self, record: logging.LogRecord) -> str:
        text = shown(super().format(record), lines=True, longest=None)
        return text.replace("\n", "\n    ")
