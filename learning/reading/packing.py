"""The bytes of a data file, whatever it is compressed with.

Guarantee: at most ``most_bytes`` come out of a compressed file, so that a small one cannot fill the
memory. How a file is packed follows from its name, never from a record.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

from ...errors import DataError

PACKED = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd", ".zip": "zip"}
"""Endings of compressed files, and the names of their formats."""

_TIMES = 100
_ALWAYS = 256 << 20
_BUFFER = 1 << 18
_DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
)
_NO_DATA = ("__MACOSX/", ".DS_Store", "Thumbs.db")


def packing(path: Path) -> str | None:
    """What a file is compressed with, by its name; None if it is not."""
    return PACKED.get(path.suffix.lower())


def inner_name(path: Path) -> str:
    """The name of what is inside: ``rows.csv`` of ``rows.csv.gz``, and its member's of a zip archive."""
    if packing(path) is None:
        return path.name
    if packing(path) == "zip":
        with _archive(path) as archive:
            return PurePosixPath(_member(path, archive).filename).name
    return path.stem


def ending(path: Path) -> str:
    """The ending that says what is in a file: ``.csv`` of ``rows.CSV.gz``."""
    return Path(inner_name(path)).suffix.lower()


def most_bytes(path: Path) -> int:
    """What a compressed file may unpack to: 100 times its size, or 256 MiB if that is more."""
    return max(_ALWAYS, _TIMES * path.stat().st_size)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A stream of the unpacked bytes; ``DataError`` for a file that is damaged or unpacks to too much."""
    if packing(path) is None:
        with path.open("rb") as file:
            yield file
        return
    with ExitStack() as stack:
        try:
            packed = stack.enter_context(_unpacked(path))
        except _DAMAGED as error:
            raise _damaged(path, error) from None
        yield io.BufferedReader(_Bounded(packed, path), _BUFFER)


def seekable(path: Path) -> Path | io.BytesIO:
    """For readers that jump in a file: the file itself, or in memory what a compressed one holds."""
    if packing(path) is None:
        return path
    with opened(path) as stream:
        return io.BytesIO(stream.read())


class _Bounded(io.RawIOBase):
    """Reads a stream up to what its file may unpack to."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._stream, self._path = stream, path
        self._left = most_bytes(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            found = self._stream.read(len(buffer))
        except _DAMAGED as error:
            raise _damaged(self._path, error) from None
        self._left -= len(found)
        if self._left < 0:
            raise DataError(
                f"{self._path} unpacks to more than {most_bytes(self._path) >> 20:,} MiB, over "
                f"{_TIMES} times its size. If that is correct, unpack it yourself and name that file."
            )
        buffer[: len(found)] = found
        return len(found)


@contextmanager
def _unpacked(path: Path) -> Iterator[IO[bytes]]:
    kind = packing(path)
    if kind == "zip":
        with _archive(path) as archive, archive.open(_member(path, archive)) as stream:
            yield stream
    elif kind == "zstd":
        import pyarrow as pa

        with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as stream:
            yield stream
    else:
        opens: dict[str | None, Any] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}
        with opens[kind](path, "rb") as stream:
            yield stream


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except _DAMAGED as error:
        raise _damaged(path, error) from None


def _member(path: Path, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    """The one file in an archive, apart from what operating systems add."""
    members = [
        one
        for one in archive.infolist()
        if not one.is_dir() and not any(part in one.filename for part in _NO_DATA)
    ]
    if len(members) != 1:
        names = ", ".join(one.filename for one in members[:4]) or "nothing"
        raise DataError(
            f"{path} holds {len(members)} files ({names:.200}); one is needed. Unpack it, and name the "
            "file with the records."
        )
    if members[0].flag_bits & 1:
        raise DataError(f"{path} is encrypted. Unpack it with its password, and name that file.")
    return members[0]


def _damaged(path: Path, error: BaseException) -> DataError:
    if isinstance(error, FileNotFoundError | PermissionError):
        return DataError(f"{path} cannot be read: {error.strerror}.")
    why = str(error).rstrip(".")[:160] or type(error).__name__
    return DataError(
        f"{path} cannot be unpacked as {packing(path)}: {why}. It is damaged, cut off, or its format "
        "differs from its name: download or write it again."
    )
