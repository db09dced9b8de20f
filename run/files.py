"""A run's files, which appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

from ..errors import FileError, RunFolderError
from ..storage.files import cannot_write, write_durably


def write_whole(path: Path, content: bytes, *, secret: bool = False) -> None:
    """Write a file, in a folder that is made if it is missing; it stays when this returns.

    Only this user can read what is `secret`.

    On a full disk ``RunFolderError``, and what stood at `path` before stays as it was.
    """
    try:
        path.parent.mkdir(exist_ok=True)
        write_durably(path, content, secret=secret)
    except OSError as error:
        raise rounds_are_safe(cannot_write(path, error)) from None
    except FileError as error:
        raise rounds_are_safe(error) from None


def rounds_are_safe(error: FileError) -> RunFolderError:
    """The same, with what to do about it."""
    return RunFolderError(
        f"{error}. The finished rounds are safe; free some space and resume with --resume."
    )
