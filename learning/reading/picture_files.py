"""Files of pictures: a folder or a zip archive of them, and columns that hold or name them.

A record is the file's own bytes in base64, so copies of a picture are one text: they are on one side of the
split, at every owner.
"""

from __future__ import annotations

import base64
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import pyarrow as pa

from ...errors import DataError
from ...quantities import quoted
from .class_folders import ClassFolders, class_of, is_hidden, is_saved_dataset, lies_inside
from .picture_limits import MOST_PIXELS
from .picture_sizes import MOST_BYTES, fault_of, fault_of_record, largest_file
from .table import Table

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
COLUMNS = FILE, IMAGE, LABEL = "file", "image", "label"
"""Columns of a folder: where in it a picture lies, the picture, and the name of the folder around it."""


class PictureFolder(ClassFolders):
    """A folder, or a zip archive, of pictures: those of a class in a folder of its name."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _names(path))

    def read(
        self,
        picture: str | None,
        required: Sequence[str],
        split: str | None,
        largest: int = MOST_PIXELS,
        *,
        by_path: bool = False,
    ) -> Table:
        """A row for each picture, by its place: it is in the column `picture`, "label" is its folder's name.

        split, by_path: see ``ClassFolders.of``. A picture that cannot be read, has more pixels than
        `largest`, or has a file that is too large for so few, stands without a value. Raises ``DataError``.
        """
        unknown = [name for name in required if name not in (picture, IMAGE, LABEL, FILE)]
        if unknown:
            raise DataError(
                f"{self.path} is a folder of pictures, so its columns are {IMAGE}, {LABEL} (its "
                f"folder) and {FILE}: it has no {quoted(unknown[0])}."
            )
        names = self.of(split, by_path=by_path)
        values: list[str | None] = []
        faults: dict[int, str] = {}
        for row, found in enumerate(_contents(self.path, names, largest)):
            if isinstance(found, bytes):
                values.append(encoded(found))
            else:
                values.append(None)
                faults[row] = f"{names[row]} {found}"
        labels = [None if row in faults else class_of(name) for row, name in enumerate(names)]
        columns = {FILE: list[str | None](names), LABEL: labels, IMAGE: values}
        columns[picture or IMAGE] = values
        return Table(str(self.path), "picture", range(1, len(names) + 1), columns, faults)


def is_picture_folder(path: Path) -> bool:
    """Whether pictures are looked for in it: a folder that is no saved data set, or a zip archive of them.

    What is in a folder makes no difference: that it has lost its last picture is no other kind of folder.
    """
    if path.is_dir():
        return not is_saved_dataset(path)
    return holds_pictures(path)


def holds_pictures(path: Path) -> bool:
    """Whether it is a folder, or a zip archive, with pictures in it and no data set of another kind."""
    if path.is_dir() and is_saved_dataset(path):
        return False
    archive = path.suffix.lower() == ".zip" and zipfile.is_zipfile(path)
    return (path.is_dir() or archive) and next(_names(path), None) is not None


def with_pictures(table: Table, column: str, folder: Path, largest: int = MOST_PIXELS) -> Table:
    """The table with the pictures themselves in a column that names their files, from `folder`.

    A value that is no path of a picture's file there stays as it is: it holds the picture itself, or nothing
    that can be read. A file that lies outside the folder is not read. What has more pixels than `largest`, or
    a file that is too large for so few, is left out.
    """
    values, faults = list(table.columns[column]), dict(table.faults)
    for row, value in enumerate(values):
        if value is None or row in faults:
            continue
        if is_picture(value):
            found = _inside(folder, value, largest)
            if isinstance(found, bytes):
                values[row] = encoded(found)
            else:
                faults[row], values[row] = f"{quoted(value)} {found}", None
        elif largest < MOST_PIXELS and (fault := fault_of_record(value, largest)):
            faults[row], values[row] = f"{table.place(row)} {fault}", None
    columns = table.columns | {column: values}
    return Table(table.source, table.unit, table.numbers, columns, faults, table.notes)


def picture_of(path: Path) -> str:
    """The record of one file; empty if it cannot be read."""
    found = _content(path, MOST_PIXELS)
    return encoded(found) if isinstance(found, bytes) else ""


def bytes_of(column: pa.ChunkedArray) -> list[str | None] | None:
    """Records of a column of bytes, or of structures with "bytes", as ``datasets`` writes pictures.

    None for a column of another type.
    """
    kind = column.type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        column = pa.chunked_array(
            [chunk.field("bytes") for chunk in column.chunks], kind.field("bytes").type
        )
        kind = column.type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        return None
    values = (one.as_py() for one in column)
    return [encoded(one) if one and len(one) <= MOST_BYTES else None for one in values]


def encoded(data: bytes) -> str:
    """A record of the bytes of a picture's file."""
    return base64.b64encode(data).decode("ascii")


def _inside(folder: Path, name: str, largest: int) -> bytes | str:
    path = folder / name
    try:
        inside = lies_inside(folder, name)
    except (OSError, ValueError, RuntimeError) as error:  # no name of a file, or a link to itself
        return f"cannot be read: {error}"
    if not inside:
        return f"lies outside the folder {folder}; name files in it"
    return _content(path, largest)


def _content(path: Path, largest: int) -> bytes | str:
    """The bytes of a file, or why they cannot be had."""
    most = largest_file(largest)
    try:
        if not path.is_file():
            return "is not there"
        size = path.stat().st_size
        if size > most:
            return f"has {size:,} bytes, more than {most:,}"
        return _fitting(path.read_bytes(), largest)
    except (OSError, ValueError) as error:
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"


def _contents(path: Path, names: Sequence[str], largest: int) -> Iterator[bytes | str]:
    if path.is_dir():
        yield from (_inside(path, name, largest) for name in names)
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for name in names:
                yield _member(archive, name, largest)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be unpacked: {error}. Write it again.") from None


def _member(archive: zipfile.ZipFile, name: str, largest: int) -> bytes | str:
    """Of an archive; no more is unpacked than a picture may have."""
    most = largest_file(largest)
    try:
        with archive.open(name) as file:
            data = file.read(most + 1)
    except Exception as error:  # a damaged or an encrypted member
        return f"cannot be unpacked: {error}"
    if len(data) > most:
        return f"has more than {most:,} bytes"
    return _fitting(data, largest)


def _fitting(data: bytes, largest: int) -> bytes | str:
    """The bytes, or why they are left out; where any picture fits, that is seen when it is decoded."""
    if not data:
        return "is empty"
    return (fault_of(data, largest) if largest < MOST_PIXELS else "") or data


def _names(path: Path) -> Iterator[str]:
    """Where the pictures lie, with slashes."""
    if path.is_dir():
        yield from (file.relative_to(path).as_posix() for file in _files(path))
        return
    with zipfile.ZipFile(path) as archive:
        yield from (name for name in archive.namelist() if is_picture(name))


def _files(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if is_picture(file.relative_to(folder).as_posix()))


def is_picture(name: str) -> bool:
    """Whether a file of this name holds a picture, and is not hidden."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix in PICTURES and not is_hidden(name) and len(name) < 4096
