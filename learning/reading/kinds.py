"""What a file is by its first bytes: one kind for each format that people bring, readable or not."""

from __future__ import annotations

import codecs
import io
import json
import re
import zipfile
from pathlib import Path
from typing import NamedTuple

from .packing import opened, packing, seekable

_LOOK = 4096
_LINES = 5
"""So many lines are looked at to tell JSON from a table: one of them may be damaged."""


class Kind(NamedTuple):
    """What a file is, the endings it may have, and what to do if it has another."""

    what: str
    endings: tuple[str, ...]
    remedy: str
    """``{ending}`` stands for the ending that the file has."""


_SAVE_AS = "Save it as .xlsx there, and name that file."
_SAVE_SHEET = "Save it as .xlsx or CSV there, and name that file."
_WEB = "Download the data itself: this may be a page to log in."

WORKBOOK = Kind("an Excel workbook", (".xlsx", ".xlsm"), "Give it the ending .xlsx.")
PARQUET = Kind("a Parquet file", (".parquet",), "Give it the ending .parquet.")
FEATHER = Kind("a Feather (Arrow) file", (".feather", ".arrow"), "Give it the ending .feather.")
JSON_TEXT = Kind(
    "JSON",
    (".jsonl", ".ndjson", ".json"),
    "Give it the ending .jsonl if each line is an object, else .json.",
)
TEXT = Kind(
    "plain text",
    (".csv", ".tsv", ".tab"),
    "If it is a table, give it the ending .csv.",
)
BINARY = Kind("binary data of a format that Umbel does not know", (), "Check the path.")
BLANK = Kind(
    "blank", (*TEXT.endings, *JSON_TEXT.endings), "Check the path, or write the data again."
)
OLD_WORKBOOK = Kind(
    "an Excel workbook of the old format, or one with a password", (".xls",), _SAVE_AS
)
BINARY_WORKBOOK = Kind("an Excel workbook of the binary format", (".xlsb",), _SAVE_AS)
OPEN_DOCUMENT = Kind("an OpenDocument sheet", (".ods",), _SAVE_SHEET)
ARCHIVE = Kind("an archive", (".tar", ".tgz"), "Unpack it, and name the file with the records.")
_ZIP = Kind(
    "a zip archive", (".zip",), "Give it the ending .zip if it holds one file, else unpack it."
)
_MEMBERS = (
    ("xl/workbook.bin", BINARY_WORKBOOK),
    ("xl/workbook.xml", WORKBOOK),
    (
        "word/document.xml",
        Kind("a Word document", (".docx",), "Give the table in it, saved as CSV."),
    ),
    (
        "ppt/presentation.xml",
        Kind("a PowerPoint file", (".pptx",), "Give the table in it, saved as CSV."),
    ),
    ("mimetype", OPEN_DOCUMENT),
    ("[Content_Types].xml", WORKBOOK),
)
_BEGINNINGS = (
    (b"\xd0\xcf\x11\xe0", OLD_WORKBOOK),
    (b"\x1f\x8b", Kind("compressed (gzip)", (".gz",), "Give it the ending {ending}.gz.")),
    (b"BZh", Kind("compressed (bzip2)", (".bz2",), "Give it the ending {ending}.bz2.")),
    (b"\xfd7zXZ", Kind("compressed (xz)", (".xz",), "Give it the ending {ending}.xz.")),
    (b"\x28\xb5\x2f\xfd", Kind("compressed (zstd)", (".zst",), "Give it the ending {ending}.zst.")),
    (b"%PDF", Kind("a PDF document", (".pdf",), "Give the table from which it was made.")),
    (
        b"SQLite format 3",
        Kind("an SQLite database", (".sqlite", ".db"), "Export the table as CSV."),
    ),
    (
        b"version https://git-lfs",
        Kind("a pointer of Git LFS, not the data", (), "Fetch it: git lfs pull"),
    ),
    (b"PAR1", PARQUET),
    (b"ARROW1", FEATHER),
    (b"FEA1", Kind("a Feather file of the old format", (), "Write it again, as Parquet.")),
)
_MARKUP = (
    (b"<!doctype html", Kind("a web page", (".html", ".htm"), _WEB)),
    (b"<html", Kind("a web page", (".html", ".htm"), _WEB)),
    (b"<?xml", Kind("XML", (".xml",), "Export the table as CSV.")),
)
_CALLED = {
    ".csv": "CSV",
    ".tsv": "TSV",
    ".tab": "TSV",
    ".feather": "a Feather file",
    ".arrow": "an Arrow file",
}
READ = {
    ending: _CALLED.get(ending, kind.what)
    for kind in (TEXT, JSON_TEXT, WORKBOOK, PARQUET, FEATHER)
    for ending in kind.endings
}
"""Endings of the formats that are read, and what these are called."""
NOT_READ = {
    ending: kind
    for kind in (OLD_WORKBOOK, BINARY_WORKBOOK, OPEN_DOCUMENT, ARCHIVE)
    for ending in kind.endings
}
"""Endings that say that a file cannot be read, and what it is."""
_OBJECT = re.compile(rb'\s*(\[\s*)?\{\s*("[^"]*"\s*:|\})')
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def kind_of(path: Path, *, packed: bool = False) -> Kind:
    """The kind of a file; of a compressed one what is inside, unless it is to be taken as `packed`."""
    if packed or packing(path) is None:
        with path.open("rb") as file:
            start = file.read(_LOOK)
    else:
        with opened(path) as file:
            start = file.read(_LOOK)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _of_archive(start, path if packed else seekable(path))
    for beginning, kind in _BEGINNINGS:
        if start.startswith(beginning):
            return kind
    return _of_text(_as_ascii(start))


def _of_archive(start: bytes, content: Path | io.BytesIO) -> Kind:
    try:
        with zipfile.ZipFile(content) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):  # cut off: what its beginning shows
        names = [name for name, _ in _MEMBERS if name.encode() in start]
    for name, kind in _MEMBERS:
        if name in names:
            return kind
    return _ZIP


def _as_ascii(start: bytes) -> bytes:
    """The beginning of a text, in an encoding whose ASCII characters are bytes."""
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return start.decode("utf-32", "ignore").encode()
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return start.decode("utf-16", "ignore").encode()
    empty = [byte == 0 for byte in start[:4]]
    if empty == [False, True, False, True]:
        return start.decode("utf-16-le", "ignore").encode()
    if empty == [True, False, True, False]:
        return start.decode("utf-16-be", "ignore").encode()
    return start.removeprefix(codecs.BOM_UTF8)


def _of_text(start: bytes) -> Kind:
    bare = start.lstrip()
    if not bare:
        return BLANK
    for beginning, kind in _MARKUP:
        if bare[: len(beginning)].lower() == beginning:
            return kind
    if _CONTROL.search(start.split(b"\n", 1)[0]):
        return BINARY
    lines = [line.strip() for line in bare.splitlines()[:_LINES]]
    return JSON_TEXT if _OBJECT.match(bare) or any(map(_is_json, lines)) else TEXT


def _is_json(line: bytes) -> bool:
    """Whether a line may be one of a JSON file: an object or a list, or the beginning of one."""
    if line.startswith(b"{"):
        return bool(_OBJECT.match(line)) or len(line) == 1
    try:
        return isinstance(json.loads(line), list | dict)
    except (ValueError, RecursionError):
        return line in (b"[", b"[{")
