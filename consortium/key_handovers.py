"""How a consortium's keys are replaced: each handover is signed by the consortium's key of that time.

A card holds all of them, oldest first, beside the keys of today. An owner that knows an older card follows
the chain from the keys that it pinned; so no key is ever taken on anybody else's word.

Guarantee: who follows a chain ends with keys that the holder of the pinned consortium key chose. Assumption:
that key was not stolen before it was replaced; if it was, owners compare fingerprints of a new consortium.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from ..errors import ProtocolError
from ..privacy.secagg.encoding import Encoded, Size
from ..privacy.secagg.keys import Identity
from ..privacy.secagg.signed import FOREVER, Signed, Statement

HANDOVER = "handover"
MOST = 200
Kind = Literal["consortium", "operator", "authority"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Keys = dict[Kind, bytes]
"""Two Ed25519 public keys, and the authority's certificate (PEM)."""


@dataclass(frozen=True)
class Handover(Encoded):
    """From one key to the next, in one consortium."""

    consortium: Annotated[str, Size(32, 32)]
    kind: Annotated[str, Size(1, 32)]
    old: Annotated[bytes, Size(1, 2**14)]
    new: Annotated[bytes, Size(1, 2**14)]


@dataclass(frozen=True)
class Past:
    """A key that was replaced, and when (seconds since 1970)."""

    kind: Kind
    key: bytes
    until: int


def hand_over(
    consortium: Identity, id_: str, kind: Kind, old: bytes, new: bytes, counter: int, now: int
) -> str:
    """The consortium's statement that `new` takes the place of `old`, in hexadecimal."""
    body = Handover(id_, kind, old, new).to_bytes()
    return Signed.sign(Statement(HANDOVER, counter, now, FOREVER, body), consortium).to_hex()


def statements(handovers: Sequence[str]) -> list[bytes]:
    """What they say, by which two chains are compared: one statement can be written in several ways.

    In capitals, say, or with a seal more, which anyone who carries it can put to it.
    """
    return [_signed(text).statement for text in handovers]


def follow(keys: Mapping[Kind, bytes], id_: str, handovers: Sequence[str]) -> Keys:
    """The keys after these handovers; ``ProtocolError`` unless each follows from the ones before."""
    found, counter = dict(keys), -1
    for text in handovers:
        said = _signed(text).opened(HANDOVER, found["consortium"])
        handover = Handover.from_bytes(said.body)
        kind = _kind(handover)
        if handover.consortium != id_ or handover.old != found[kind] or said.counter <= counter:
            raise _refused("it does not follow from the one before")
        found[kind], counter = handover.new, said.counter
    return found


def plain(keys: Mapping[Kind, bytes], handovers: Sequence[str]) -> list[str]:
    """Handovers that were followed from these keys, in the one form in which they are kept."""
    found, signer = [], keys["consortium"]
    for text in handovers:
        signed = _signed(text)
        handover = Handover.from_bytes(signed.said.body)
        found.append(signed.only(signer).to_hex())
        signer = handover.new if handover.kind == "consortium" else signer
    return found


def first(keys: Mapping[Kind, bytes], handovers: Sequence[str]) -> Keys:
    """The keys before all handovers, given those after them. Checks nothing: ``follow`` does."""
    found = dict(keys)
    for text in reversed(handovers):
        handover = Handover.from_bytes(_signed(text).said.body)
        found[_kind(handover)] = handover.old
    return found


def past(handovers: Sequence[str]) -> list[Past]:
    """The keys that were replaced, oldest first, by handovers that were checked."""
    found = []
    for text in handovers:
        said = _signed(text).said
        handover = Handover.from_bytes(said.body)
        found.append(Past(_kind(handover), handover.old, said.issued))
    return found


def _signed(text: str) -> Signed:
    try:
        return Signed.from_hex(text)
    except ValueError:
        raise _refused("it is not a statement") from None


def _kind(handover: Handover) -> Kind:
    for kind in KINDS:
        if handover.kind == kind:
            return kind
    raise _refused(f"{handover.kind!r:.40} is not a kind of key")


def _refused(text: str) -> ProtocolError:
    return ProtocolError("handover", "the server", f"a key's handover is refused: {text}")
