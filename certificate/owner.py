"""An owner's look at a certificate: whether the ledger that it binds is the owner's own."""

from __future__ import annotations

from pathlib import Path

from ..consortium.card import Card
from ..errors import CertificateError
from ..privacy.ledger.ledger import Ledger
from .check import verify
from .seal import bound_row


def bound_line(path: Path, card: Card, ledger: Ledger) -> str:
    """Which row of an owner's ledger a certificate binds, in a sentence.

    Raises ``CertificateError`` if the certificate is not the operator's or not whole, or if it
    binds no row of this ledger, or one of another run or job than it is about.
    """
    verdict = verify(path, card=card)
    certificate = verdict.certificate
    if certificate is None or not verdict.valid:
        wrong = [f"{f.what}: {f.text}" for f in verdict.findings if f.holds is False]
        raise CertificateError(f"Do not rely on {path}: {'; '.join(wrong)}")
    row = bound_row(ledger, certificate.ledgers.sealed_heads)
    if row is None:
        raise CertificateError(
            f"None of the {certificate.ledgers.reported} ledger heads in {path} belongs to the "
            f"ledger {ledger.path} ({ledger.verify()} rows). Either this owner's head did not reach the "
            "operator, or this ledger is older than the certificate: then restore the newest copy "
            "of ledger and witness. Do not rely on this run's epsilon."
        )
    if (row.run, row.job) != (certificate.run, certificate.job.sha256):
        raise CertificateError(
            f"{path} is about job {certificate.job.sha256[:12]}, but row {row.number} of this "
            f"ledger, which it names, was charged for job {row.job[:12]}. Do not rely on it; ask "
            "the operator."
        )
    later = sum(entry.number > row.number for entry in ledger.entries_of(certificate.run))
    after = f"; the run added {later} more rows after it" if later else ", the last row of its run"
    return f"The certificate names row {row.number} of this ledger{after}."
