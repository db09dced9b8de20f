"""What makes a hostile message of an honest one: mutations of its bytes, and of its values."""

from __future__ import annotations

import random
from dataclasses import fields, is_dataclass, replace

from umbel.privacy.secagg import messages
from umbel.privacy.secagg.encoding import Encoded
from umbel.privacy.secagg.messages import (
    Signed,
)

# Mutations of bytes.


def flip(data, chance, pool):
    for _ in range(chance.choice([1, 1, 1, 2, 8])):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return data


def cut(data, chance, pool):
    return data[: chance.randrange(len(data))]


def extend(data, chance, pool):
    return data + chance.randbytes(chance.choice([1, 4, 100]))


def drop(data, chance, pool):
    start = chance.randrange(len(data))
    return data[:start] + data[start + chance.choice([1, 4, 8, 32, 64]) :]


def repeat(data, chance, pool):
    start = chance.randrange(len(data))
    part = data[start : start + chance.choice([4, 32, 100])]
    return data[:start] + part * chance.choice([2, 3, 20]) + data[start:]


def huge_length(data, chance, pool):
    start = chance.randrange(len(data))
    value = chance.choice([2**32 - 1, 2**31, 2**24, 10_000, 10_001, 0])
    data[start : start + 4] = value.to_bytes(4, "big")
    return data


def odd_number(data, chance, pool):
    start = chance.randrange(len(data))
    value = chance.choice([0, 1, 2**53, 2**63, 2**64 - 1, 0x7FF0000000000000, 0x7FF8000000000000])
    data[start : start + 8] = value.to_bytes(8, "big")
    return data


def overwrite(data, chance, pool):
    """The same place of another message, often one of the same form."""
    other = chance.choice(pool)
    start = chance.randrange(len(data))
    length = chance.choice([4, 32, 64, 200])
    data[start : start + length] = other[start : start + length]
    return data


def splice(data, chance, pool):
    other = chance.choice(pool)
    return data[: chance.randrange(len(data))] + other[chance.randrange(len(other)) :]


def exchange(data, chance, pool):
    return bytearray(chance.choice(pool))


def noise(data, chance, pool):
    return bytearray(chance.randbytes(chance.choice([0, 1, 40, 300])))


def noise_after_tag(data, chance, pool):
    tag = 4 + int.from_bytes(data[:4], "big")
    return data[:tag] + chance.randbytes(chance.choice([0, 8, 200]))


BYTES = [
    flip,
    cut,
    extend,
    drop,
    repeat,
    huge_length,
    odd_number,
    overwrite,
    splice,
    exchange,
    noise,
    noise_after_tag,
]


def mutated(data: bytes, chance: random.Random, pool: list[bytes]) -> bytes:
    return bytes(chance.choice(BYTES)(bytearray(data or b"\0"), chance, pool))


# Mutations of fields: what still parses, and so gets further than the encoding.


class Values:
    """Values of every field type that occur in a set of messages."""

    def __init__(self, all_messages: list[Encoded]) -> None:
        self.by_type: dict[object, list[object]] = {}
        for message in all_messages:
            self._collect(message)

    def _collect(self, value: object) -> None:
        self.by_type.setdefault(shape(value), []).append(value)
        kind = kind_of(value.body) if isinstance(value, Signed) else None
        if kind is not None:
            self._collect(kind.from_bytes(value.body))
        if is_dataclass(value):
            for field in fields(value):
                self._collect(getattr(value, field.name))
        elif isinstance(value, tuple):
            for each in value:
                self._collect(each)

    def other(self, value: object, chance: random.Random) -> object:
        """Another value where this one was."""
        if isinstance(value, bool):
            return not value
        if isinstance(value, int):
            return chance.choice([0, 1, 2, value + 1, max(0, value - 1), 2**53, 2**64 - 1])
        if isinstance(value, float):
            return chance.choice([0.0, -1.0, value * 2, value / 2, 1e300, 5e-324, -0.0])
        known = self.by_type.get(shape(value), [value])
        if isinstance(value, bytes) and chance.random() < 0.4:
            return chance.choice([bytes(len(value)), b"\xff" * len(value), flipped(value, chance)])
        if isinstance(value, tuple) and value and chance.random() < 0.7:
            return some_other_tuple(value, chance, self)
        return chance.choice(known)


def flipped(value: bytes, chance: random.Random) -> bytes:
    return bytes(flip(bytearray(value), chance, [])) if value else value


def some_other_tuple(value, chance, values):
    entries = list(value)
    place = chance.randrange(len(entries))
    kind = chance.randrange(4)
    if kind == 0:
        del entries[place]
    elif kind == 1:
        entries.insert(place, entries[chance.randrange(len(entries))])
    elif kind == 2:
        chance.shuffle(entries)
    else:
        entries[place] = values.other(entries[place], chance)
    return tuple(entries)


def shape(value: object) -> object:
    if isinstance(value, tuple):
        return (tuple, shape(value[0]) if value else None)
    return (bytes, len(value)) if isinstance(value, bytes) else type(value)


def reshaped(message, chance, values, signers):
    """A copy with one field, at any depth, taken from elsewhere.

    A signed body may be changed and signed again by a member that colludes.
    """
    if isinstance(message, Signed) and chance.random() < 0.8:
        kind = kind_of(message.body)
        if kind is None:
            return message
        body = reshaped(kind.from_bytes(message.body), chance, values, signers)
        signer = chance.choice(signers)
        return Signed.by(signer, body)
    field = chance.choice(fields(message))
    value = getattr(message, field.name)
    deeper = [value] if isinstance(value, Encoded) else []
    if isinstance(value, tuple):
        deeper = [each for each in value if isinstance(each, Encoded)]
    if deeper and chance.random() < 0.75:
        old = chance.choice(deeper)
        new = reshaped(old, chance, values, signers)
        if isinstance(value, tuple):
            new = tuple(new if each is old else each for each in value)
    else:
        new = values.other(value, chance)
    return replace(message, **{field.name: new})


def kind_of(body: bytes) -> type[Encoded] | None:
    name = body[4 : 4 + int.from_bytes(body[:4], "big")].decode(errors="replace").rpartition(" ")[2]
    kind = getattr(messages, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, Encoded) else None


# Targets: an entry point with its honest message, and what must hold after a hostile one.
