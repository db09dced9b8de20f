"""A consortium's certificate authority and the certificate of its server (X.509, EC P-256)."""

from __future__ import annotations

import ipaddress
import os
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..errors import ConsortiumError
from ..storage.files import successor

_AUTHORITY_LIFE = timedelta(days=3650)
# Some TLS libraries refuse a server's certificate that is valid for longer.
_SERVER_LIFE = timedelta(days=825)
# An owner's clock may be behind the operator's.
_CLOCK_SKEW = timedelta(hours=1)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def authority_certificate(
    title: str, key: ec.EllipticCurvePrivateKey, now: datetime
) -> x509.Certificate:
    """Ten years, signed by itself; it signs certificates of servers and nothing below them."""
    name = _named(title)
    usage = _usage(signs_certificates=True)
    authority = _builder(name, name, key.public_key(), now, now + _AUTHORITY_LIFE, key)
    return (
        authority.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, SHA256())
    )


def server_certificate(
    host: str,
    key: ec.EllipticCurvePublicKey,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.Certificate:
    """For `host` and this machine's own names; at most 825 days, never longer than the authority."""
    until = min(now + _SERVER_LIFE, authority.not_valid_after_utc)
    if until <= now:
        raise ConsortiumError(
            "The consortium's certificate authority has expired, after ten years. Make a new "
            "consortium, give its consortium.json to every owner, and admit them again."
        )
    names = dict.fromkeys((host, "localhost", "127.0.0.1", "::1"))
    server = _builder(_named("Umbel server"), authority.subject, key, now, until, authority_key)
    return (
        server.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(map(_general_name, names)), critical=False)
        .sign(authority_key, SHA256())
    )


def certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as PEM (PKCS #8), not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_certificate(path: Path) -> x509.Certificate:
    try:
        return certificate_of(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def certificate_of(pem: bytes) -> x509.Certificate:
    """The first one in it; ``ValueError`` if there is none."""
    return x509.load_pem_x509_certificate(pem)


def key_for(authority: x509.Certificate, path: Path) -> ec.EllipticCurvePrivateKey:
    """An authority's private key; the one beside it if a rotation was cut off before its last step."""
    following = successor(path)
    if following.exists() and read_key(following).public_key() == authority.public_key():
        os.replace(following, path)
    key = read_key(path)
    if key.public_key() != authority.public_key():
        raise _unreadable(path, "it is not the key of the authority in ca.crt")
    return key


def key_of(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)  # no other is made here
    return key


def fits(pem: bytes, authority: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bool:
    """Whether this certificate is by the authority, and for this key."""
    try:
        found = x509.load_pem_x509_certificate(pem)
        found.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return found.public_key() == key.public_key()


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable(path, error) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _unreadable(path, "it is not a key on an elliptic curve")
    return key


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    until: datetime,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> x509.CertificateBuilder:
    issued_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(issued_by, critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _named(title: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _unreadable(path: Path, why: object) -> ConsortiumError:
    return ConsortiumError(f"{path} cannot be read: {why}. Restore it from a backup.")
