"""Identities (Ed25519 and X25519), key agreement and key derivation; all from ``cryptography``."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NoReturn

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ...errors import ProtocolError
from .encoding import Encoded, Point

_SEAL_NONCE = bytes(12)


@dataclass(frozen=True)
class PublicIdentity(Encoded):
    """What others know of an identity: its Ed25519 and X25519 public keys."""

    signing: Point
    agreement: Point


class Identity:
    """A data owner's long-term private keys. They sign prekeys and approvals of rosters, and seal shares.

    Assumes that `secret` (64 bytes: Ed25519 seed, X25519 private key) came from the operating
    system's generator and is known to the owner alone.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) != 64:
            raise ValueError(f"An identity has 64 secret bytes, not {len(secret)}.")
        self._secret = bytes(secret)
        self._signing = Ed25519PrivateKey.from_private_bytes(secret[:32])
        self._agreement = X25519PrivateKey.from_private_bytes(secret[32:])
        self.public = PublicIdentity(
            self._signing.public_key().public_bytes_raw(),
            self._agreement.public_key().public_bytes_raw(),
        )
        self._agreed: dict[bytes, bytes] = {}

    def to_secret_bytes(self) -> bytes:
        """The 64 secret bytes, to be written where only the owner can read."""
        return self._secret

    def sign(self, message: bytes) -> bytes:
        return self._signing.sign(message)

    def agree(self, other: bytes, peer: str) -> bytes:
        """The 32 bytes shared with the holder of another identity; found once."""
        if other not in self._agreed:
            self._agreed[other] = self.agree_once(other, peer)
        return self._agreed[other]

    def agree_once(self, other: bytes, peer: str) -> bytes:
        """The same with a key that is used once; not kept."""
        return agree(self._agreement, other, peer)

    def __reduce__(self) -> NoReturn:
        raise TypeError("An identity holds private keys and is never pickled.")


def verify(signing: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the holder of an Ed25519 key signed a message (RFC 8032)."""
    try:
        Ed25519PublicKey.from_public_bytes(signing).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def new_private_key(random: bytes) -> bytes:
    """An X25519 private key in the form that RFC 7748 gives it before use ("clamped").

    Clamped here, so that the key that is shared out and reconstructed is these 32 bytes, and
    below the prime of the secret sharing.
    """
    key = bytearray(random)
    key[0] &= 248
    key[31] = (key[31] & 127) | 64
    return bytes(key)


def public_key(private: bytes) -> bytes:
    """The X25519 public key of 32 private bytes."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agree(private: bytes | X25519PrivateKey, public: bytes, peer: str) -> bytes:
    """X25519; a ``ProtocolError`` for points of low order, whose result everybody knows.

    Who agrees with many hands over the key as an object: to read one takes as long as to agree.
    """
    if isinstance(private, bytes):
        private = X25519PrivateKey.from_private_bytes(private)
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise ProtocolError("prekey", peer, "its public key is a point of low order") from None


def derive(secret: bytes, length: int, purpose: str, *context: bytes) -> bytes:
    """`length` bytes by HKDF-SHA256 (RFC 5869), bound to a purpose and to every context."""
    info = b"".join(len(part).to_bytes(4, "big") + part for part in (purpose.encode(), *context))
    return HKDF(SHA256(), length, salt=b"umbel secure aggregation", info=info).derive(secret)


def seal(key: bytes, plain: bytes, header: bytes) -> bytes:
    """AES-256-GCM. The nonce is constant, because every key here seals exactly one message."""
    return AESGCM(key).encrypt(_SEAL_NONCE, plain, header)


def unseal(key: bytes, sealed: bytes, header: bytes) -> bytes | None:
    """What was sealed, or None if the key, the header or a bit is not the one it was sealed with."""
    try:
        return AESGCM(key).decrypt(_SEAL_NONCE, sealed, header)
    except (InvalidTag, ValueError):
        return None


def hash_of(*parts: bytes) -> bytes:
    """SHA-256 over parts with their lengths before them."""
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(8, "big"))
        state.update(part)
    return state.digest()
