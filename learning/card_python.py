"""Pieces of the Python that a model card shows."""

from __future__ import annotations

from collections.abc import Sequence


def indented(lines: Sequence[str]) -> list[str]:
    """A level deeper; empty lines stay empty."""
    return [f"    {line}" if line else line for line in lines]


def literal(value: str | list[str]) -> str:
    """Python for a text, or a list of texts, in which nothing ends a block of code in Markdown."""
    return repr(value).replace("`", "\\x60")
