"""What a file that is to hold records really is, told by its name and its first bytes.

For a person at a terminal only: a first record can look like anything, so a data owner's agent, whose
refusals must not depend on records, does not ask.
"""

from __future__ import annotations

import codecs
import shlex
from pathlib import Path

from ..errors import DataError

FORMATS = "a .csv, .tsv, .jsonl, .ndjson or .parquet file, or a folder of datasets.save_to_disk"

_EXCEL = "an Excel workbook"
_SAVE_AS = 'Save the sheet as "CSV UTF-8" there, and name that file.'
_LOOK = 512

_SIGNATURES = (
    (b"\xd0\xcf\x11\xe0", _EXCEL, _SAVE_AS),
    (b"\x1f\x8b", "compressed (gzip)", "Unpack it: gunzip -c {path} > {new}"),
    (b"BZh", "compressed (bzip2)", "Unpack it: bunzip2 -c {path} > {new}"),
    (b"\xfd7zXZ", "compressed (xz)", "Unpack it: unxz -c {path} > {new}"),
    (b"\x28\xb5\x2f\xfd", "compressed (zstd)", "Unpack it: unzstd -c {path} > {new}"),
    (b"%PDF", "a PDF document", "Give the table it was made from."),
    (b"SQLite format 3", "an SQLite database", "Export the table as CSV."),
    (
        b"version https://git-lfs",
        "a pointer of Git LFS, and not the data",
        "Fetch it: git lfs pull",
    ),
    (b"PAR1", "a Parquet file", "Give it the ending .parquet."),
    (b"<!doctype html", "a web page", "Download the data itself: this may be a page to log in."),
    (b"<html", "a web page", "Download the data itself: this may be a page to log in."),
)
_NAMES = {
    ".xlsx": (_EXCEL, _SAVE_AS),
    ".xls": (_EXCEL, _SAVE_AS),
    ".xlsm": (_EXCEL, _SAVE_AS),
    ".ods": ("an OpenDocument sheet", "Save it as CSV there, with UTF-8, and name that file."),
}


def refuse_other_kinds(path: Path) -> None:
    """Raise ``DataError`` for a file that is none of those that can be read, whatever its name says."""
    found = _kind(path)
    if found is not None:
        kind, remedy = found
        raise DataError(f"{path} is {kind}. {remedy}")


def unknown_format(path: Path) -> DataError:
    """The error for a file whose ending says nothing, with what it could be."""
    found = _NAMES.get(path.suffix.lower())
    if found is not None:
        return DataError(f"{path} is {found[0]}, which Umbel does not read. {found[1]}")
    if path.suffix.lower() == ".json":
        to = shlex.quote(f"{path.stem}.jsonl")
        return DataError(
            f"{path} is one JSON document; Umbel reads lines of JSON, one object per record. "
            f"If it is a list of objects: jq -c '.[]' {shlex.quote(str(path))} > {to}"
        )
    ending = f"the ending {path.suffix!r}" if path.suffix else "no ending"
    return DataError(f"{path} has {ending}, which does not say what is in it. Give {FORMATS}.")


def no_dataset(path: Path) -> str:
    """What is wrong with a folder that ``datasets`` did not write."""
    return (
        f"{path} is a folder without state.json or dataset_dict.json, so it is not a saved dataset. "
        f"Give {FORMATS}."
    )


def _kind(path: Path) -> tuple[str, str] | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        start = file.read(_LOOK).removeprefix(codecs.BOM_UTF8)
    if path.suffix.lower() == ".parquet" and start.startswith(b"PAR1"):
        return None
    if start.startswith(b"PK\x03\x04"):
        if b"xl/" in start or b"[Content_Types]" in start or path.suffix.lower() in _NAMES:
            return _NAMES.get(path.suffix.lower(), (_EXCEL, _SAVE_AS))
        return "a zip archive", f"Unpack it: unzip {shlex.quote(str(path))}"
    beginning = start.lstrip().lower()
    for signature, kind, remedy in _SIGNATURES:
        if beginning.startswith(signature.lower()):
            name = path.stem if path.suffix.lower() in (".gz", ".bz2", ".xz", ".zst") else ""
            new = shlex.quote(name or f"{path.stem}-unpacked{path.suffix}")
            return kind, remedy.format(path=shlex.quote(str(path)), new=new)
    return None
