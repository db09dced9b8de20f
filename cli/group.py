"""How the groups of commands are made, all alike."""

from __future__ import annotations

import typer


def command_group(text: str, epilog: str | None = None) -> typer.Typer:
    """A group of commands that shows its help, `text`, where no command is given."""
    return typer.Typer(
        help=text,
        epilog=epilog,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        add_completion=False,
    )
