"""What a file that is to hold records really is, told by its name and its first bytes.

For a person at a terminal only: a first record can look like anything, so a data owner's agent, whose
refusals must not depend on records, does not ask.
"""

from __future__ import annotations

import codecs
import shlex
from pathlib import Path

from ...errors import DataError
from .packing import ending, inner_name, opened, packing

FORMATS = (
    "a .csv, .tsv, .jsonl, .json, .xlsx, .parquet or .feather file, also compressed (.gz, .bz2, .xz, .zst, "
    "or .zip with one file), or a folder of datasets.save_to_disk"
)

_EXCEL = "an Excel workbook"
_SAVE_AS = "Save it as .xlsx there, and name that file."
_LOOK = 512

_SIGNATURES = (
    (b"\xd0\xcf\x11\xe0", "an Excel workbook of the old format, or one with a password", _SAVE_AS),
    (b"\x1f\x8b", "compressed (gzip)", "Give it the ending {ending}.gz."),
    (b"BZh", "compressed (bzip2)", "Give it the ending {ending}.bz2."),
    (b"\xfd7zXZ", "compressed (xz)", "Give it the ending {ending}.xz."),
    (b"\x28\xb5\x2f\xfd", "compressed (zstd)", "Give it the ending {ending}.zst."),
    (b"%PDF", "a PDF document", "Give the table from which it was made."),
    (b"SQLite format 3", "an SQLite database", "Export the table as CSV."),
    (
        b"version https://git-lfs",
        "a pointer of Git LFS, not the data",
        "Fetch it: git lfs pull",
    ),
    (b"PAR1", "a Parquet file", "Give it the ending .parquet."),
    (b"ARROW1", "a Feather (Arrow) file", "Give it the ending .feather."),
    (b"<!doctype html", "a web page", "Download the data itself: this may be a page to log in."),
    (b"<html", "a web page", "Download the data itself: this may be a page to log in."),
)
_OWN = {
    ".parquet": b"PAR1",
    ".feather": b"ARROW1",
    ".arrow": b"ARROW1",
    ".xlsx": b"PK",
    ".xlsm": b"PK",
}
"""The first bytes of files whose names are correct."""
_NAMES = {
    ".xls": (_EXCEL, _SAVE_AS),
    ".xlsb": (_EXCEL, _SAVE_AS),
    ".ods": ("an OpenDocument sheet", "Save it as .xlsx or CSV there, and name that file."),
    ".tar": ("an archive", "Unpack it, and name the file with the records."),
    ".tgz": ("an archive", "Unpack it, and name the file with the records."),
}


def refuse_other_kinds(path: Path) -> None:
    """Raise ``DataError`` for a file that is none of those that can be read, whatever its name says."""
    found = _kind(path)
    if found is not None:
        kind, remedy = found
        raise DataError(f"{path} is {kind}. {remedy}")


def unknown_format(path: Path) -> DataError:
    """The error for a file whose ending says nothing, with what it could be."""
    suffix = ending(path)
    found = _NAMES.get(suffix) or _NAMES.get(path.suffix.lower())
    if found is not None:
        return DataError(f"{path} is {found[0]}, which Umbel does not read. {found[1]}")
    if suffix == ".txt":
        return DataError(
            f"{path} has the ending .txt. If it is a table, give it the ending .csv or .tsv (the "
            "header says what separates the columns). If it has one text per line, give it a "
            f"header and the ending .tsv: (echo text; cat {shlex.quote(str(path))}) > "
            f"{shlex.quote(f'{path.stem}.tsv')}"
        )
    what = f"the ending {suffix!r}" if suffix else "no ending"
    inside = f" holds {inner_name(path)!r}, which" if packing(path) else ""
    return DataError(f"{path}{inside} has {what}, which does not tell its format. Give {FORMATS}.")


def no_dataset(path: Path) -> str:
    """What is wrong with a folder that ``datasets`` did not write."""
    return (
        f"{path} is a folder without state.json or dataset_dict.json, so it is not a saved dataset. "
        f"Give {FORMATS}."
    )


def _kind(path: Path) -> tuple[str, str] | None:
    if not path.is_file():
        return None
    with opened(path) as file:
        start = file.read(_LOOK).removeprefix(codecs.BOM_UTF8)
    suffix = ending(path)
    if suffix in _OWN and start.startswith(_OWN[suffix]):
        return None
    if start.startswith(b"PK\x03\x04"):
        if suffix in _NAMES:
            return _NAMES[suffix]
        if b"xl/" in start or b"[Content_Types]" in start:
            return _EXCEL, "Give it the ending .xlsx."
        return "a zip archive", "Give it the ending .zip if it holds one file, else unpack it."
    beginning = start.lstrip().lower()
    for signature, kind, remedy in _SIGNATURES:
        if beginning.startswith(signature.lower()):
            return kind, remedy.format(ending=suffix)
    return None
