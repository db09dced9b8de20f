"""Ledger heads that can be published: hidden from everybody, recognised by who holds the key."""

from __future__ import annotations

from ..privacy.secagg.keys import Identity, derive


def seal_head(key: Identity, head: str) -> str:
    """A ledger's head under a secret key, in hexadecimal: HKDF-SHA256 (RFC 5869) of both.

    Guarantees: without the key it tells nothing of the head, which is a function of an owner's
    records and public values alone (HKDF as a pseudo-random function); with the key no other head
    fits (SHA-256 is collision resistant). Equal heads under one key are equal.
    """
    return derive(key.to_secret_bytes(), 32, "ledger head", bytes.fromhex(head)).hex()
