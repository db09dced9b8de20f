"""Where computed things are kept between runs: tokens, features, converted models.

Everything in the cache can be computed again; deleting the folder is always safe.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..errors import UmbelError


def cache_folder(kind: str) -> Path:
    """``$UMBEL_CACHE/kind``, or the same below the user's cache folder; made when missing."""
    root = os.environ.get("UMBEL_CACHE")
    if root is None:
        root = os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "umbel")
    folder = Path(root).expanduser() / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UmbelError(
            f"The cache folder {folder} cannot be made ({error.strerror}). "
            "Set UMBEL_CACHE to a folder that can be written."
        ) from None
    return folder


def write_once(path: Path, write: Callable[[Path], None]) -> Path:
    """Let `write` make a file or folder under a temporary name, then move it to `path`.

    Two processes may race: both write, one move wins, and what stands there is whole either way.
    """
    if path.exists():
        return path
    temporary = Path(tempfile.mkdtemp(prefix=".partial-", dir=path.parent))
    made = temporary / path.name
    try:
        write(made)
        if not path.exists():
            os.replace(made, path)
    except OSError as error:
        if not path.exists():
            raise UmbelError(
                f"{path} cannot be written ({error.strerror or error}). Free some disk space, or "
                "set UMBEL_CACHE to another folder; nothing that was finished is lost."
            ) from None
    finally:
        _remove(temporary)
    return path


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
