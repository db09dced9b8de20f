"""What operator and data owners tell each other once: the card and the request.

The operator gives every owner the same *card*: where the server is and which keys to trust. An owner
answers with a *request* to be admitted, which holds its public keys. Both are public JSON files; who
carries them must see to it that they arrive unchanged (for a request, its fingerprint is compared).
Every failure is a ``ConsortiumError`` that says what is wrong, where, and what to do.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NoReturn, Self

from pydantic import AfterValidator, Field, model_validator

from .. import __version__
from ..errors import ConsortiumError, ProtocolError
from ..privacy.secagg.encoding import Encoded, Name, Size
from ..privacy.secagg.keys import Identity, PublicIdentity, agree, hash_of, verify
from ..privacy.secagg.roster import Entry
from ..storage.documents import Document
from .key_handovers import MOST, Keys, Kind, Past, first, follow, past, plain, statements

_ADDRESS = re.compile(r"[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?")
_LONGEST_HOST = 253
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_MEMBER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_host(host: str) -> str:
    if _ADDRESS.fullmatch(host):
        with contextlib.suppress(ValueError):
            return str(ipaddress.ip_address(host))
    labels = host.split(".")
    if len(host) > _LONGEST_HOST or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError("give only a host name or an IP address, such as umbel.example.org")
    # No name ends in a number; resolvers take one that does for an address, each in its own way.
    if _NUMBER.fullmatch(labels[-1]):
        raise ValueError(f"{host} is not an IP address, and a host name does not end in a number")
    return host


def check_name(name: str) -> str:
    """A member's name, which is also a file's name: ``ValueError`` for one that is not safe.

    Only ASCII: at most 64 bytes, so that ``ledger`` and the rest fit beside it in a file's name.
    """
    if not _MEMBER.fullmatch(name):
        raise ValueError(
            "a name has at most 64 characters: letters from a to z, digits, '.', '_' and '-', and begins "
            "with a letter or a digit, such as st-mary"
        )
    return name


def _check_title(name: str) -> str:
    if not name.strip() or not name.isprintable() or len(name.encode()) > 64:
        raise ValueError("give a name of one line and at most 64 bytes")
    return name


def _check_certificate(text: str) -> str:
    from cryptography import x509

    x509.load_pem_x509_certificate(text.encode())
    return text


MemberName = Annotated[str, AfterValidator(check_name)]
Host = Annotated[str, AfterValidator(check_host)]
# Flower's own endpoint takes the port after it, on the loopback interface.
Port = Annotated[int, Field(ge=1, le=65534)]
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def consortium_id(consortium_key: bytes) -> str:
    """Names a consortium: 32 hexadecimal digits from the public key that signs its rosters."""
    return hashlib.sha256(consortium_key).hexdigest()[:32]


class Card(Document):
    """What every owner must know of a consortium. Public, but to be had from the operator itself.

    Who can change a card on its way can pose as the consortium. `ca_certificate` (PEM) is the only
    authority for the server's certificate, `consortium_key` signs rosters, `operator_key` jobs.
    """

    _what: ClassVar[str] = "consortium card"
    _largest: ClassVar[int] = 2**21

    format: Literal["umbel consortium 1"] = "umbel consortium 1"
    name: Annotated[str, AfterValidator(_check_title)]
    host: Host
    port: Port
    ca_certificate: Annotated[str, AfterValidator(_check_certificate)]
    consortium_key: Key
    operator_key: Key
    umbel_version: str = __version__
    handovers: list[str] = Field(default_factory=list, max_length=MOST)
    """How the keys changed up to now, oldest first (``handovers``)."""
    rehearsal: bool = False
    """Whether it is a rehearsal on one machine: its agents' noise is then not secret."""

    @model_validator(mode="after")
    def _check_handovers(self) -> Self:
        try:
            if follow(self._first, self.id, self.handovers) != self.keys:
                raise ValueError("its keys are not those at the end of its handovers")
        except ProtocolError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def id(self) -> str:
        """By the first key that signed rosters: it stays, whatever keys follow."""
        return consortium_id(self._first["consortium"])

    @property
    def keys(self) -> Keys:
        return {
            "consortium": self.consortium_key_bytes,
            "operator": self.operator_key_bytes,
            "authority": self.ca_certificate.encode(),
        }

    @property
    def _first(self) -> Keys:
        return first(self.keys, self.handovers)

    def past(self, kind: Kind) -> list[Past]:
        """Keys of a kind that were replaced, oldest first."""
        return [one for one in past(self.handovers) if one.kind == kind]

    @property
    def consortium_keys(self) -> list[bytes]:
        """The key that signs rosters now, then former ones: for what was checked once, and is kept."""
        former = [one.key for one in reversed(self.past("consortium"))]
        return [self.consortium_key_bytes, *former]

    def after(self, handovers: Sequence[str]) -> Self:
        """The card after these handovers, of which it knows the first ones; ``ProtocolError`` otherwise.

        What is older than the card changes nothing.
        """
        if len(handovers) > MOST:
            raise ProtocolError("handover", "the server", "keys were handed over too often")
        known, said = statements(self.handovers), statements(handovers)
        if said == known[: len(said)]:
            return self
        if said[: len(known)] != known:
            raise ProtocolError(
                "handover", "the server", "an earlier handover of keys differs from the known one"
            )
        keys = follow(self._first, self.id, handovers)
        values = {
            "consortium_key": keys["consortium"].hex(),
            "operator_key": keys["operator"].hex(),
            "ca_certificate": keys["authority"].decode("ascii", "replace"),
            "handovers": plain(self._first, handovers),
        }
        return self.build(self.model_dump() | values, "the card after a handover")

    def check_same(self, other: Self) -> None:
        """Raise unless `other` is a card of this consortium: the same, an older or a newer one.

        ``ConsortiumError`` for another consortium's; ``ProtocolError`` for one whose keys are not those that
        its handovers lead to from here, such as one that was changed on its way.
        """
        if other.id != self.id:
            raise ConsortiumError(
                f"This is the card of another consortium ({other.name}), not of {self.name}."
            )
        if follow(self._first, self.id, other.handovers) != other.keys:
            raise ProtocolError("handover", "the card", "no handover leads to its keys")

    @property
    def fingerprint(self) -> str:
        """For two people to compare: a card with another key or authority, or a former one, has another."""
        parts = [self.ca_certificate.encode(), self.consortium_key_bytes, self.operator_key_bytes]
        parts += statements(self.handovers)
        return _groups(hash_of(b"umbel consortium", *parts))

    @property
    def address(self) -> str:
        """``host:port``, with an IPv6 address in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def consortium_key_bytes(self) -> bytes:
        return bytes.fromhex(self.consortium_key)

    @property
    def operator_key_bytes(self) -> bytes:
        return bytes.fromhex(self.operator_key)


@dataclass(frozen=True)
class AdmissionClaim(Encoded):
    """What an owner signs to prove that it holds the keys with which it asks to be admitted."""

    name: Name
    consortium: Annotated[str, Size(32, 32)]
    identity: PublicIdentity
    node_key: Annotated[bytes, Size(1, 4096)]
    umbel_version: Annotated[str, Size(1, 64)]


class Request(Document):
    """An owner's request to be admitted. Public; the operator compares its fingerprint."""

    _what: ClassVar[str] = "request to be admitted"

    format: Literal["umbel request 1"] = "umbel request 1"
    name: MemberName
    consortium: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    signing_key: Key
    agreement_key: Key
    node_key: Annotated[str, Field(max_length=4096)]
    """PEM: the EC P-384 public key with which the owner's node authenticates itself."""
    umbel_version: Annotated[str, Field(min_length=1, max_length=64)]
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    succeeds: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")] | None = None
    """If a member replaces its keys: the signature with its previous keys."""

    @classmethod
    def make(
        cls,
        card: Card,
        name: str,
        identity: Identity,
        node_public_pem: str,
        before: Identity | None = None,
    ) -> Self:
        values = {
            "name": name,
            "consortium": card.id,
            "signing_key": identity.public.signing.hex(),
            "agreement_key": identity.public.agreement.hex(),
            "node_key": node_public_pem,
            "umbel_version": __version__,
            "signature": "0" * 128,
        }
        unsigned = cls.build(values, "request")
        claim = unsigned._claim()
        signed = {"signature": identity.sign(claim).hex()}
        if before is not None:
            signed["succeeds"] = before.sign(claim).hex()
        return unsigned.model_copy(update=signed)

    def is_of(self, member: Self) -> bool:
        """Whether the holder of a member's keys made this request, to replace them."""
        if self.name != member.name or self.succeeds is None:
            return False
        return verify(member.identity.signing, bytes.fromhex(self.succeeds), self._claim())

    def check(self, card: Card) -> None:
        """Raise ``ConsortiumError`` unless it is for this consortium, well formed and signed.

        Guarantee: whoever made the request holds the signing key, and nothing in it was changed
        since. That the *name* is its own is for the operator to see, by the fingerprint.
        """
        if self.consortium != card.id:
            self._refuse(
                f"is for another consortium than {card.name!r}. Make it again with this "
                "consortium's consortium.json."
            )
        try:
            claim = self._claim()
            agree(os.urandom(32), self.identity.agreement, self.name)
        except (ProtocolError, ValueError):
            self._refuse("has a key or a text that cannot be used. Make it again.")
        if not _is_node_key(self.node_key):
            self._refuse("has a node key that is not an EC P-384 public key in PEM. Make it again.")
        if not verify(self.identity.signing, bytes.fromhex(self.signature), claim):
            self._refuse(
                "is not signed with its own keys: it was changed after it was made. Ask the "
                "owner to send it again."
            )

    @property
    def identity(self) -> PublicIdentity:
        return PublicIdentity(bytes.fromhex(self.signing_key), bytes.fromhex(self.agreement_key))

    @property
    def entry(self) -> Entry:
        """The member's line in a roster."""
        return Entry(self.name, self.identity)

    @property
    def keys(self) -> frozenset[str]:
        """All its public keys; no two members share one."""
        return frozenset((self.signing_key, self.agreement_key, self.node_key))

    @property
    def fingerprint(self) -> str:
        """Eight groups of four hexadecimal digits over name and keys, for two people to compare."""
        keys = (self.identity.signing, self.identity.agreement, self.node_key.encode())
        return _groups(hash_of(b"umbel request", self.name.encode(), *keys))

    def has_fingerprint(self, text: str) -> bool:
        """Whether `text` is the fingerprint, however it is spaced and in either case."""
        digits = re.sub(r"[\s:-]", "", text).lower()
        return digits == self.fingerprint.replace(" ", "")

    def _claim(self) -> bytes:
        node_key = self.node_key.encode()
        version = self.umbel_version
        return AdmissionClaim(
            self.name, self.consortium, self.identity, node_key, version
        ).to_bytes()

    def _refuse(self, text: str) -> NoReturn:
        raise ConsortiumError(f"The request of {self.name!r} {text}")


def _is_node_key(pem: str) -> bool:
    """Whether it is the one PEM text of an EC P-384 public key, so that equal keys are equal texts."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        return False
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        return False
    return public_pem(key) == pem


def public_pem(key: Any) -> str:
    """A public key of ``cryptography`` as PEM (SubjectPublicKeyInfo)."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return str(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "ascii")


def _groups(digest: bytes) -> str:
    return digest[:16].hex(" ", 2)
