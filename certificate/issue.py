"""From a finished run's own files to its certificate."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .. import __version__
from ..job import Job, read_toml
from ..privacy.secagg.keys import Identity
from ..run.events import Round
from ..run.run_folder import RunFolder
from ..storage.canonical import canonical_json
from ..storage.files import sha256_of
from .form import Audit, Certificate, Guarantee, Mechanism, Spending

Json = Mapping[str, Any]

UNBOUND = frozenset({"README.md", ".gitattributes"})
"""Files of an adapter folder that are not part of the model: the card itself names the certificate."""

_LIBRARIES = ("flwr", "numpy", "opacus", "peft", "scipy", "torch", "transformers")

CAUSES = {
    "figures": "its figures did not improve any more",
    "operator": "its operator ended it",
    "restored": "its server was restored from a backup, so some rounds are not in any model",
    "owners": "too few owners were able to continue",
    "weights": "its weights have become too large, so owners do not train them any further",
}
"""Why a run has fewer rounds than planned, in words that do not name an owner."""

_LIMITS = (
    "It does not prove that the machines of the data owners ran unmodified software; each owner "
    "vouches for its own, and its own ledger charges its data whatever a server says.",
    "It does not prove that the owners' data are what they are said to be, or that one person has "
    "only one record among them.",
    "The signer states these facts: owners should hold the job's digest against their audit logs.",
    "The owners reported the figures of the model, on their held-out records; nobody else has "
    "measured them.",
)
_LIMIT_PUBLIC = (
    "The signer measured the public figures, on records that it chose: anyone who has the same records "
    "can measure them again."
)
_LIMIT_CHOICE = (
    "The model was chosen because its figures were the best: on records that played no part in "
    "the choice it may do a little worse."
)
_LIMIT_SIMULATION = (
    "This is a simulation: its key was made for this run by the person who ran it, so it shows "
    "that these files belong together and were not changed, not who made them."
)
_LIMIT_SEEDED = (
    "The noise was drawn from the job's seed, so that the run can be repeated: nothing in it is "
    "private, and the guarantee holds only for a run without --reproducible."
)
_LIMIT_HEADS = (
    "{missing} owners' ledger heads were not reported, or the run charged these owners nothing: if "
    "one of their ledgers is later replaced by an older copy, this certificate does not show it."
)
_LIMIT_DELEGATED = (
    "The server signed it, as the operator allowed for this run alone: anyone who stole the server's key "
    "could have certified other facts about this run, also with an earlier date."
)
_LIMIT_AUDIT = (
    "An audit gives a lower bound on what leaks: passing one proves nothing, and it misses small "
    "faults."
)


def issue(run: Path, result: Json, signer: Identity, delegation: str | None = None) -> Certificate:
    """Certify the run in a folder; `result` is what its result.json says, or is about to.

    delegation: what allows a `signer` that is not the operator to do so.
    """
    job = Job.build(read_toml(run / "job.toml"), source=str(run / "job.toml"))
    plan, identity = _read(run / "plan.json"), _read(run / "run.json")
    kind = "deployment" if identity.get("signature") else "simulation"
    guarantee = _guarantee(job, plan, result)
    owners = sum(alike.clients for alike in guarantee.spending if alike.mechanisms)
    audit, heads = audit_of(run), result["sealed_heads"]
    values = {
        "kind": kind,
        "run": identity["id"],
        "issued": datetime.now(UTC).isoformat(timespec="seconds"),
        "umbel_version": __version__,
        "versions": _versions(),
        "job": {"sha256": job.digest(), "canonical": json.loads(job.to_json())},
        "base": {"name": job.model.base, "sha256": plan["base_sha256"]},
        "guarantee": guarantee,
        "encryption": {
            "mode": job.encryption.mode,
            "server_sees": result["encryption"]["server_sees"],
        },
        "roster": result["roster"],
        "rosters": result["rosters"],
        "ledgers": {"owners": owners, "reported": len(heads), "sealed_heads": sorted(heads)},
        "rounds": _rounds(run, job, result),
        "figures": figures_of(result["metrics"]),
        "public": public_of(result),
        "audit": audit,
        "adapter": {
            "kind": result["adapter"],
            "sha256": result["adapter_sha256"],
            "trained_parameters": result["trainable_parameters"],
            "files": digests(run / "adapter"),
            "rebase": result.get("rebase"),
        },
        "limits": _limits(kind, job, result, owners - len(heads), audit, delegation is not None),
        "key": signer.public.signing.hex(),
    }
    return Certificate.model_validate(values).signed_by(signer, delegation)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of an adapter folder that a program may read, by its path inside."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in UNBOUND:
            found[name] = sha256_of(path).hex()
    return found


def audit_of(run: Path) -> Audit | None:
    """Digest and figures of audit.json, without texts, which may quote records, and owners' own."""
    path = run / "audit.json"
    if not path.is_file():
        return None
    owners = {client["name"] for client in _read(run / "plan.json")["clients"]}
    figures = {
        ".".join(place): value
        for place, value in _leaves(_read(path))
        if _is_number(value) and not owners.intersection(place)
    }
    return Audit(sha256=hashlib.sha256(path.read_bytes()).hexdigest(), figures=figures)


def figures_of(metrics: Json) -> dict[str, float]:
    """The plain, finite numbers among a model's metrics."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if _is_number(value) and not isinstance(value, bool)
    }


def public_of(result: Json) -> dict[str, Any] | None:
    """What a result says of the public hold-out."""
    public = result["public"]
    if public is None:
        return None
    figures = figures_of(public["metrics"])
    return {"examples": public["examples"], "sha256": public["sha256"], "figures": figures}


def spending_of(plan: Json) -> list[Spending]:
    """What a plan's clients spend, those that spend alike counted together."""
    clients = Counter(
        canonical_json({"epsilon": client["epsilon"], "mechanisms": _mechanisms(client["events"])})
        for client in plan["clients"]
    )
    return [
        Spending.model_validate({"clients": count, **json.loads(alike)})
        for alike, count in sorted(clients.items())
    ]


def _mechanisms(events: Json) -> list[Json]:
    return [Mechanism(what=what, **events[what]).model_dump() for what in sorted(events)]


def _guarantee(job: Job, plan: Json, result: Json) -> Guarantee:
    spending = spending_of(plan)
    planned = [alike.epsilon for alike in spending if alike.epsilon is not None]
    return Guarantee(
        sentence=plan["guarantee"],
        unit=job.privacy.unit,
        delta=job.privacy.delta if job.private else None,
        epsilon_limit=job.privacy.owner_limit if job.private else None,
        epsilon_planned=max(planned, default=None),
        epsilon_spent=result["privacy"]["epsilon"],
        seeded=bool(result["reproducible"]),
        spending=spending,
    )


def _rounds(run: Path, job: Job, result: Json) -> dict[str, Any]:
    rounds = RunFolder(run).told(Round)
    # A round that was repeated after a crash may stand there twice; the last one is in the model.
    sizes = {event.round: len(event.clients) for event in rounds if event.aggregated}
    return {
        "planned": job.training.rounds,
        "done": len(sizes),
        "ended": CAUSES[result["ended"]["cause"]] if result["ended"] else None,
        "kept": result["kept"]["round"],
        "repeated": len(rounds) - len(sizes),
        "cohort_sizes": [sizes[number] for number in sorted(sizes)],
    }


def _limits(
    kind: str, job: Job, result: Json, missing: int, audit: Audit | None, delegated: bool
) -> list[str]:
    limits = list(_LIMITS)
    if delegated:
        limits.append(_LIMIT_DELEGATED)
    if result["public"] is not None:
        limits.append(_LIMIT_PUBLIC)
    if job.evaluation.keep == "best":
        limits.append(_LIMIT_CHOICE)
    if missing > 0:
        limits.append(_LIMIT_HEADS.format(missing=missing))
    if audit is not None:
        limits.append(_LIMIT_AUDIT)
    if job.private and result["reproducible"]:
        limits.append(_LIMIT_SEEDED)
    if kind == "simulation":
        limits.append(_LIMIT_SIMULATION)
    return limits


def _versions() -> dict[str, str]:
    found = {}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def _is_number(value: Any) -> bool:
    """Also for a truth value; not for what JSON has no number for."""
    return isinstance(value, int | float) and math.isfinite(value)


def _leaves(values: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(values, dict):
        yield place, values
        return
    for key, value in values.items():
        yield from _leaves(value, (*place, str(key)))


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
