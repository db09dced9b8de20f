"""A run's files, which appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

from ..errors import RunFolderError
from ..storage.files import replace_durably


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, in a folder that is made if it is missing; it stays when this returns.

    On a full disk ``RunFolderError``, and what stood at `path` before stays as it was.
    """
    try:
        path.parent.mkdir(exist_ok=True)
        replace_durably(path, content)
    except OSError as error:
        raise cannot_write(path, error) from None


def cannot_write(path: Path, error: OSError) -> RunFolderError:
    return RunFolderError(
        f"{path} cannot be written: {error.strerror}. The finished rounds are safe; free some space "
        "and go on with --resume."
    )
