"""What a file that is to hold records really is, told by its name and its first bytes.

For a person at a terminal only: a first record can look like anything, so a data owner's agent, whose
refusals must not depend on records, does not ask.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from ...errors import DataError
from ...tasks.spec import task_that_reads
from .encoding import TEXT_FILES, by_beginning
from .kinds import BINARY, BLANK, JSON_TEXT, NOT_READ, READ, TEXT, Kind, kind_of
from .packing import ending, inner_name, packing
from .picture_files import holds_pictures

FORMATS = (
    "a .csv, .tsv, .jsonl, .json, .xlsx, .parquet or .feather file, also compressed (.gz, .bz2, .xz, .zst, "
    "or .zip with one file), a folder of datasets.save_to_disk, or a folder with .txt files in a folder for "
    "each class"
)

_SHAPELESS = (TEXT, JSON_TEXT, BINARY)


def refuse_other_kinds(path: Path) -> None:
    """Raise ``DataError`` for a file whose first bytes are not those of the format that its name says."""
    if not path.is_file() or path.stat().st_size == 0:
        return
    packed = packing(path)
    if packed:
        outer = kind_of(path, packed=True)
        if path.suffix.lower() not in outer.endings:
            remedy = outer.remedy.format(ending=path.suffix)
            raise DataError(f"{path} cannot be unpacked as {packed}: it is {outer.what}. {remedy}")
    kind, suffix = kind_of(path), ending(path)
    if _fits(kind, suffix):
        return
    named = READ.get(suffix) or (NOT_READ[suffix].what if suffix in NOT_READ else "")
    is_not = f", not {named}" if named and kind in _SHAPELESS else ""
    raise DataError(f"{path} is {kind.what}{is_not}. {kind.remedy.format(ending=suffix)}")


def _fits(kind: Kind, suffix: str) -> bool:
    if suffix in NOT_READ:
        return kind is BINARY
    if suffix not in READ:  # lines of text, or what ``unknown_format`` refuses
        return kind in _SHAPELESS or kind is BLANK
    # Whether binary data are text in some encoding is told by a look at all of them (``encoding``).
    return suffix in kind.endings or (kind is BINARY and suffix in TEXT_FILES)


def unknown_format(path: Path) -> DataError:
    """The error for a file whose ending says nothing, with what it could be."""
    suffix = ending(path)
    found = NOT_READ.get(suffix) or NOT_READ.get(path.suffix.lower())
    if found is not None:
        return DataError(f"{path} is {found.what}: Umbel does not read that. {found.remedy}")
    if suffix == ".txt":
        return DataError(
            f"{path} has the ending .txt. If it is a table, give it the ending .csv or .tsv (the "
            "header says what separates the columns). If it has one text per line, give it a "
            f"header and the ending .tsv: (echo text; {_as_utf8(path)}) > "
            f"{shlex.quote(f'{path.stem}.tsv')}"
        )
    what = f"the ending {suffix!r}" if suffix else "no ending"
    inside = f" holds {inner_name(path)!r}, which" if packing(path) else ""
    return DataError(f"{path}{inside} has {what}, which does not tell its format. Give {FORMATS}.")


def _as_utf8(path: Path) -> str:
    """A command that writes a file of text in the encoding of the header that is put before it."""
    named = {
        "utf_16": "UTF-16",
        "utf_16_le": "UTF-16LE",
        "utf_16_be": "UTF-16BE",
        "utf_32": "UTF-32",
    }
    found = named.get((by_beginning(path) if path.is_file() else None) or "")
    return f"{f'iconv -f {found} -t UTF-8' if found else 'cat'} {shlex.quote(str(path))}"


def no_dataset(path: Path) -> str:
    """What is wrong with a folder that ``datasets`` did not write."""
    if holds_pictures(path):
        return (
            f"{path} holds pictures. A model for pictures learns from them: umbel simulate --task "
            f"{task_that_reads('pictures')} --data {shlex.quote(str(path))} --set model.base=FOLDER, "
            "with the folder of a vision model such as DINOv2 or ViT."
        )
    return (
        f"{path} is a folder without state.json or dataset_dict.json, so it is not a saved dataset. "
        f"Give {FORMATS}."
    )
