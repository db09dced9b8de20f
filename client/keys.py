"""Keys that are replaced: the consortium's, which an owner follows, and the owner's own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..consortium.card import Card, Request, public_pem
from ..errors import ConsortiumError, ProtocolError
from ..privacy.secagg.keys import Identity
from ..privacy.secagg.roster import SignedRoster, open_kept, open_roster
from ..storage.files import write_durably

if TYPE_CHECKING:
    from .home import Home

_OWN = ("identity", "node.key", "node.pub")


def follow(home: Home, handovers: Sequence[str]) -> bool:
    """Go by the keys that the consortium handed over to; whether they are others than before.

    Guarantee: the chain of handovers goes on from the keys that were pinned when the folder was made.
    Raises ``ProtocolError`` for one that does not.
    """
    card = home.card.after(handovers)
    if card is home.card:
        return False
    card.write(home.card_file)
    home.__dict__.pop("card")
    pin(home, card)
    return True


def trust(home: Home, card: Card) -> bool:
    """The same by the consortium's newest card, and a former authority is believed no more."""
    changed = follow(home, card.handovers)
    write_durably(home.ca_certificate, home.card.ca_certificate.encode())
    return changed


def pin(home: Home, card: Card) -> None:
    """Write the files that follow from a card; again, if that was cut off."""
    former = [past.key for past in reversed(card.past("authority"))]
    # The last former authority as well: the server has its certificate from it until that is renewed.
    write_durably(home.ca_certificate, b"".join([card.ca_certificate.encode(), *former[:1]]))
    write_durably(home.consortium_key, b"".join(card.consortium_keys))


@dataclass(frozen=True)
class RosterChange:
    """What a roster that is to be approved says other than the one that is known."""

    signed: SignedRoster
    joins: list[str]
    """With the fingerprint of the request, as the owner of each can read it out."""
    leaves: list[str]


def change_of(home: Home, roster: bytes, requests: Sequence[Request]) -> RosterChange:
    """A proposed roster by the consortium's key; ``ProtocolError`` for any other."""
    membership = home.membership
    known = membership.roster.read_bytes() if membership.roster.exists() else None
    current = open_kept(known, membership.keys) if known else None
    signed, whole = SignedRoster.from_bytes(roster), open_roster(roster, membership.keys[0])
    if current and whole.epoch <= current.epoch:
        raise ProtocolError("roster", "the operator", "this roster is no newer than the one known")
    before = {member.name: member.identity for member in current.members} if current else {}
    prints = {request.entry: request.fingerprint for request in requests}
    joins = [
        f"{member.name} ({prints.get(member, 'no request of it came along')})"
        for member in whole.members
        if before.get(member.name) != member.identity
    ]
    after = {member.name: member.identity for member in whole.members}
    leaves = [name for name, identity in before.items() if after.get(name) != identity]
    return RosterChange(signed, joins, leaves)


def renew_keys(home: Home) -> Path:
    """Make new keys beside the ones in use, and a request that both sign; where that lies."""
    place = home.path / "next"
    place.mkdir(mode=0o700, exist_ok=True)
    if not (place / _OWN[-1]).exists():
        secret, public = new_node_key()
        write_durably(place / "identity", os.urandom(64), secret=True)
        write_durably(place / "node.key", secret, secret=True)
        write_durably(place / "node.pub", public.encode())
    before = Identity(home.identity.read_bytes())
    new = Identity((place / "identity").read_bytes())
    public = (place / "node.pub").read_text(encoding="ascii")
    Request.make(home.card, home.name, new, public, before).write(home.request_file)
    return home.request_file


def use_new_keys(home: Home) -> None:
    """Go over to the keys that ``renew_keys`` made; again, if that was cut off."""
    place = home.path / "next"
    found = [name for name in _OWN if (place / name).exists()]
    if not found:
        raise ConsortiumError(
            f"{home.path} has no new keys. Make them with: umbel client rotate {home.path}"
        )
    for name in found:
        os.replace(place / name, home.path / name)
    home.write_request()


def new_node_key() -> tuple[bytes, str]:
    """A node's private key in the only form that Flower reads, and the public one as PEM."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP384R1())
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return secret, public_pem(key.public_key())
