"""Files and folders that appear whole, stay after a crash, and can be kept from other users."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from .errors import ConsortiumError


def write_durably(path: Path, content: bytes | Iterable[bytes], *, secret: bool = False) -> None:
    """Write a file that survives a crash: afterwards there is the old one or the new one, whole.

    What is long may come in parts. `secret` lets only the owner of the file read it. Where it cannot
    be written, ``ConsortiumError``, and what stood at `path` before stays as it was.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.unlink(missing_ok=True)
        mode = 0o600 if secret else 0o644
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.writelines([content] if isinstance(content, bytes) else content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        flush_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ConsortiumError(f"{path} cannot be written: {error.strerror}") from None


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, for its owner's eyes alone; it appears at `path`, whole, when the block ends.

    A crash or an error before leaves nothing at `path`. Refuses a `path` that exists.
    """
    if os.path.lexists(path):
        raise ConsortiumError(f"{path} exists already. Choose another folder; nothing was changed.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
    except OSError as error:
        raise ConsortiumError(f"{path} cannot be made: {error.strerror}") from None
    try:
        yield partial
        flush_folder(partial)
        os.rename(partial, path)
        flush_folder(path.parent)
    except OSError as error:
        raise ConsortiumError(f"{path} cannot be made: {error.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def flush_folder(folder: Path) -> None:
    """Make the names in a folder durable: a file's own flush does not cover its name."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
