"""Ledger heads that can be published: hidden from everybody, recognised by who has the ledger."""

from __future__ import annotations

from collections.abc import Collection

from ..privacy.ledger.chain import Entry
from ..privacy.ledger.ledger import Ledger
from ..privacy.secagg.keys import derive


def seal_head(ledger: str, head: str) -> str:
    """A row's hash under the random name of its ledger, in hexadecimal: HKDF-SHA256 (RFC 5869).

    A row follows from all rows before it, of other jobs too; and those of an earlier version commit to
    a fingerprint of all of an owner's records, so that who knows every record but one could test
    guesses at that one. Guarantees, with SHA-256 as a random oracle: without the name
    (128 random bits, which leave the owner's machine in an export alone) it tells nothing of the
    row; with the name no other row fits.
    """
    return derive(bytes.fromhex(ledger), 32, "ledger head", bytes.fromhex(head)).hex()


def bound_row(ledger: Ledger, sealed: Collection[str]) -> Entry | None:
    """The newest row of a ledger, all of it checked, whose hash is among sealed ones.

    A ledger that has gone on still holds the row that was its last one then.
    """
    rows = reversed(ledger.entries())
    return next((row for row in rows if seal_head(ledger.identity, row.hash) in sealed), None)
