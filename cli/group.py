"""How the groups of commands are made, all alike."""

from __future__ import annotations

from typing import Any

import typer
import typer.core

from ..errors import Interrupted


class _Group(typer.core.TyperGroup):
    """Commands that Ctrl-C ends with one sentence, like any other reason to stop."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("Stopped.") from None


def command_group(text: str, epilog: str | None = None, *, completes: bool = False) -> typer.Typer:
    """A group of commands that shows its help, `text`, if no command is given.

    completes: whether it has --install-completion and --show-completion, as the whole has.
    """
    return typer.Typer(
        cls=_Group,
        help=text,
        epilog=epilog,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        add_completion=completes,
    )
