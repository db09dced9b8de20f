"""Keys that are replaced: the consortium's, which an owner follows, and the owner's own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..consortium.card import Card, Request, public_pem
from ..consortium.packets import SignedMembers
from ..errors import ConsortiumError, FileError, ProtocolError
from ..foreign import typed
from ..privacy.secagg.keys import Identity
from ..privacy.secagg.roster import Changes, Entry, SignedRoster, open_kept, open_roster
from ..storage.files import write_durably
from ..storage.processes import held
from .audit_log import AuditLog

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
    if card.ca_certificate != home.card.ca_certificate:
        # First: with new and former authority in it, it fits either card, should the rest be cut off. The
        # former one because the server has its certificate from it until that is renewed.
        both = (card.ca_certificate, home.card.ca_certificate)
        write_durably(home.ca_certificate, "".join(both).encode())
    card.write(home.card_file)
    home.__dict__.pop("card")
    pin(home, card)
    return True


def trust(home: Home, card: Card) -> bool:
    """The same by the consortium's newest card, and a former authority is believed no more."""
    home.card.check_same(card)
    changed = follow(home, card.handovers)
    write_durably(home.ca_certificate, home.card.ca_certificate.encode())
    if changed:
        AuditLog(home.audit).write("keys followed", fingerprint=home.card.fingerprint)
    return changed


def pin(home: Home, card: Card) -> None:
    """Write the keys that follow from a card; again, if that was cut off."""
    write_durably(home.consortium_key, b"".join(card.consortium_keys))


@dataclass(frozen=True)
class RosterChange:
    """A roster that is to be approved."""

    signed: SignedRoster
    lines: list[str]
    """How it differs from the known one: fingerprints to compare, and rules."""


def change_of(home: Home, roster: bytes, requests: Sequence[Request]) -> RosterChange:
    """A proposed roster by the consortium's key; ``ProtocolError`` for any other.

    Guarantee: nothing in which it differs from the roster that this owner knows is left out.
    """
    membership = home.membership
    known = membership.roster.read_bytes() if membership.roster.exists() else None
    current = open_kept(known, membership.keys) if known else None
    signed, whole = SignedRoster.from_bytes(roster), open_roster(roster, membership.keys[0])
    if signed.cuts:
        # An approval is for the whole roster, and the cut would hide members of it.
        raise ProtocolError(
            "roster",
            "the operator",
            "a server has removed members from it; you approve what was signed",
        )
    if current and whole.epoch <= current.epoch:
        raise ProtocolError(
            "roster", "the operator", "this roster is not newer than the one that this owner has"
        )
    prints = {request.entry: request.fingerprint for request in requests}

    def named(entry: Entry) -> str:
        return f"{entry.name} ({prints.get(entry, 'its request is not in the file')})"

    changes = Changes.between(current, whole)
    lines = [f"Joins: {named(entry)}" for entry in changes.joins]
    lines += [f"Has new keys: {named(entry)}" for entry in changes.rekeyed]
    lines += [f"Leaves: {name}" for name in changes.leaves]
    lines += [f"Rule: {rule}" for rule in changes.rules]
    return RosterChange(signed, lines)


def approve(home: Home, file: Path, packet: SignedMembers, change: RosterChange) -> None:
    """Put this owner's approval into the file that goes back to the operator."""
    approved = change.signed.approved_by(Identity(home.identity.read_bytes()))
    AuditLog(home.audit).write("roster approved", change="; ".join(change.lines))
    packet.model_copy(update={"roster": approved.to_bytes().hex()}).write(file)


def renew_keys(home: Home) -> Path:
    """Make new keys beside the ones in use, and a request that both sign; where that lies."""
    place = home.path / "next"
    place.mkdir(mode=0o700, exist_ok=True)
    if (place / _OWN[-1]).exists() and not (place / _OWN[0]).exists():
        raise ConsortiumError(
            f"A change of keys was interrupted. Finish it: umbel client rotate {typed(home.path)} --finish"
        )
    if not (place / _OWN[-1]).exists():
        secret, public = new_node_key()
        write_durably(place / "identity", os.urandom(64), secret=True)
        write_durably(place / "node.key", secret, secret=True)
        write_durably(place / "node.pub", public.encode())
    before = Identity(home.identity.read_bytes())
    new = Identity((place / "identity").read_bytes())
    public = (place / "node.pub").read_text(encoding="ascii")
    return home.write_request(Request.make(home.card, home.name, new, public, before))


def use_new_keys(home: Home) -> None:
    """Go over to the keys that ``renew_keys`` made; again, if that was cut off.

    The request that the former ones signed as well stays: should the operator not have admitted it, it can.
    Raises ``ConsortiumError`` while an agent uses the keys of before.
    """
    if held(home.lock):
        raise ConsortiumError(
            f"An agent still runs for {home.path} with the old keys. Stop it, do this again, and "
            "start it afterwards."
        )
    place = home.path / "next"
    found = [name for name in _OWN if (place / name).exists()]
    if not found:
        raise ConsortiumError(
            f"{home.path} has no new keys. Make them with: umbel client rotate {typed(home.path)}"
        )
    for name in found:
        os.replace(place / name, home.path / name)
    request = home.request
    AuditLog(home.audit).write("keys replaced", fingerprint=request.fingerprint)
    with contextlib.suppress(ConsortiumError):
        if Request.read(home.request_file).keys == request.keys:
            return
    # The former keys are gone, so that another folder's file cannot be told from theirs: it stays.
    with contextlib.suppress(FileError):
        home.write_request()


def new_node_key() -> tuple[bytes, str]:
    """A node's private key in the only form that Flower reads, and the public one as PEM."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP384R1())
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return secret, public_pem(key.public_key())
