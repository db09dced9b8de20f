"""The canonical encoding: one byte form for each message, and nothing else is taken for it."""

from __future__ import annotations

import math
import random
import struct
from dataclasses import dataclass, fields
from typing import Annotated

import pytest

from umbel.errors import ProtocolError
from umbel.privacy.secagg.encoding import MOST_MEMBERS, Encoded, Names, Size, ascending
from umbel.privacy.secagg.fixed_point import Layout
from umbel.privacy.secagg.keys import PublicIdentity
from umbel.privacy.secagg.messages import (
    Manifest,
    PrekeyReply,
    Reveal,
    RevealedShare,
    RevealRequest,
    SealedShares,
    Slot,
    Survivors,
)
from umbel.privacy.secagg.roster import Entry, Limits, Roster

PEER = "member seven"


@dataclass(frozen=True)
class Sample(Encoded):
    """One field of each kind."""

    number: int
    real: float
    yes: bool
    data: Annotated[bytes, Size(2, 5)]
    text: Annotated[str, Size(1, 8)]
    names: Names
    inner: Layout
    pair: Annotated[tuple[Layout, ...], Size(0, 2)]


SAMPLE = Sample(7, 1.5, True, b"abc", "täg", ("a", "b"), Layout(1, 2, 3), (Layout(4, 5, 6),))
TAG = len(b"umbel secure aggregation 1 Sample") + 4
OFFSETS = {"number": 0, "real": 8, "yes": 16, "data": 17, "text": 24, "names": 32}


def refused(kind: type[Encoded], data: bytes, match: str | None = None) -> None:
    with pytest.raises(ProtocolError, match=match) as error:
        kind.from_bytes(data, PEER)
    assert (error.value.rule, error.value.peer) == ("encoding", PEER)


def changed(field: str, replacement: bytes, at: int = 0) -> bytes:
    """The sample's bytes with some of a field's bytes replaced."""
    data = bytearray(SAMPLE.to_bytes())
    start = TAG + OFFSETS[field] + at
    data[start : start + len(replacement)] = replacement
    return bytes(data)


@pytest.fixture(scope="module")
def messages(message_kinds, message_of):
    """A few messages of every class."""
    return [message_of(kind, random.Random(seed)) for kind in message_kinds for seed in range(12)]


def test_every_message_comes_back_from_its_bytes(messages, message_kinds):
    assert len(message_kinds) > 30
    for message in messages:
        data = message.to_bytes()
        found = type(message).from_bytes(data)
        assert found == message
        assert found.to_bytes() == data


def test_no_two_messages_have_the_same_bytes(messages):
    by_bytes = {}
    for message in messages:
        known = by_bytes.setdefault(message.to_bytes(), message)
        assert type(known) is type(message)
        assert known == message
    assert len({message.digest() for message in by_bytes.values()}) == len(by_bytes)


def test_every_cut_is_refused(messages):
    for message in messages:
        data = message.to_bytes()
        for end in range(0, len(data), max(1, len(data) // 100)):
            refused(type(message), data[:end])


@pytest.mark.parametrize("more", [b"\0", b"x", bytes(4), bytes(1000)])
def test_trailing_bytes_are_refused(more, messages):
    for message in messages:
        refused(type(message), message.to_bytes() + more, "too many")


def test_a_message_is_taken_for_no_message_of_another_class(messages, message_kinds):
    for message in messages[::4]:
        data = message.to_bytes()
        for kind in message_kinds:
            if kind is not type(message):
                refused(kind, data)


def test_another_version_is_refused():
    data = SAMPLE.to_bytes()
    refused(Sample, data.replace(b"aggregation 1", b"aggregation 2"), "this is not a Sample")


def test_any_changed_byte_is_refused_or_another_message_with_those_very_bytes(messages):
    """No two byte forms of one message: what parses encodes to what was parsed."""
    chance = random.Random(0)
    refusals = []
    for message in messages:
        data = message.to_bytes()
        for place in range(0, len(data), max(1, len(data) // 150)):
            other = bytearray(data)
            other[place] ^= chance.choice([1, 2, 4, 8, 16, 32, 64, 128, 255])
            try:
                found = type(message).from_bytes(bytes(other), PEER)
            except ProtocolError as error:
                refusals.append((error.rule, error.peer))
                continue
            assert found.to_bytes() == bytes(other)
            assert found != message
    assert len(refusals) > 1000
    assert set(refusals) == {("encoding", PEER)}


def test_a_changed_tag_or_length_is_always_refused():
    data = SAMPLE.to_bytes()
    for place in [
        *range(TAG),
        *(TAG + 17 + k for k in range(4)),
        *(TAG + 24 + k for k in range(4)),
    ]:
        for bit in range(8):
            other = bytearray(data)
            other[place] ^= 1 << bit
            refused(Sample, bytes(other))


def test_any_changed_byte_of_a_signed_message_is_refused(cohort):
    members = cohort(size=3, limits=Limits(colluders=0.0))
    name = members.names[0]
    reply = members.ask(name, "prekey", members.open_slot().prekey_request.to_bytes())
    for place in range(len(reply)):
        other = bytearray(reply)
        other[place] ^= 1 << (place % 8)
        server = members.open_slot()
        with pytest.raises(ProtocolError) as error:
            server.add_prekey(name, PrekeyReply.from_bytes(bytes(other), name))
        assert error.value.rule in ("encoding", "signature", "sender", "share", "roster")
        assert server.members == []


@pytest.mark.parametrize(
    ("field", "replacement", "at", "match"),
    [
        ("real", struct.pack(">d", math.nan), 0, "not finite"),
        ("real", struct.pack(">d", math.inf), 0, "not finite"),
        ("real", struct.pack(">d", -math.inf), 0, "not finite"),
        ("real", b"\x7f\xf0\0\0\0\0\0\1", 0, "not finite"),
        ("yes", b"\2", 0, "neither"),
        ("yes", b"\xff", 0, "neither"),
        ("data", (1).to_bytes(4, "big"), 0, "a length of 1"),
        ("data", (6).to_bytes(4, "big"), 0, "a length of 6"),
        ("data", b"\xff\xff\xff\xff", 0, "a length of 4294967295"),
        ("data", b"\x80\0\0\0", 0, "a length of"),
        ("text", bytes(4), 0, "a length of 0"),
        ("text", b"\xff\xff\xff\xff", 0, "a length of"),
        ("text", b"\xff", 4, "not UTF-8"),
        ("text", b"t\xc3t", 4, "not UTF-8"),
        ("text", b"\xc0\x80", 4, "not UTF-8"),
        ("text", b"t\xc2\x85", 4, "unprintable"),
        ("text", b"\n", 4, "unprintable"),
        ("text", b"\0", 4, "unprintable"),
        ("text", b"\x7f", 4, "unprintable"),
        ("names", b"\xff\xff\xff\xff", 0, "a length of"),
        ("names", (MOST_MEMBERS + 1).to_bytes(4, "big"), 0, "a length of 10001"),
        ("names", MOST_MEMBERS.to_bytes(4, "big"), 0, "ends too early"),
        ("names", (3).to_bytes(4, "big"), 0, None),
        ("names", (1).to_bytes(4, "big"), 0, None),
    ],
)
def test_what_is_not_the_canonical_form_of_a_field_is_refused(field, replacement, at, match):
    refused(Sample, changed(field, replacement, at), match)


@pytest.mark.parametrize(
    "text", ["a\nb", "a\u202eb", "a\u200bb", "\ud800", "\u00a0", "\t", "\ufeff"]
)
def test_text_that_hides_something_is_neither_written_nor_read(text):
    with pytest.raises(ValueError, match="printable"):
        Slot(text, 1, bytes(32), ("a",)).to_bytes()
    raw = text.encode("utf-8", "surrogatepass")
    good = Slot("x" * len(raw), 1, bytes(32), ("a",)).to_bytes()
    refused(Slot, good.replace(b"x" * len(raw), raw, 1))


@pytest.mark.parametrize(
    "values",
    [
        {"number": -1},
        {"number": 2**64},
        {"number": True},
        {"number": 1.0},
        {"real": math.nan},
        {"real": math.inf},
        {"real": 1},
        {"yes": 1},
        {"data": b"a"},
        {"data": b"abcdef"},
        {"data": "abc"},
        {"data": bytearray(b"abc")},
        {"text": ""},
        {"text": "ä" * 5},
        {"text": b"abc"},
        {"names": ["a"]},
        {"names": ("",)},
        {"names": ("a" * 257,)},
        {"names": tuple("a" for _ in range(MOST_MEMBERS + 1))},
        {"pair": (Layout(1, 1, 1),) * 3},
    ],
    ids=lambda values: str(values)[:40],
)
def test_a_value_that_has_no_encoding_is_not_encoded(values):
    all_values = {field.name: getattr(SAMPLE, field.name) for field in fields(SAMPLE)}
    with pytest.raises(ValueError, match=r"whole|finite|neither|bytes|printable|tuple"):
        Sample(**{**all_values, **values}).to_bytes()


NAMES_OUT_OF_ORDER = [("b", "a"), ("a", "a"), ("a", "c", "b"), ("B", "a", "A"), ("z", "ä", "b")]


@pytest.mark.parametrize("names", NAMES_OUT_OF_ORDER)
def test_names_out_of_order_or_twice_are_refused_where_a_set_is_meant(names):
    with pytest.raises(ValueError, match="ascending"):
        ascending(names, "the names")
    right = tuple(sorted({*names, "q", "r", "s"}))[: len(names)]
    slot = Slot("run", 1, bytes(32), right)
    shares = (bytes(112),) * len(names)
    for message, field in [
        (slot, "cohort"),
        (Survivors(bytes(32), right), "names"),
        (SealedShares(right, shares), "recipients"),
        (
            Manifest(
                slot,
                bytes(32),
                bytes(32),
                Layout(1, 1, 1),
                1,
                1.0,
                True,
                right,
                (bytes(32),) * len(right),
            ),
            "members",
        ),
        (RevealRequest(Survivors(bytes(32), ()), (), right, shares, ()), "senders"),
        (Reveal("me", bytes(32), bytes(32), (), right), "unreadable"),
    ]:
        values = {each.name: getattr(message, each.name) for each in fields(message)}
        with pytest.raises(ValueError, match=r"ascending|not in the cohort"):
            type(message)(**{**values, field: names})
        forged = written_without_checks(message, field, names)
        refused(type(message), forged)


def written_without_checks(message: Encoded, field: str, value: object) -> bytes:
    """The bytes of a message that its class would refuse."""
    message.__dict__.pop("_written", None)  # what it may have been written as before
    object.__setattr__(message, field, value)
    return message.to_bytes()


def test_what_a_class_refuses_is_refused_from_bytes_too():
    share = RevealedShare("a", 1, bytes(32))
    refused(RevealedShare, written_without_checks(share, "kind", 3), "not a kind of share")
    refused(RevealedShare, written_without_checks(share, "kind", 0), "not a kind of share")
    slot = Slot("run", 1, bytes(32), ("a",))
    refused(Slot, written_without_checks(slot, "number", 0), "not the number of a slot")
    refused(Slot, written_without_checks(slot, "number", 2**53), "not the number of a slot")
    sealed = SealedShares(("a",), (bytes(112),))
    refused(SealedShares, written_without_checks(sealed, "shares", ()), "not one share")
    reveal = Reveal("me", bytes(32), bytes(32), (), ())
    twice = (RevealedShare("a", 1, bytes(32)), RevealedShare("a", 2, bytes(32)))
    refused(Reveal, written_without_checks(reveal, "shares", twice), "occurs twice")
    request = RevealRequest(Survivors(bytes(32), ()), (), (), (), ())
    refused(RevealRequest, written_without_checks(request, "sealed", (bytes(112),)), "not one")
    limits = Limits()
    refused(Limits, written_without_checks(limits, "minimum", 2), "below the minimum")
    object.__setattr__(limits, "minimum", 3)
    refused(Limits, written_without_checks(limits, "colluders", 0.5), "colluders")
    one = Entry("a", PublicIdentity(b"1" * 32, b"2" * 32))
    roster = Roster(1, (one,), Limits(), bytes(32))
    for other in (b"1" * 32, b"3" * 32), (b"3" * 32, b"2" * 32), (b"2" * 32, b"3" * 32):
        same_key = (one, Entry("b", PublicIdentity(*other)))
        refused(Roster, written_without_checks(roster, "members", same_key), "same key")
    manifest = Manifest(
        Slot("run", 1, bytes(32), ("a",)),
        bytes(32),
        bytes(32),
        Layout(1, 1, 1),
        1,
        1.0,
        True,
        (),
        (),
    )
    object.__setattr__(manifest, "prekeys", (bytes(32),))
    refused(Manifest, written_without_checks(manifest, "members", ("b",)), "not in the cohort")


def test_the_peer_that_sent_the_bytes_is_named():
    with pytest.raises(ProtocolError, match="rule encoding: member seven:"):
        Slot.from_bytes(b"", PEER)
    with pytest.raises(ProtocolError, match="rule encoding: the server:"):
        Slot.from_bytes(b"")


def test_negative_zero_is_another_message_than_zero_and_keeps_its_sign():
    """Equal as numbers, but each has its bytes, and those are what is hashed."""
    data = changed("real", struct.pack(">d", -0.0))
    assert Sample.from_bytes(data).to_bytes() == data
    assert Sample.from_bytes(data).digest() != Sample.from_bytes(changed("real", bytes(8))).digest()
