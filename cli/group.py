"""How the groups of commands are made, all alike."""

from __future__ import annotations

import typer


def command_group(text: str, epilog: str | None = None, *, completes: bool = False) -> typer.Typer:
    """A group of commands that shows its help, `text`, where no command is given.

    completes: whether it has --install-completion and --show-completion, as the whole has.
    """
    return typer.Typer(
        help=text,
        epilog=epilog,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        add_completion=completes,
    )
