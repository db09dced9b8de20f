"""Tell a file that is not UTF-8, before its text is spoilt, and say how to convert it."""

from __future__ import annotations

import codecs
import re
import shlex
from pathlib import Path

from ..errors import DataError

_LOOK = 512
_CONTROL = re.compile(rb"[\x01-\x08\x0e-\x1a\x1c-\x1f]")
"""Not zero, which UTF-16 is full of, nor escape, which encodings of East Asia begin with."""

UTF8_FILES = (".csv", ".tsv", ".jsonl", ".ndjson")


def check_utf8(path: Path) -> None:
    """Raise ``DataError`` with line and byte offset unless all of the file is UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise DataError(_explain_encoding(path)) from None


def _explain_encoding(path: Path) -> str:
    first, offset, start, bad, good = 0, 0, 0, 0, 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                return f"{path} is UTF-16, not UTF-8. Convert it: {_conversion(path, 'utf-16')}"
            if number == 1 and _CONTROL.search(line[:_LOOK]):
                return f"{path} does not hold text, but binary data. Check the path."
            try:
                good += not line.decode().isascii()
            except UnicodeDecodeError as error:
                bad += 1
                if bad == 1:
                    first, offset = number, start + error.start
            start += len(line)
    where = f"{path} is not UTF-8: line {first}, byte {offset} of the file"
    if good:
        return (
            f"{where}. It mixes encodings: {bad} lines are not UTF-8, while {good} others hold "
            "UTF-8 characters beyond ASCII, so converting the whole file would damage those. "
            "Convert each part with its own encoding before joining them."
        )
    # Latin-1 is a part of Windows-1252 but for control characters, which no text holds.
    return (
        f"{where}. If it comes from Windows or Excel it is Windows-1252 as a rule; convert it: "
        f"{_conversion(path, 'cp1252')}"
    )


def _conversion(path: Path, encoding: str) -> str:
    new = shlex.quote(f"{path.stem}-utf8{path.suffix}")
    return f"iconv -f {encoding} -t utf-8 {shlex.quote(str(path))} > {new}"
