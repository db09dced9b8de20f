"""A finished run's result as it goes to its owners: adapter, certificate and model card, under one signature.

Guarantee: what ``unpack`` returns is, file by file, what the holder of the signing key packed for this run;
the adapter is the one that its certificate names, and the certificate is by the same key, of this run, job
and consortium. Names stay inside one folder; kinds, number and sizes are bounded before anything is kept;
nothing is executed or unpickled: tensors are safetensors, the rest is text or a tokenizer's tables.

Assumptions: whose key it is follows from the consortium's card. What the model does, no check can say.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from ..consortium.warrants import delegate_of
from ..errors import CertificateError, PlanRefused
from ..privacy.secagg.encoding import Digest, Encoded, Size
from ..privacy.secagg.keys import Identity, verify
from ..storage.canonical import canonical_json
from .form import FILE, Certificate
from .issue import UNBOUND

ADAPTER = "adapter"
MOST_FILES = 64
_LARGEST_LIST = 2**16
_FORMAT = "umbel result 1"
_NAME = re.compile(r"(adapter/)?[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_KINDS = (".safetensors", ".json", ".md", ".txt", ".model", ".jinja", ".gitattributes")


@dataclass(frozen=True)
class ParcelClaim(Encoded):
    """What is signed: its tag keeps it apart from jobs, rosters and certificates."""

    run: Annotated[str, Size(1, 256)]
    files: Digest


@dataclass(frozen=True)
class Parcel:
    """The list of files, signed, and their contents one after another."""

    listed: bytes
    content: bytes


@dataclass(frozen=True)
class Expected:
    """What an owner knows of a run before its result comes."""

    run: str
    job: str
    """SHA-256 of the job, in hexadecimal."""
    consortium: str
    key: str
    """The operator's public signing key, in hexadecimal."""
    most_bytes: int
    when: float = 0.0
    """Seconds since 1970: a server's delegation must hold then."""


def pack(folder: Path, run: str, signer: Identity, delegation: str | None = None) -> Parcel:
    """The result in a run's folder; a ``CertificateError`` if there is no certificate by this key."""
    certificate = Certificate.read(folder / FILE)
    if certificate.key != signer.public.signing.hex():
        raise CertificateError(f"{folder / FILE} is signed with another key.")
    paths = [folder / FILE, *sorted(p for p in (folder / ADAPTER).rglob("*") if p.is_file())]
    return sealed(
        {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}, run, signer, delegation
    )


def sealed(
    contents: Mapping[str, bytes], run: str, signer: Identity, delegation: str | None = None
) -> Parcel:
    """These files, by name, under one signature; with what allows a `signer` that is not the operator."""
    files = [
        {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in contents.items()
    ]
    signature = signer.sign(_claim(run, files)).hex()
    values = {"format": _FORMAT, "files": files, "signature": signature}
    if delegation:
        values["delegation"] = delegation
    return Parcel(json.dumps(values).encode(), b"".join(contents.values()))


def unpack(parcel: Parcel, expected: Expected) -> tuple[Certificate, dict[str, bytes]]:
    """The certificate and all files by name, checked; a ``CertificateError`` says what is wrong."""
    files, signature, delegation = _read_list(parcel.listed)
    for one in files:
        name = one["name"]
        if not _NAME.fullmatch(name) or not name.endswith(_KINDS) or ".." in name:
            raise _refusal(f"a file is named {name!r:.120}")
    sizes = [one["size"] for one in files]
    if sum(sizes) != len(parcel.content) or sum(sizes) > expected.most_bytes:
        raise _refusal(
            f"it holds {len(parcel.content):,} bytes, but {sum(sizes):,} are listed, and at most "
            f"{expected.most_bytes:,} are accepted (results.most_megabytes)"
        )
    if delegation:
        expected = replace(expected, key=_delegate(delegation, expected))
    if not verify(bytes.fromhex(expected.key), signature, _claim(expected.run, files)):
        raise _refusal("it is not signed by the operator for this run")
    contents, at = {}, 0
    for one in files:
        data = parcel.content[at : at + one["size"]]
        at += one["size"]
        if hashlib.sha256(data).hexdigest() != one["sha256"]:
            raise _refusal(f"{one['name']} differs from what was signed")
        contents[one["name"]] = data
    certificate = _certificate(contents, expected)
    for name, data in contents.items():
        _check_content(name, data)
    return certificate, contents


def _delegate(delegation: str, expected: Expected) -> str:
    """The key that the operator lets certify this run at this time."""
    key = bytes.fromhex(expected.key)
    try:
        return delegate_of(delegation, key, expected.consortium, expected.run, expected.when)
    except PlanRefused as error:
        raise _refusal(f"a server signed it, and {error}") from None


def _read_list(data: bytes) -> tuple[list[dict[str, Any]], bytes, str]:
    if len(data) > _LARGEST_LIST:
        raise _refusal("its list of files is too long")
    try:
        values = json.loads(data)
        files, signature = values["files"], bytes.fromhex(values["signature"])
        delegation = values.get("delegation", "")
        good = type(delegation) is str
        good &= values["format"] == _FORMAT and 0 < len(files) <= MOST_FILES
        for one in files:
            good &= set(one) == {"name", "size", "sha256"} and type(one["size"]) is int
            good &= type(one["name"]) is str and type(one["sha256"]) is str and one["size"] >= 0
        good &= len({one["name"] for one in files}) == len(files)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        good = False
    if not good:
        raise _refusal("its list of files is malformed")
    return files, signature, delegation


def _certificate(contents: dict[str, bytes], expected: Expected) -> Certificate:
    """The certificate in it, which must be about this run and these files."""
    certificate = Certificate.from_bytes(contents.get(FILE, b""), "the certificate that came")
    roster = certificate.roster
    about = (certificate.key, certificate.run, certificate.job.sha256)
    if about != (expected.key, expected.run, expected.job):
        raise _refusal("its certificate is about another run or job, or signed with another key")
    if roster is None or roster.consortium != expected.consortium:
        raise _refusal("its certificate is about another consortium")
    found = {
        name.removeprefix(f"{ADAPTER}/"): hashlib.sha256(data).hexdigest()
        for name, data in contents.items()
        if name.startswith(f"{ADAPTER}/") and name.removeprefix(f"{ADAPTER}/") not in UNBOUND
    }
    if found != certificate.adapter.files or set(contents) - {FILE} != {
        name for name in contents if name.startswith(f"{ADAPTER}/")
    }:
        raise _refusal("its files differ from those that the certificate names")
    return certificate


def _check_content(name: str, data: bytes) -> None:
    """Whether a file is of the kind that its name says, and loads no code."""
    if name.endswith(".safetensors"):
        from safetensors import SafetensorError, deserialize

        try:
            deserialize(data)  # type: ignore[no-untyped-call]
        except SafetensorError as error:
            raise _refusal(f"{name} is not a safetensors file: {error}") from None
        return
    if name.endswith(".model"):
        return
    try:
        text = data.decode("utf-8")
        values = json.loads(text) if name.endswith(".json") else None
    except (ValueError, RecursionError) as error:
        raise _refusal(f"{name} cannot be read: {error}") from None
    if isinstance(values, dict) and "auto_map" in values:
        raise _refusal(f"{name} asks to load code (auto_map)")


def _claim(run: str, files: list[dict[str, Any]]) -> bytes:
    listed = canonical_json(files).encode()
    return ParcelClaim(run, hashlib.sha256(listed).digest()).to_bytes()


def _refusal(text: str) -> CertificateError:
    return CertificateError(
        f"The result of the run was not saved: {text}. Ask the operator to send it again."
    )
