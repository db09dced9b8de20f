"""One canonical byte form for everything that is signed, hashed or sent.

A message is a frozen dataclass whose annotations say what its fields may hold. ``to_bytes`` gives
its only encoding; ``from_bytes`` accepts exactly those bytes and nothing else, so what was signed is
what was parsed. Nothing is executed or unpickled, and no length is believed before it was checked
against the bytes that are there.

Layout: the message's tag, then its fields in order. An int is 8 bytes, big-endian, unsigned; a
float the 8 bytes of a finite IEEE 754 double, big-endian; bytes and str (UTF-8) have a 4-byte
length before them; a tuple has a 4-byte count; a message inside a message has no tag.
"""

from __future__ import annotations

import hashlib
import math
import struct
import typing
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Self

from ...errors import ProtocolError

VERSION = 1

_WRITTEN = "_written"
"""Where a message keeps its encoding after the first use."""


@dataclass(frozen=True)
class Size:
    """Fewest and most bytes of a bytes or str field, or entries of a tuple."""

    least: int
    most: int


MOST_MEMBERS = 10_000

Digest = Annotated[bytes, Size(32, 32)]
"""SHA-256."""
Point = Annotated[bytes, Size(32, 32)]
"""A public key: X25519 (RFC 7748) or Ed25519 (RFC 8032)."""
Signature = Annotated[bytes, Size(64, 64)]
Name = Annotated[str, Size(1, 256)]
"""A member's name in the roster."""
Names = Annotated[tuple[Name, ...], Size(0, MOST_MEMBERS)]
"""Names, ascending, without repetition."""


class Encoded:
    """Base of the frozen dataclasses that have a canonical byte form."""

    version: ClassVar[int] = VERSION
    """Of this kind's fields, and in its tag: a message whose fields changed is another message."""

    def to_bytes(self) -> bytes:
        """The one encoding of this message, tag included. Refuses values that cannot be encoded."""
        kind: Any = type(self)
        return _tag(kind) + _body(kind, self)

    @classmethod
    def from_bytes(cls, data: bytes, peer: str = "the server") -> Self:
        """Inverse of ``to_bytes``; a ``ProtocolError`` that names `peer` for any other bytes."""
        reader = _Reader(data, peer)
        kind: Any = cls
        tag = _tag(kind)
        if reader.take(len(tag)) != tag:
            raise reader.refuse(f"this is not a {cls.__name__}")
        found = _codec(kind).read(reader)
        if reader.left:
            raise reader.refuse(f"{cls.__name__} has {reader.left} bytes too many")
        return typing.cast(Self, found)

    def digest(self) -> bytes:
        """SHA-256 of the encoding."""
        return hashlib.sha256(self.to_bytes()).digest()


class _Reader:
    def __init__(self, data: bytes, peer: str) -> None:
        self._data, self.at, self._peer = bytes(data), 0, peer

    @property
    def left(self) -> int:
        return len(self._data) - self.at

    def take(self, n: int) -> bytes:
        if n > len(self._data) - self.at:
            raise self.refuse("the message ends too early")
        self.at += n
        return self._data[self.at - n : self.at]

    def since(self, begun: int) -> bytes:
        """The bytes that were taken since `begun`: there is no other encoding of what they say."""
        return self._data[begun : self.at]

    def length(self, size: Size) -> int:
        n = int.from_bytes(self.take(4), "big")
        if not size.least <= n <= size.most:
            raise self.refuse(f"a length of {n} is not between {size.least} and {size.most}")
        return n

    def sized(self, size: Size) -> bytes:
        """``take`` of as many bytes as the ``length`` before them says, in one step: most is read so."""
        begun, there = self.at + 4, len(self._data)
        n = int.from_bytes(self._data[self.at : begun], "big")
        if begun + n > there or not size.least <= n <= size.most:
            return self.take(self.length(size))  # which says what is wrong
        self.at = begun + n
        return self._data[begun : self.at]

    def refuse(self, text: str) -> ProtocolError:
        return ProtocolError("encoding", self._peer, text)


@dataclass(frozen=True)
class _Codec:
    write: Callable[[Any, list[bytes]], None]
    read: Callable[[_Reader], Any]


@cache
def _tag(kind: Any) -> bytes:
    return _prefixed(f"umbel secure aggregation {kind.version} {kind.__name__}".encode())


def _prefixed(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


@cache
def _codec(kind: Any) -> _Codec:
    hints = typing.get_type_hints(kind, include_extras=True)
    parts = [(field.name, _field(hints[field.name])) for field in fields(kind)]

    def write(message: Any, out: list[bytes]) -> None:
        # A message never changes, and the same one stands in many others.
        known = message.__dict__.get(_WRITTEN)
        if known is None:
            own: list[bytes] = []
            for name, codec in parts:
                codec.write(getattr(message, name), own)
            known = message.__dict__[_WRITTEN] = b"".join(own)
        out.append(known)

    def read(reader: _Reader) -> Any:
        begun = reader.at
        values = {name: codec.read(reader) for name, codec in parts}
        try:
            message = kind(**values)
        except ValueError as error:
            raise reader.refuse(str(error)) from None
        message.__dict__[_WRITTEN] = reader.since(begun)
        return message

    return _Codec(write, read)


def _body(kind: Any, message: Any) -> bytes:
    out: list[bytes] = []
    _codec(kind).write(message, out)
    return b"".join(out)


def _field(hint: Any) -> _Codec:
    size = Size(0, 0)
    if typing.get_origin(hint) is Annotated:
        hint, size = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        return _tuple(_field(typing.get_args(hint)[0]), size)
    simple = {int: _int, float: _float, bool: _bool}
    if hint in simple:
        return simple[hint]()
    if hint is bytes:
        return _bytes(size)
    if hint is str:
        return _str(size)
    if isinstance(hint, type) and issubclass(hint, Encoded):
        nested: Any = hint
        return _codec(nested)
    raise TypeError(f"A field of type {hint} has no canonical encoding")


def _int() -> _Codec:
    def write(value: Any, out: list[bytes]) -> None:
        if type(value) is not int or not 0 <= value < 2**64:
            raise ValueError(f"{value!r} is not a whole number below 2^64")
        out.append(value.to_bytes(8, "big"))

    return _Codec(write, lambda reader: int.from_bytes(reader.take(8), "big"))


def _bool() -> _Codec:
    def write(value: Any, out: list[bytes]) -> None:
        if type(value) is not bool:
            raise ValueError(f"{value!r} is neither true nor false")
        out.append(b"\1" if value else b"\0")

    def read(reader: _Reader) -> bool:
        byte = reader.take(1)
        if byte not in (b"\0", b"\1"):
            raise reader.refuse("a truth value is neither 0 nor 1")
        return byte == b"\1"

    return _Codec(write, read)


def _float() -> _Codec:
    def write(value: Any, out: list[bytes]) -> None:
        if type(value) is not float or not math.isfinite(value):
            raise ValueError(f"{value!r} is not a finite number")
        out.append(struct.pack(">d", value))

    def read(reader: _Reader) -> float:
        (value,) = struct.unpack(">d", reader.take(8))
        if not math.isfinite(value):
            raise reader.refuse("a number is not finite")
        return float(value)

    return _Codec(write, read)


def _bytes(size: Size) -> _Codec:
    def write(value: Any, out: list[bytes]) -> None:
        if type(value) is not bytes or not size.least <= len(value) <= size.most:
            raise ValueError(f"bytes of a length outside {size.least} to {size.most}")
        out.append(_prefixed(value))

    return _Codec(write, lambda reader: reader.sized(size))


def _str(size: Size) -> _Codec:
    inner = _bytes(size)

    def write(value: Any, out: list[bytes]) -> None:
        if type(value) is not str or not value.isprintable():
            raise ValueError(f"{value!r} is not a printable text")
        inner.write(value.encode(), out)

    def read(reader: _Reader) -> str:
        try:
            value = str(inner.read(reader), "utf-8")
        except UnicodeDecodeError:
            raise reader.refuse("a text is not UTF-8") from None
        if not value.isprintable():
            raise reader.refuse("a text has unprintable characters")
        return value

    return _Codec(write, read)


def _tuple(entry: _Codec, size: Size) -> _Codec:
    def write(value: Any, out: list[bytes]) -> None:
        if type(value) is not tuple or not size.least <= len(value) <= size.most:
            raise ValueError(
                f"a tuple with fewer than {size.least} or more than {size.most} entries"
            )
        out.append(len(value).to_bytes(4, "big"))
        for each in value:
            entry.write(each, out)

    def read(reader: _Reader) -> tuple[Any, ...]:
        n = reader.length(size)
        if n > reader.left:  # an entry has at least one byte
            raise reader.refuse("the message ends too early")
        return tuple(entry.read(reader) for _ in range(n))

    return _Codec(write, read)


def ascending(names: tuple[str, ...], what: str) -> None:
    """Refuse (``ValueError``) names that are not sorted or occur twice: a set has one encoding."""
    if any(first >= second for first, second in pairwise(names)):
        raise ValueError(f"{what} are not in ascending order, or one occurs twice")
