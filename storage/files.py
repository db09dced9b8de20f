"""Files and folders that appear whole, stay after a crash, and can be kept from other users."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ..errors import FileError


def write_durably(path: Path, content: bytes | Iterable[bytes], *, secret: bool = False) -> None:
    """Write a file that survives a crash: afterwards there is the old one or the new one, whole.

    What is long may come in parts. `secret` lets only the owner of the file read it. If it cannot
    be written, ``FileError``, and what stood at `path` before stays as it was.
    """
    _write(path, content, secret=secret, lasting=True)


def write_unflushed(path: Path, content: bytes, *, secret: bool = False) -> None:
    """The same for what can be made again: whole or not at all, but a power cut may take it away.

    Nothing waits for the disk. Folders on the way are made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700 if secret else 0o777)
    except OSError as error:
        raise cannot_write(path, error) from None
    _write(path, content, secret=secret, lasting=False)


def _write(path: Path, content: bytes | Iterable[bytes], *, secret: bool, lasting: bool) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.unlink(missing_ok=True)
        mode = 0o600 if secret else 0o644
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.writelines([content] if isinstance(content, bytes) else content)
            if lasting:
                stream.flush()
                os.fsync(stream.fileno())
        os.replace(temporary, path)
        if lasting:
            flush_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise cannot_write(path, error) from None


def write_new(path: Path, text: str) -> None:
    """Write a file for a person to edit, durably; ``FileExistsError`` if there is anything at `path`."""
    if os.path.lexists(path):
        raise FileExistsError(path)
    write_durably(path, text.encode())


def write_once(path: Path, write: Callable[[Path], object], *, private: bool = True) -> Path:
    """Let `write` make a file or folder under a temporary name, then move it to `path`, unless it is there.

    Two processes may race: both write, one move wins, and what stands there is whole either way. What is
    `private` only this user can read, in the making too. An ``OSError`` if it cannot be written.
    """
    if path.exists():
        return path
    temporary = Path(tempfile.mkdtemp(prefix=".partial-", dir=path.parent))
    made = temporary / path.name
    try:
        write(made)
        if private:
            _close(made)
        if not path.exists():
            os.replace(made, path)
    except OSError:
        if not path.exists():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def _close(made: Path) -> None:
    """Take from other users what a umask may have given them; links have no mode of their own."""
    for path in [made, *(made.rglob("*") if made.is_dir() else [])]:
        if not path.is_symlink():
            path.chmod(0o700 if path.is_dir() else 0o600)


def sha256_of(path: Path) -> bytes:
    """Of a file's content, which is never in memory as a whole. Raises ``OSError``."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def cannot_write(path: Path, error: OSError) -> FileError:
    """Which file, and why; what to do about it is for the caller to add."""
    return FileError(f"{path} cannot be written: {error.strerror}")


def successor(path: Path) -> Path:
    """Where what takes a file's place lies until it counts: anyone who reads the file looks at both."""
    return path.with_name(f"{path.name}.next")


def refuse_foreign(path: Path, what: str, is_own: Callable[[bytes], bool]) -> None:
    """``FileError`` if what is at `path` is not such a file as the one that is to be written there.

    For a path that a person named, or that follows from a name: a slip of theirs must not cost another
    file. what: what is to be written. is_own: whether the file's content is of that kind.
    """
    if not os.path.lexists(path):
        return
    try:
        own = path.is_file() and is_own(path.read_bytes())
    except OSError:
        own = False
    if not own:
        raise FileError(
            f"{path} already exists, and is not {what}. Name another file, or move that one away; "
            "nothing was changed."
        )


def refuse_existing(path: Path) -> None:
    """``FileError`` if there is anything at a `path` where a folder is to be made."""
    if os.path.lexists(path):
        raise FileError(f"{path} exists already. Choose another folder; nothing was changed.")


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, for its owner's eyes alone; it appears at `path`, whole, when the block ends.

    A crash or an error before leaves nothing at `path`. Refuses a `path` that exists.
    """
    refuse_existing(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
    except OSError as error:
        raise FileError(f"{path} cannot be made: {error.strerror}") from None
    try:
        yield partial
        flush_folder(partial)
        os.rename(partial, path)
        flush_folder(path.parent)
    except OSError as error:
        raise FileError(f"{path} cannot be made: {error.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def private_folder(path: Path) -> Path:
    """Make `path`, unless it is there, and see to it that it is this user's alone.

    Guarantee: when it returns, `path` is a folder of this user, closed to others, and no other user can
    have put it there, or can put another in its place: each folder on the way was opened by its name in
    the one above, not through a link, and is this user's or root's; if others may write in it, it is
    sticky, so that they cannot move what is not theirs. Anything else is a ``FileError``.

    Assumptions: root is trusted, and changes nothing meanwhile.
    """
    # Links above are root's or the user's own choice, such as /var/run: what they lead to is looked at.
    place = Path(os.path.realpath(path.parent)) / path.name
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    at, so_far = os.open("/", flags), Path("/")
    try:
        for name in place.parts[1:]:
            so_far = so_far / name
            last = so_far == place
            if last:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=at)
            below = os.open(name, flags, dir_fd=at)
            os.close(at)
            at = below
            _check_folder(at, so_far, last)
    except OSError as error:
        raise FileError(
            f"{place} cannot be protected from other users ({so_far}: {error.strerror}). "
            "If it is a link, or belongs to somebody else, find out who made it, and remove it."
        ) from None
    finally:
        os.close(at)
    return path


def fit_for_secrets(place: Path) -> bool:
    """Whether a ``private_folder`` can be had in `place`: it can be written, by others only if sticky."""
    try:
        mode = place.stat().st_mode
    except OSError:
        return False
    closed = not mode & 0o022 or bool(mode & stat.S_ISVTX)
    return closed and os.access(place, os.W_OK)


def _check_folder(descriptor: int, path: Path, last: bool) -> None:
    found = os.fstat(descriptor)
    mode, own = stat.S_IMODE(found.st_mode), found.st_uid == os.geteuid()
    if not own and (last or found.st_uid != 0):
        raise FileError(
            f"{path} belongs to another user of this machine (number {found.st_uid}), who could read or "
            "replace what is kept there. Find out who made it, and remove it."
        )
    if mode & 0o022 and (last or not mode & stat.S_ISVTX):
        raise FileError(
            f"{path} can be written by other users of this machine (mode {mode:04o}). Remove it, or set "
            "XDG_RUNTIME_DIR to a folder that only this user can use."
        )
    if last and mode & 0o077:
        os.fchmod(descriptor, 0o700)


def flush_folder(folder: Path) -> None:
    """Make the names in a folder durable: a file's own flush does not cover its name."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
