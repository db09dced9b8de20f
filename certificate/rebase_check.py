"""What a certificate says of the base that a strategy moved, against the adapter and the run's events."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..errors import UmbelError
from ..job import StrategySpec
from ..run.events import Rebase
from ..run.run_folder import RunFolder
from ..strategies.residual import pairs_of_adapter, residual_digest
from ..strategies.residual_rank import residual_rank
from .finding import Finding
from .form import Certificate

_FILE = "adapter_model.safetensors"


def rebase_findings(
    certificate: Certificate, adapter: Path | None, run: Path | None
) -> Iterator[Finding]:
    """Nothing with a strategy that leaves the base alone, nor of a model that no round moved."""
    stated = certificate.adapter.rebase
    if stated is None:
        if certificate.rounds.kept and _moves_the_base(certificate):
            strategy = certificate.job.canonical["strategy"]["name"]
            yield Finding(
                "rebase",
                False,
                f"the certificate does not say what {strategy} put into the base. Get it again from "
                "its issuer",
            )
        return
    wrong, seen = [], []
    if adapter is not None:
        seen.append("the adapter")
        if (found := _of_adapter(certificate, adapter)) != stated.sha256:
            wrong.append(f"in the adapter what was put into the base has SHA-256 {found}")
    if run is not None:
        seen.append("metrics.jsonl")
        told = [e for e in RunFolder(run).told(Rebase) if e.round == stated.round]
        if not told or told[-1].sha256 != stated.sha256:
            wrong.append(f"metrics.jsonl does not tell it of round {stated.round}")
    text = f"rank {stated.rank}, {stated.dropped:.2g} of its norm dropped"
    if not seen:
        yield Finding("rebase", None, f"{text}; not checked: give the adapter with --adapter")
    elif wrong:
        yield Finding(
            "rebase", False, f"{'; '.join(wrong)}. Get both again from the certificate's issuer"
        )
    else:
        yield Finding("rebase", True, f"{text}: {' and '.join(seen)} agree")


def _moves_the_base(certificate: Certificate) -> bool:
    try:
        spec = StrategySpec.model_validate(certificate.job.canonical["strategy"])
        return residual_rank(spec) > 0
    except (LookupError, ValueError, UmbelError):
        return False  # no job of this version's: other checks say so


def _of_adapter(certificate: Certificate, adapter: Path) -> str:
    """The digest of what an adapter folder has beyond the job's rank."""
    from safetensors.numpy import load

    try:
        rank = int(certificate.job.canonical["model"]["lora"]["rank"])
        return residual_digest(pairs_of_adapter(load((adapter / _FILE).read_bytes()), rank))
    except Exception as error:  # safetensors raises its own kinds for a damaged file
        return f"none ({_FILE} cannot be read: {type(error).__name__})"
