"""In which encoding a file of text is written: what it begins with, what was said of it, or a guess.

A guess looks at all of a file. So it is made for a person at a terminal, who is told of it; a data
owner's agent reads by what was declared (``layout``).
"""

from __future__ import annotations

import codecs
import io
import re
import shlex
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

from ...errors import DataError
from ...quantities import counted, verb
from .packing import opened

TEXT_FILES = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".json", ".txt")

NAMES = {
    "cp1252": "Windows-1252, Western European",
    "cp1250": "Windows-1250, Central European",
    "iso8859_2": "ISO 8859-2, Central European",
    "cp1251": "Windows-1251, Cyrillic",
    "koi8_r": "KOI8-R, Cyrillic",
    "cp1253": "Windows-1253, Greek",
    "cp1254": "Windows-1254, Turkish",
    "mac_roman": "Mac Roman",
    "cp850": "DOS 850",
    "gb18030": "GB 18030, simplified Chinese",
    "big5": "Big5, traditional Chinese",
    "cp932": "Shift JIS, Japanese",
    "euc_jp": "EUC-JP, Japanese",
    "cp949": "EUC-KR, Korean",
}
"""The encodings to guess from, without ISO 8859-1: that is Windows-1252 with control characters in place of
quotes and dashes."""

TOLERATED = 0.01
"""Share of records that may be unreadable: they are left out, and reported. More stop the reading."""

_LOOK = 512
_SAMPLE = 1 << 17
_MIXED = 0.2
"""If at least this share of non-ASCII lines is UTF-8, the file is not in another encoding."""
_CONTROL = re.compile(rb"[\x01-\x08\x0e-\x1a\x1c-\x1f]")
"""Neither zero, which UTF-16 is full of, nor escape, with which East Asian encodings begin."""
_C1 = re.compile("[\x80-\x9f]")
_KANA = re.compile("[\u3041-\u3096\u30a1-\u30fa]")
_BAD = "\udcff"
"""Stands for bytes that cannot be decoded: half of a pair, which no valid text holds."""

codecs.register_error("umbel.bad", lambda error: (_BAD, error.end))  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Found:
    """A file's encoding, and a phrase that says how it was found; "" if there is nothing to say."""

    codec: str
    said: str = ""


def by_beginning(path: Path) -> str | None:
    """The encoding that a file's first bytes show; no record has a part in them."""
    with opened(path) as stream:
        start = stream.read(4)
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf_32"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf_16"
    if start.startswith(codecs.BOM_UTF8):
        return "utf_8"
    empty = [byte == 0 for byte in start]
    if empty == [False, True, False, True]:
        return "utf_16_le"
    return "utf_16_be" if empty == [True, False, True, False] else None


def usual_codec(path: Path, declared: str | None) -> str:
    """What to read a file with if nobody looks at its records."""
    begins = by_beginning(path)
    if declared is None:
        return begins or "utf_8"
    codec = codec_of(declared)
    if not codec.startswith("utf"):
        return codec
    # Without a mark of its order, a file is as most machines write it.
    return begins or {"utf_16": "utf_16_le", "utf_32": "utf_32_le"}.get(codec, codec)


@contextmanager
def text_of(path: Path, codec: str, newline: str = "") -> Iterator[TextIO]:
    """The characters of a file, line ends as they are; what cannot be decoded is half of a pair."""
    with opened(path) as stream:
        marks = {
            "utf_8": codecs.BOM_UTF8,
            "utf_16_le": codecs.BOM_UTF16_LE,
            "utf_16_be": codecs.BOM_UTF16_BE,
        }
        mark = marks.get(codec, b"")
        if mark and stream.peek(4).startswith(mark):  # type: ignore[attr-defined]
            stream.read(len(mark))
        yield io.TextIOWrapper(stream, encoding=codec, errors="umbel.bad", newline=newline)


def is_text(value: str) -> bool:
    """Whether it is made of whole characters, none of them half of a pair or a stray byte."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def codec_of(name: str) -> str:
    """The codec that a person means; raises ``DataError`` for a name that none has."""
    try:
        io.TextIOWrapper(io.BytesIO(), encoding=name)  # some codecs are not of texts
        return codecs.lookup(name).name.replace("-", "_")
    except (LookupError, ValueError):
        raise DataError(
            f"{name!r:.40} is not the name of an encoding. Examples: utf-8, cp1252 (Windows), "
            "gb18030, shift_jis."
        ) from None


def find_encoding(path: Path, declared: str | None = None) -> Found:
    """Look at all of a file. Raises ``DataError`` if it holds no text, or nothing tells which."""
    begins = by_beginning(path)
    if declared is not None:
        codec = usual_codec(path, declared)
        _check_declared(path, codec, declared)
        return Found(codec, f"encoding {declared}, as set")
    lines = _Lines.of(path)
    if begins in ("utf_16", "utf_32", "utf_16_le", "utf_16_be"):
        return Found(begins, f"encoding {begins.replace('_', '-')}")
    if not lines.bad:
        return Found("utf_8")
    return _other(path, lines)


class _Lines:
    """What the lines of a file are, if it were UTF-8."""

    @classmethod
    def of(cls, path: Path) -> _Lines:
        lines = cls()
        if by_beginning(path) in (None, "utf_8"):
            with opened(path) as stream:
                lines.read(path, stream)
        return lines

    def __init__(self) -> None:
        self.all = self.bad = self.good = self.first = self.offset = 0
        self.beyond = b""
        """Lines that are not ASCII, up to some length: they distinguish encodings."""

    def read(self, path: Path, stream: BinaryIO) -> None:
        start = 0
        for number, line in enumerate(stream, start=1):
            if number == 1 and _CONTROL.search(line[:_LOOK]):
                raise DataError(f"{path} holds binary data, not text. Check the path.")
            self.all += 1
            if not line.isascii():
                self._beyond(line, number, start)
            start += len(line)

    def _beyond(self, line: bytes, number: int, start: int) -> None:
        try:
            line.decode()
            self.good += 1
        except UnicodeDecodeError as error:
            self.bad += 1
            if self.bad == 1:
                self.first, self.offset = number, start + error.start
            if len(self.beyond) < _SAMPLE:
                self.beyond += line


def _other(path: Path, lines: _Lines) -> Found:
    """A file that is not UTF-8 as a whole."""
    where = f"{path} is not UTF-8: line {lines.first}, byte {lines.offset} of the file"
    if lines.good >= _MIXED * (lines.good + lines.bad):
        if lines.bad <= TOLERATED * lines.all:
            said = f"{counted(lines.bad, 'line')} {verb(lines.bad, 'is', 'are')} not UTF-8"
            return Found("utf_8", said)
        raise DataError(
            f"{where}. It mixes encodings: {lines.bad} lines are not UTF-8, while {lines.good} others have "
            "non-ASCII characters in UTF-8, so converting the whole file would damage those. Convert each "
            "part with its own encoding before joining them."
        )
    codec = guess(lines.beyond)
    if codec is None or _undecodable(path, codec) > TOLERATED * lines.all:
        raise DataError(
            f"{where}, and its encoding cannot be detected. Save it as UTF-8, or name its encoding: "
            'data.encoding = "..." in the job file, --encoding in commands. To try one by hand: '
            f"{_conversion(path, 'NAME')}"
        )
    return Found(
        codec,
        f"encoding {codec} ({NAMES[codec]}), guessed from {counted(lines.bad, 'line')} that "
        f"{verb(lines.bad, 'is', 'are')} not UTF-8; if letters look wrong, set another with data.encoding "
        "or --encoding",
    )


def guess(sample: bytes) -> str | None:
    """The encoding of lines that are not UTF-8; None if nothing fits. Deterministic."""
    from charset_normalizer import from_bytes

    fits = {codec: text for codec in NAMES if (text := _decoded(sample, codec)) is not None}
    # Kana stand at places where Korean and Chinese encodings have other letters or none.
    for codec in ("cp932", "euc_jp"):
        if codec in fits and _share(_KANA, fits[codec]) > 0.2:
            return codec
    if not fits:
        return None
    ranked = [
        (round(match.chaos, 2), -round(match.coherence, 2), codec)
        for match in from_bytes(sample, cp_isolation=list(fits))
        for codec in {match.encoding, *match.could_be_from_charset}
        if codec in fits
    ]
    if not ranked:
        return None
    best = min(ranked)
    alike = {
        codec
        for *score, codec in ranked
        if score[0] <= best[0] + 0.01 and score[1] <= best[1] + 0.05
    }
    return min(alike, key=list(NAMES).index)


def _decoded(sample: bytes, codec: str) -> str | None:
    """The sample as text; None if it cannot be, or would hold control characters."""
    try:
        text = sample.decode(codec)
    except UnicodeDecodeError:
        return None
    odd = any(unicodedata.category(c) in ("Co", "Cn") for c in set(text))
    return None if odd or _C1.search(text) else text


def _share(pattern: re.Pattern[str], text: str) -> float:
    beyond = sum(not c.isascii() for c in text)
    return len(pattern.findall(text)) / max(1, beyond)


def _undecodable(path: Path, codec: str) -> int:
    with text_of(path, codec) as text:
        return sum(_BAD in line for line in text)


def _check_declared(path: Path, codec: str, declared: str) -> None:
    """Refuse an encoding in which a file would be spoilt."""
    as_utf8 = _Lines.of(path)
    if as_utf8.good and not as_utf8.bad and codec != "utf_8":
        raise DataError(
            f"{path} is UTF-8, not {declared}: {as_utf8.good:,} lines have non-ASCII characters "
            "in UTF-8. Remove data.encoding (--encoding)."
        )
    bad = controls = lines = 0
    with text_of(path, codec) as text:
        for line in text:
            lines += 1
            bad += _BAD in line
            controls += bool(_C1.search(line))
    if bad > TOLERATED * lines:
        raise DataError(
            f"{path} is not {declared}: {bad:,} of its {lines:,} lines cannot be read that way. "
            "Remove data.encoding (--encoding) to have it detected, or set another."
        )
    if controls and codec in ("iso8859_1", "latin_1", "iso8859_15"):
        raise DataError(
            f"{path} is not {declared}: {controls:,} lines would have control characters. At these codes "
            "Windows-1252 has quotes and dashes: set cp1252."
        )


def _conversion(path: Path, encoding: str) -> str:
    new = shlex.quote(f"{path.stem}-utf8{path.suffix}")
    return f"iconv -f {encoding} -t utf-8 {shlex.quote(str(path))} > {new}"
