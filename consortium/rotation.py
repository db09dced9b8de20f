"""Replacing the consortium's keys, and following keys that were replaced elsewhere.

The new key is on the disk before the card names it, so that a crash leaves the old or the new one whole
(``Folder``'s secrets look for both). Owners follow by the handovers that travel with every order.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from ..errors import ConsortiumError, ProtocolError
from ..privacy.secagg.keys import Identity
from ..storage.files import successor, write_durably
from . import tls
from .authority import Consortium
from .card import Card
from .key_handovers import Kind, hand_over
from .warrants import now_counter


def rotate(consortium: Consortium, kind: Kind) -> Card:
    """Make a new key of a kind and hand over to it, with the consortium's key of today; the new card.

    Raises ``ConsortiumError`` while members are asked to approve a roster that the old key signed.
    """
    card, signer = consortium.card, consortium.identity
    if kind == "consortium" and consortium.pending is not None:
        raise ConsortiumError(
            "A roster that is signed with the old key still waits for its members' approval. Take it first "
            f"(umbel take), or delete {consortium.path / 'rosters' / 'pending'} to give it up."
        )
    name, secret, new = _new_key(consortium, kind)
    path = consortium.path / name
    write_durably(successor(path), secret, secret=True)
    old, last = card.keys[kind], _last_counter(card)
    counter, now = max(last + 1, now_counter()), int(time.time())
    handover = hand_over(signer, card.id, kind, old, new, counter, now)
    follow(consortium, [*card.handovers, handover])
    os.replace(successor(path), path)
    if kind == "consortium" and consortium.epoch:
        consortium.prolong()
    return consortium.card


def follow(consortium: Consortium, handovers: Sequence[str]) -> bool:
    """Go by the keys that a chain of handovers leads to; whether they are others than before."""
    try:
        card = consortium.card.after(handovers)
    except ProtocolError as error:
        raise ConsortiumError(f"{consortium.path / 'consortium.json'}: {error}") from None
    if card == consortium.card:
        return False
    # The authority first: with both in it, it fits either card.
    write_durably(consortium.ca_certificate, authorities(card))
    card.write(consortium.path / "consortium.json")
    return True


def authorities(card: Card) -> bytes:
    """The authority's certificate, then former ones: the server's own may still be by one of them."""
    former = [past.key for past in reversed(card.past("authority"))]
    return b"".join([card.ca_certificate.encode(), *former])


def _new_key(consortium: Consortium, kind: Kind) -> tuple[str, bytes, bytes]:
    """The file of a new key, its secret, and what the card says of it."""
    if kind != "authority":
        made = Identity(os.urandom(64))
        return f"{kind}.key", made.to_secret_bytes(), made.public.signing
    key, title = tls.new_key(), f"Umbel consortium {consortium.card.id}"
    # Another name than the one before, or programs would take the two for one authority.
    title += f" {len(consortium.card.past('authority')) + 2}"
    authority = tls.authority_certificate(title, key, datetime.now(UTC))
    return "ca.key", tls.key_pem(key), tls.certificate_pem(authority)


def _last_counter(card: Card) -> int:
    from ..privacy.secagg.signed import Signed

    return Signed.from_hex(card.handovers[-1]).said.counter if card.handovers else -1
