"""Holding a certificate against a signer's key and against the files it is about, without a network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ..consortium.card import Card
from ..consortium.warrants import delegate_of
from ..errors import CertificateError, LedgerError, PlanRefused, UmbelError
from ..job import Job, read_toml
from ..privacy.ledger.ledger import Ledger
from ..storage.canonical import canonical_json
from .finding import Finding, differences, some
from .form import FILE, Certificate, Spending
from .guarantee_check import as_asked, composed
from .issue import CAUSES, digests, figures_of, public_of, spending_of
from .rebase_check import rebase_findings
from .seal import bound_row

KEY = "certificate.key"
"""In a simulation's folder: the secret that signed its certificate."""


@dataclass(frozen=True)
class Verdict:
    certificate: Certificate | None
    findings: tuple[Finding, ...]

    @property
    def valid(self) -> bool:
        """Whether nothing differs. What could not be checked is in the findings."""
        return all(finding.holds is not False for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        certificate = self.certificate
        return {
            "valid": self.valid,
            "findings": [asdict(finding) for finding in self.findings],
            "digest": certificate.digest if certificate else None,
            "certificate": certificate.model_dump(mode="json") if certificate else None,
        }


def verify(
    path: Path, adapter: Path | None = None, key: str | None = None, card: Card | None = None
) -> Verdict:
    """Check a certificate, or the run folder around it; every difference is a finding.

    key: the signer's Ed25519 key in hexadecimal, `card`: the consortium's card, which names it; got
    from the signer itself. Without either, what is shown is that everything belongs together, not
    who vouches for it. Raises ``CertificateError`` only for arguments that cannot be used.
    """
    run = path if path.is_dir() else None
    if adapter is not None and not adapter.is_dir():
        raise CertificateError(f"There is no adapter folder {adapter}. Check the path.")
    try:
        certificate = Certificate.read(path / FILE if run else path)
    except CertificateError as error:
        return Verdict(None, (Finding("signature", False, str(error)),))
    findings = [
        Finding("signature", True, f"is valid; the key is {certificate.key}"),
        _signer(certificate, key, card),
        *_job(certificate, run),
        as_asked(certificate),
        _rounds(certificate),
        *composed(certificate),
        *(_run_files(certificate, run) if run else ()),
        *_adapter(certificate, adapter or (run / "adapter" if run else None)),
        *rebase_findings(certificate, adapter or (run / "adapter" if run else None), run),
        *_ledgers(certificate, run),
    ]
    return Verdict(certificate, tuple(findings))


def _signer(certificate: Certificate, key: str | None, card: Card | None) -> Finding:
    expected = card.operator_key if card else key
    if expected is None:
        text = (
            "simulation: signed by itself, with a key that was made for this run"
            if certificate.kind == "simulation"
            else "not checked against a key that you know: give the consortium's card with --consortium, "
            "or the operator's key with --key"
        )
        return Finding("signer", None, text)
    operator, former = expected.lower(), ""
    if card and (known := _former(certificate, card)):
        operator = known
        former = "; this key has been replaced since, so the date is only the certificate's word"
    if certificate.key != operator and certificate.delegation:
        if why := _not_delegated(certificate, operator):
            return Finding("signer", False, f"a server signed it, and {why}")
    elif certificate.key != operator:
        made = "a simulation, which signs itself" if certificate.kind == "simulation" else "another"
        return Finding(
            "signer",
            False,
            f"the certificate is signed by {certificate.key} ({made}), not by {operator}. Ask "
            "the operator for the certificate that it signed, or for its newest card if its key "
            "has changed",
        )
    if card and (certificate.roster is None or certificate.roster.consortium != card.id):
        return Finding("signer", False, f"it is not a certificate of the consortium {card.name!r}")
    by = f"the operator of {card.name!r}" if card else "the key given"
    if certificate.delegation and certificate.key != operator:
        by = f"a server to which {by} delegated this run"
    return Finding("signer", True, by + former)


def _former(certificate: Certificate, card: Card) -> str:
    """The operator's key that signed it, or let a server sign, while it was the operator's; else nothing."""
    try:
        issued = datetime.fromisoformat(certificate.issued).timestamp()
    except ValueError:
        return ""
    for past in card.past("operator"):
        key = past.key.hex()
        mine = certificate.key == key or (
            certificate.delegation and not _not_delegated(certificate, key)
        )
        if mine and issued <= past.until:
            return key
    return ""


def _not_delegated(certificate: Certificate, operator: str) -> str:
    """Why the operator did not let this key certify this run; nothing if it did, when that was issued."""
    roster = certificate.roster
    try:
        when = datetime.fromisoformat(certificate.issued).timestamp()
        given = delegate_of(
            certificate.delegation or "",
            bytes.fromhex(operator),
            roster.consortium if roster else "",
            certificate.run,
            when,
        )
    except (ValueError, PlanRefused) as error:
        return str(error)
    return "" if given == certificate.key else "its delegation is for another key"


def _job(certificate: Certificate, run: Path | None) -> Iterator[Finding]:
    stated = certificate.job.canonical
    digest = hashlib.sha256(canonical_json(stated).encode()).hexdigest()
    same = digest == certificate.job.sha256
    yield Finding("job digest", same, f"the job in it has the digest {digest}")
    if run is None:
        return
    try:
        # Read as a run reads it: what the file leaves out has its default.
        found = json.loads(Job.build(read_toml(run / "job.toml"), source="it").to_json())
    except UmbelError as error:
        yield Finding("job.toml", False, str(error))
        return
    differ = list(differences(stated, found))
    yield Finding(
        "job.toml",
        not differ,
        f"is not the certified job: {some(differ)}. Restore the job.toml that the run wrote"
        if differ
        else "is the certified job",
    )


def _rounds(certificate: Certificate) -> Finding:
    """A run has all rounds of its job, or says that it ended early, and why."""
    stated = certificate.rounds
    planned = certificate.job.canonical.get("training", {}).get("rounds")
    early = stated.done < stated.planned
    last = stated.planned if stated.ended == CAUSES["restored"] else stated.done  # numbers went on
    holds = stated.planned == planned and stated.done <= stated.planned and stated.kept <= last
    text = f"{stated.done} of {stated.planned} are done"
    if early and stated.ended:
        text += f": the run ended early, because {stated.ended}"
    if len(certificate.rosters) > 1:
        changes = ", ".join(
            f"{period.clients} clients of {period.members} members from round {period.first} on"
            for period in certificate.rosters
        )
        text += f"; members left or joined on the way: {changes}"
    return Finding("rounds", holds and early == (stated.ended is not None), text)


def _run_files(certificate: Certificate, run: Path) -> Iterator[Finding]:
    yield _file(run, "plan.json", _plan_facts(certificate), _plan_found)
    yield _file(run, "result.json", _result_facts(certificate), _result_found)
    path = run / "audit.json"
    audit = certificate.audit
    if audit is None:
        if path.is_file():
            text = "is not covered by the certificate, which is older"
            yield Finding("audit.json", None, text)
        return
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"
    same = found == audit.sha256
    text = "is the certified one" if same else f"is not the certified one (its SHA-256: {found})"
    yield Finding("audit.json", same, text)


def _file(
    run: Path, name: str, stated: Mapping[str, Any], facts: Callable[[Any], Mapping[str, Any]]
) -> Finding:
    try:
        found = facts(json.loads((run / name).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Finding(
            name, False, f"cannot be read: {error!r}. Restore the file that the run wrote"
        )
    differ = list(differences(stated, found))
    text = f"differs: {some(differ)}. Restore the {name} that the run wrote"
    return Finding(name, not differ, text if differ else "agrees")


def _plan_facts(certificate: Certificate) -> dict[str, Any]:
    return {
        "guarantee": certificate.guarantee.sentence,
        "base_sha256": certificate.base.sha256,
        "spending": _dumped(certificate.guarantee.spending),
    }


def _plan_found(plan: Any) -> dict[str, Any]:
    return {
        "guarantee": plan["guarantee"],
        "base_sha256": plan["base_sha256"],
        "spending": _dumped(spending_of(plan)),
    }


def _dumped(spending: list[Spending]) -> list[dict[str, Any]]:
    return [alike.model_dump() for alike in spending]


def _result_facts(certificate: Certificate) -> dict[str, Any]:
    return {
        "adapter_sha256": certificate.adapter.sha256,
        "rebase": certificate.adapter.rebase.model_dump() if certificate.adapter.rebase else None,
        "base_sha256": certificate.base.sha256,
        "epsilon": certificate.guarantee.epsilon_spent,
        "reproducible": certificate.guarantee.seeded,
        "rounds": certificate.rounds.done,
        "ended": certificate.rounds.ended,
        "kept": certificate.rounds.kept,
        "metrics": dict(certificate.figures),
        "public": certificate.public.model_dump() if certificate.public else None,
        "roster": certificate.roster.model_dump() if certificate.roster else None,
        "rosters": [period.model_dump() for period in certificate.rosters],
        "sealed_heads": certificate.ledgers.sealed_heads,
    }


def _result_found(result: Any) -> dict[str, Any]:
    return {
        "adapter_sha256": result["adapter_sha256"],
        "rebase": result.get("rebase"),
        "base_sha256": result["base_sha256"],
        "epsilon": result["privacy"]["epsilon"],
        "reproducible": result["reproducible"],
        "rounds": result["rounds"],
        "ended": CAUSES[result["ended"]["cause"]] if result["ended"] else None,
        "kept": result["kept"]["round"],
        "metrics": figures_of(result["metrics"]),
        "public": public_of(result),
        "roster": result["roster"],
        "rosters": result["rosters"],
        "sealed_heads": sorted(result["sealed_heads"]),
    }


def _adapter(certificate: Certificate, folder: Path | None) -> Iterator[Finding]:
    if folder is None:
        yield Finding("adapter", None, "not checked: give its folder with --adapter")
        return
    stated, found = certificate.adapter.files, digests(folder)
    changed = sorted(name for name in stated if name in found and found[name] != stated[name])
    differ = [f"{name} is not the certified one" for name in changed]
    differ += [f"{name} is missing" for name in sorted(stated.keys() - found.keys())]
    differ += [f"{name} is not in the certificate" for name in sorted(found.keys() - stated.keys())]
    yield Finding(
        "adapter",
        not differ,
        f"{folder}: {some(differ)}. Get the adapter again from the issuer of the certificate"
        if differ
        else f"all {len(stated)} files are the certified ones",
    )


def _ledgers(certificate: Certificate, run: Path | None) -> Iterator[Finding]:
    """The heads of all owners are there; in a simulation's folder so are the ledgers themselves."""
    stated = certificate.ledgers
    if not stated.owners:
        return
    files = sorted(_ledger_folder(run).glob("*.sqlite")) if run else []
    if not stated.reported or not files:
        text = (
            f"{stated.reported} of {stated.owners} owners' heads are in it; each owner can check its "
            "own with: umbel ledger verify FOLDER --certificate FILE"
        )
        yield Finding("ledgers", None, text)
        return
    heads, bound = set(stated.sealed_heads), 0
    for file in files:
        try:
            with Ledger(file) as ledger:
                bound += bound_row(ledger, heads) is not None
        except LedgerError as error:
            yield Finding("ledgers", False, str(error))
            return
    lost = stated.reported - bound
    yield Finding(
        "ledgers",
        not lost,
        f"{lost} of {stated.reported} certified heads are not in any ledger here: a ledger is older "
        "than the certificate, or belongs to another owner. Restore the newest ledgers from a backup"
        if lost
        else f"all {stated.reported} certified heads are in the ledgers",
    )


def _ledger_folder(run: Path) -> Path:
    """The run's own, or the shared one that it was begun with."""
    own = run / "ledgers"
    if own.is_dir():
        return own
    try:
        return Path(json.loads((run / "run.json").read_text(encoding="utf-8"))["ledgers"])
    except (OSError, ValueError, KeyError, TypeError):
        return own
