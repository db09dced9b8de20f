"""Where computed things are kept between runs: tokens, features, converted models.

Everything in the cache can be computed again; deleting the folder is always safe.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from ..errors import UmbelError
from . import files

_PRIVATE = 0o700


def cache_root(of: Path | None = None) -> Path:
    """``$UMBEL_CACHE``, or else a folder within `of`, or, without one, below the user's cache."""
    root = os.environ.get("UMBEL_CACHE")
    if not root and of is not None:
        return of.resolve() / "cache"
    return Path(
        root or os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "umbel")
    ).expanduser()


def cache_folder(kind: str) -> Path:
    """A folder below ``cache_root`` that other users can neither read nor write; made when missing.

    One that an earlier version left open is closed.
    """
    folder = cache_root() / kind
    try:
        folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        found = folder.stat()
        if found.st_uid != os.geteuid():
            raise UmbelError(
                f"The cache folder {folder} belongs to another user of this machine. "
                "Set UMBEL_CACHE to a folder of your own."
            )
        if stat.S_IMODE(found.st_mode) != _PRIVATE:
            folder.chmod(_PRIVATE)
    except OSError as error:
        raise UmbelError(
            f"The cache folder {folder} cannot be made ({error.strerror}). "
            "Set UMBEL_CACHE to a folder that can be written."
        ) from None
    return folder


def write_once(path: Path, write: Callable[[Path], object], *, private: bool = True) -> Path:
    """As ``storage.files.write_once``; an ``UmbelError`` says what to do if it cannot be written."""
    try:
        return files.write_once(path, write, private=private)
    except OSError as error:
        raise UmbelError(
            f"{path} cannot be written ({error.strerror or error}). Free some disk space, or "
            "set UMBEL_CACHE to another folder; nothing that was finished is lost."
        ) from None
