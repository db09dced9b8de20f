"""result.json: what came of a run, every number measured."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from .. import __version__
from ..job import Job
from ..learning.counts import figures
from ..learning.metrics import Counts, total
from ..learning.model import arrays_digest
from ..planning.cohorts import attackers_of
from ..planning.plan import Plan
from ..run.events import (
    Compared,
    Evaluation,
    Event,
    Holdout,
    Kept,
    Partition,
    Prepared,
    Public,
    Ready,
    Round,
    heads_of,
)
from ..strategies import leaves_own_model
from .ending import ended
from .rebase import rebased
from .restored import lost_rounds
from .run import Run

ROSTER = ("consortium", "epoch", "sha256")
"""What identifies a roster."""


def summarise(
    run: Run,
    counts: Mapping[str, Counts],
    apart: Mapping[str, Mapping[str, Counts]],
    identity: Mapping[str, Any],
    rosters: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The result of a finished run; its figures are those of the model that was kept.

    counts: of the last model, by client, or of all together under "". apart: those of models trained
    apart from the federation, by the client that was alone, "" for all data pooled. rosters: those
    that the run went by, for the certificate; none in a simulation.
    """
    plan, job = run.plan, run.plan.job
    names = [client.name for client in plan.everybody]
    labels = job.data.labels or []
    events = run.folder.told(Event)
    done = run.round - lost_rounds(events)
    rounds = [event for event in events if isinstance(event, Round)]
    evaluations = [event for event in events if isinstance(event, Evaluation)]
    first = next((event for event in evaluations if event.round == 0), None)
    kept = run.kept or Kept(run.round, run.round < job.training.rounds)
    last = next((event for event in reversed(evaluations) if event.round == kept.round), None)
    metrics = last.metrics if last else {}
    if kept.round == run.round and counts:
        metrics = figures(job, total(counts))
    # A last test may be charged after the last round; one within a round is in the round's figure.
    charged: list[Round | Evaluation] = [
        *rounds,
        *(e for e in evaluations if e.round == run.round),
    ]
    epsilons = _spent_epsilons(charged, job, names) if job.private else {}
    return {
        "umbel_version": __version__,
        "name": job.name,
        "task": job.task,
        "status": "finished",
        "reproducible": identity["reproducible"],
        "seed": job.seed,
        "rounds": done,
        "ended": ended(events, done, job.training.rounds),
        "clients": len(names),
        "labels": labels,
        "kept": asdict(kept),
        "metrics": metrics,
        "initial": first.metrics if first else {},
        "client_metrics": last.clients if last else {},
        "client_initial": first.clients if first else {},
        "exact": _exact(first, last),
        "public": _public(events, kept.round),
        "local_only": {
            name: {
                **_figures(found, labels),
                "own": found[name].metrics(labels) if name in found else {},
                "privacy": plan.by_name[name].epsilon if job.noised_locally else None,
            }
            for name, found in apart.items()
            if name
        },
        "pooled": _figures(apart[""], labels) if "" in apart else None,
        "privacy": {
            "unit": job.privacy.unit,
            "epsilon": max(epsilons.values(), default=None),
            "delta": job.privacy.delta if job.private else None,
            "clients": epsilons,
            "guarantee": plan.guarantee,
        },
        "encryption": {"mode": job.encryption.mode, "server_sees": plan.server_sees},
        "seconds": _seconds(events),
        "bytes": _traffic(rounds),
        "trainable_parameters": plan.model.trained_parameters,
        "total_parameters": plan.model.total_parameters,
        "base": job.model.base,
        "base_sha256": plan.model.base_digest,
        "adapter": job.adapter,
        "strategy": job.strategy.name,
        "attackers": _attackers(job, names),
        "adapter_sha256": arrays_digest(run.arrays),
        "rebase": rebased(events, kept.round),
        "about": about(plan),
        "roster": {key: rosters[-1][key] for key in ROSTER} if rosters else None,
        "rosters": list(rosters),
        "sealed_heads": _newest_heads(events),
        "data": next((e.data or None for e in events if isinstance(e, Partition)), None),
    }


def about(plan: Plan) -> str:
    """What the result is if each owner has a model of its own, which nobody else can export; else empty."""
    if personal := plan.model.personal:
        return (
            f"The result is the shared part. Its {len(personal):,} personal tensors are as they were at the "
            "start: each owner has its own, which never left it. Figures from the owners' tests are of their "
            "own models."
        )
    if leaves_own_model(plan.job.strategy):
        return "The result is the shared model. Each owner has a model of its own, which never left it."
    return ""


def _attackers(job: Job, names: Sequence[str]) -> dict[str, Any] | None:
    """Who attacked, in a simulation where some do."""
    found = attackers_of(names, job)
    return {"attack": job.simulation.attack, "clients": found} if found else None


def _exact(first: Evaluation | None, last: Evaluation | None) -> dict[str, Any] | None:
    """The same figures without the noise of private counts, which only a simulation can read.

    From the owners' own logs on this machine; between machines they stay where they are. None there.
    """
    if last is None or not last.exact:
        return None
    return {"metrics": last.exact, "initial": first.exact if first else {}}


def _public(events: Sequence[Event], kept: int) -> dict[str, Any] | None:
    """What the server itself measured, and on which records; None if it had none."""
    records = next((e for e in events if isinstance(e, Public)), None)
    if records is None:
        return None
    figures = {e.round: e.metrics for e in events if isinstance(e, Holdout)}
    return {
        "examples": records.examples,
        "sha256": records.sha256,
        "metrics": figures.get(kept, {}),
        "initial": figures.get(0, {}),
    }


def _figures(counts: Mapping[str, Counts], labels: list[str]) -> dict[str, Any]:
    return total(counts).metrics(labels) if counts else {}


def _spent_epsilons(
    charged: Sequence[Round | Evaluation], job: Job, clients: Collection[str]
) -> dict[str, float]:
    """What each client has spent at most: its own ledger's figure when it last answered.

    One that was asked after that may have trained and been charged without being heard; only its
    limit is then certain.
    """
    limit = job.privacy.owner_limit
    spent: dict[str, float] = {}
    for event in charged:
        unheard = [name for name in event.failed if name in clients]
        if isinstance(event, Round) or event.epsilon:
            spent |= dict.fromkeys(unheard, limit) | event.epsilon
    return dict(sorted(spent.items()))


def _newest_heads(events: Sequence[Event]) -> list[str]:
    """What each client last said of its ledger, in all parts of the run; sorted, so that none is named."""
    heads: dict[str, str] = {}
    for event in events:
        heads |= heads_of(event)
    return sorted(heads.values())


def _seconds(events: Sequence[Event]) -> dict[str, float]:
    """Wall time by stage, over all parts of the run; `federated` is everything but the comparison."""

    def spent(*kinds: type[Prepared | Ready | Round | Evaluation | Holdout]) -> float:
        return math.fsum(event.seconds for event in events if isinstance(event, kinds))

    compared = max((e.seconds for e in events if isinstance(e, Compared)), default=0.0)
    tested = spent(Evaluation, Holdout)
    federated = spent(Prepared, Ready, Round) + tested
    return {
        "prepare": round(spent(Prepared, Ready), 3),
        "rounds": round(spent(Round), 3),
        "evaluation": round(tested, 3),
        "federated": round(federated, 3),
        "compared": round(compared, 3),
        "total": round(federated + compared, 3),
    }


def _traffic(rounds: Sequence[Round]) -> dict[str, int]:
    """Bytes of model arrays that really travelled in training rounds."""
    up, down = sum(r.bytes_up for r in rounds), sum(r.bytes_down for r in rounds)
    answers = max(1, sum(len(r.clients) for r in rounds))
    asked = max(1, sum(len(r.clients) + len(r.failed) for r in rounds))
    return {
        "up_per_client_round": up // answers,
        "down_per_client_round": down // asked,
        "up_total": up,
        "down_total": down,
    }
