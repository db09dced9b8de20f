"""Folders of text files, a folder for each class: the form of most corpora of texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ...errors import DataError
from ...quantities import quoted
from .class_folders import ClassFolders, class_of, is_hidden, is_saved_dataset, lies_inside
from .encoding import codec_of
from .table import Table

COLUMNS = FILE, TEXT, LABEL = "file", "text", "label"
"""Where in the folder a text lies, the text, and the name of the folder around it."""
_MOST_BYTES = 16 << 20


class TextFolder(ClassFolders):
    """The files of a folder, and of those within it, that end with .txt and are not hidden."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _names(path))

    def read(
        self,
        text: str | None,
        required: Sequence[str],
        extra: Sequence[str],
        split: str | None,
        encoding: str | None = None,
        *,
        by_path: bool = False,
    ) -> Table:
        """A row for each file: its text is in the column `text` too, its folder's name in "label".

        split, by_path: see ``ClassFolders.of``. encoding: of all files, by default UTF-8. A file that cannot
        be read stands without values. Raises ``DataError``.

        Guarantee: what is read of a file depends on no other file; with `by_path`, so does whether it is.
        """
        unknown = [name for name in required if name not in (text, *COLUMNS)]
        if unknown:
            raise DataError(
                f"{self.path} is a folder of text files, so its columns are {TEXT}, {LABEL} (its folder) "
                f"and {FILE}: it has no {quoted(unknown[0])}."
            )
        names = self.of(split, by_path=by_path)
        codec = "utf-8-sig" if encoding is None else codec_of(encoding)
        texts: list[str | None] = []
        faults: dict[int, str] = {}
        for row, name in enumerate(names):
            try:
                texts.append(_text_of(self.path, name, codec))
            except _Unreadable as error:
                texts.append(None)
                faults[row] = f"{name} {error}"
        labels = [None if row in faults else class_of(name) for row, name in enumerate(names)]
        found = {FILE: list[str | None](names), LABEL: labels, TEXT: texts}
        found[text or TEXT] = texts
        columns = {name: found[name] for name in (*required, *extra) if name in found}
        notes = ("each .txt file is a record, and the folder around it its class",)
        return Table(str(self.path), "file", range(1, len(names) + 1), columns, faults, notes)


class _Unreadable(Exception):
    """Why a file gives no text."""


def _text_of(folder: Path, name: str, codec: str) -> str:
    path = folder / name
    try:
        if not lies_inside(folder, name):
            raise _Unreadable(f"lies outside the folder {folder}; put the file into it")
        if not path.is_file():
            raise _Unreadable("is not a file")
        if path.stat().st_size > _MOST_BYTES:
            raise _Unreadable(f"has more than {_MOST_BYTES:,} bytes")
        return path.read_bytes().decode(codec)
    except UnicodeDecodeError as error:
        raise _Unreadable(
            f"is not {codec.removesuffix('-sig').upper()} (byte {error.start + 1}). Name the encoding of the "
            "files: --encoding cp1252, or data.encoding"
        ) from None
    except (OSError, ValueError, RuntimeError) as error:
        raise _Unreadable(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def is_text_folder(path: Path) -> bool:
    """Whether texts are looked for in it: a folder that is not a saved data set.

    What is in a folder makes no difference: one that has lost its last text is of no other kind.
    """
    return path.is_dir() and not is_saved_dataset(path)


def holds_texts(path: Path) -> bool:
    """Whether it is a folder with texts in it, and no saved data set."""
    return is_text_folder(path) and next(_names(path), None) is not None


def _names(path: Path) -> Iterator[str]:
    names = (file.relative_to(path).as_posix() for file in path.rglob("*"))
    return (name for name in names if name.lower().endswith(".txt") and not is_hidden(name))
