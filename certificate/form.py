"""The certificate: what a run states of itself, and the signature that binds it.

Guarantee: a certificate that ``read`` accepts is, byte for byte, what the holder of the Ed25519 key
in it signed (RFC 8032); a file has one form only, so changing any byte of it is noticed. Whose key
that is, and whether its holder tells the truth, no file can say: compare the key with one that came
another way (``check.verify``), and read ``limits``.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError

from .. import __version__
from ..errors import CertificateError
from ..privacy.secagg.encoding import Digest, Encoded
from ..privacy.secagg.keys import Identity, verify
from ..privacy.secagg.roster import Roster
from ..storage.documents import Document, explain

FORMAT: Literal["umbel certificate 3"] = "umbel certificate 3"
FILE = "certificate.json"
UNSIGNED = "0" * 128

_LARGEST_FILE = 2**23
"""Bytes: a head for each of 10,000 owners and a size for each of 100,000 rounds fit in it."""

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


class CertifiedJob(Document):
    """The job as all owners were asked it. `sha256` is over the canonical JSON of `canonical`.

    It is the digest that stands in every owner's ledger and audit log.
    """

    sha256: Hash
    canonical: dict[str, Any]


class CertifiedBase(Document):
    """The base model as the job names it, and ``base_digest`` of its files."""

    name: str
    sha256: Hash


class Mechanism(Document):
    """One of the things that a client's privacy is spent on, as the accountant knows it.

    `what` it is for ("training", "tests"); the rest is an ``accountant.MechanismEvent``.
    """

    what: str
    kind: str
    noise_multiplier: Number
    sampling_rate: Number
    steps: Count


class Spending(Document):
    """What `clients` owners were planned to spend alike, each for itself. No owner is named."""

    clients: Count
    epsilon: Number | None
    """Of all its mechanisms together, at the guarantee's delta."""
    mechanisms: list[Mechanism]
    """Each with a different `what`, ascending; empty if the job protects nothing."""


class Guarantee(Document):
    """The plan's sentence, and the figures behind it."""

    sentence: str
    unit: str
    """What is protected, as the job names it ("example", "group", "client", "none")."""
    delta: Number | None
    epsilon_limit: Number | None
    """The most that the job may cost any one client."""
    epsilon_planned: Number | None
    """The largest of all clients, for the planned rounds."""
    epsilon_spent: Number | None
    """The largest of all clients' ledgers after the run, with repeated rounds and earlier jobs."""
    seeded: bool
    """Whether the noise came from the job's seed: the run can be repeated, and nothing is private."""
    spending: list[Spending]


class Encryption(Document):
    mode: str
    server_sees: str


class CertifiedRoster(Document):
    """Who may take part: the digest of the consortium's signed roster, which names the members."""

    consortium: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    epoch: Count
    sha256: Hash

    @classmethod
    def of(cls, roster: Roster, consortium: str) -> CertifiedRoster:
        """`consortium` is its id, as on the card."""
        return CertifiedRoster(consortium=consortium, epoch=roster.epoch, sha256=roster.hash.hex())


class CertifiedPeriod(CertifiedRoster):
    """Rounds of the run under one roster. Noise shares and thresholds were those of its members."""

    first: Count
    """Its first round."""
    members: Count
    clients: Count
    """Members that took part."""
    server_sees: str


class Ledgers(Document):
    """The last row that the run made in each owner's ledger, sealed, in ascending order and unnamed.

    ``seal_head`` says why they are sealed, and ``seal.bound_row`` lets an owner find its own.
    """

    owners: Count
    """Whose privacy the run was planned to spend."""
    reported: Count
    sealed_heads: list[Hash]


class Rounds(Document):
    planned: Count
    done: Count
    ended: str | None
    """Why fewer are done than planned; None if all are."""
    kept: Count
    """The round whose model was kept: the last one, or the best one if the job asks for it."""
    repeated: Count
    """Attempts that were given up."""
    cohort_sizes: list[Count]
    """Clients whose updates are in the model, for each round."""


class PublicFigures(Document):
    """What the signer itself measured, on public records of its own choice.

    `sha256` is over the records' content, whatever their order.
    """

    examples: Count
    sha256: Hash
    figures: dict[str, Number]


class Audit(Document):
    """The figures of the run's audit.json, by their dotted keys; texts, lists and what is said of
    single owners are left out."""

    sha256: Hash
    figures: dict[str, Number | bool]


class CertifiedRebase(Document):
    """What the strategy put into the base, as factors that are a part of the adapter."""

    round: Count
    """Of the kept model."""
    sha256: Hash
    """Over these factors (``strategies.residual.residual_digest``)."""
    rank: Count
    norm: Number
    """Frobenius norm of their product, over all layers."""
    dropped: Number
    """Of what did not fit, over all rounds, as a share of that."""


class CertifiedAdapter(Document):
    """What came of it: the digest of the trained arrays, and of each file of the adapter folder."""

    kind: str
    sha256: Hash
    trained_parameters: Count
    files: dict[str, Hash]
    rebase: CertifiedRebase | None = None
    """None with a strategy that leaves the base alone."""


class Certificate(Document):
    """A run's signed statement."""

    _what: ClassVar[str] = "certificate"

    format: Literal["umbel certificate 3"] = FORMAT
    kind: Literal["simulation", "deployment"]
    run: str
    issued: str
    """UTC in ISO 8601, by the signer's clock."""
    umbel_version: str
    versions: dict[str, str]
    """Versions of the libraries at the server; owners have their own."""
    job: CertifiedJob
    base: CertifiedBase
    guarantee: Guarantee
    encryption: Encryption
    roster: CertifiedRoster | None
    """The last one; None in a simulation."""
    rosters: list[CertifiedPeriod]
    """All rosters of the run, in their order: more than one if members left or joined on the way."""
    ledgers: Ledgers
    rounds: Rounds
    figures: dict[str, Number]
    """Of the kept model on held-out records, as the owners reported them."""
    public: PublicFigures | None
    """Of the kept model on the public hold-out; None if the job has none."""
    audit: Audit | None
    adapter: CertifiedAdapter
    limits: list[str]
    """What this certificate does not prove."""
    key: Hash
    """Ed25519 public key of the signer: the operator's, its server's, or one made for a simulation alone."""
    delegation: Annotated[str, Field(pattern=r"^([0-9a-f]{2})+$", max_length=4096)] | None = None
    """If a server signs: the operator's statement that the server may certify this run, in hexadecimal."""
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")] = UNSIGNED

    @classmethod
    def read(cls, path: Path) -> Self:
        """The certificate in a file; a ``CertificateError`` unless it is whole and as it was signed."""
        try:
            if path.stat().st_size > _LARGEST_FILE:
                raise CertificateError(f"{path} is far too large for a certificate.")
            data = path.read_bytes()
        except FileNotFoundError:
            raise CertificateError(
                f"There is no certificate {path}. A run writes one when it is finished."
            ) from None
        except OSError as error:
            raise CertificateError(f"{path} cannot be read: {error.strerror}") from None
        return cls.from_bytes(data, str(path))

    @classmethod
    def from_bytes(cls, data: bytes, source: str) -> Self:
        """Parse, and check form and signature."""
        try:
            values = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise CertificateError(
                f"{source} was cut off or changed: it is not JSON ({error}). {_GET_AGAIN}"
            ) from None
        found = values.get("format") if isinstance(values, dict) else None
        if found != FORMAT:
            raise CertificateError(
                f"{source}: its format is {found!r:.60}, but Umbel {__version__} reads {FORMAT!r}. "
                "Check that it is a certificate; if it is, use the version of Umbel that wrote it."
            )
        try:
            certificate = cls.model_validate(values)
        except ValidationError as error:
            raise CertificateError(
                f"{source} was changed: {explain(error, cls)}. {_GET_AGAIN}"
            ) from None
        try:
            whole = certificate.is_signed and certificate.to_bytes() == data
        except (ValueError, RecursionError):  # a value that JSON reads and cannot write
            whole = False
        if not whole:
            raise CertificateError(
                f"{source} was changed after it was signed: its signature is not valid. {_GET_AGAIN}"
            )
        return certificate

    def signed_by(self, signer: Identity, delegation: str | None = None) -> Self:
        """The same statement under this key."""
        by = {"key": signer.public.signing.hex(), "delegation": delegation}
        stated = self.model_copy(update=by)
        return stated.model_copy(update={"signature": signer.sign(stated._claim()).hex()})

    @property
    def is_signed(self) -> bool:
        return verify(bytes.fromhex(self.key), bytes.fromhex(self.signature), self._claim())

    @property
    def digest(self) -> str:
        """SHA-256 of the file, in hexadecimal."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """The only form of its file: JSON with sorted keys that a person can read."""
        values = self.model_dump(mode="json")
        if self.delegation is None:
            del values["delegation"]  # as certificates were written before there were any
        if self.adapter.rebase is None:
            del values["adapter"]["rebase"]
        return (json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()

    def _claim(self) -> bytes:
        unsigned = self.model_copy(update={"signature": UNSIGNED})
        return CertificateClaim(hashlib.sha256(unsigned.to_bytes()).digest()).to_bytes()


@dataclass(frozen=True)
class CertificateClaim(Encoded):
    """What is signed: its tag keeps it apart from jobs and rosters, which the same key may sign."""

    statement: Digest


_GET_AGAIN = "Get it again from its issuer, and do not rely on this copy."
