"""Attacks on the records of a simulation: mislabelled canaries, membership by the loss, inversion."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from ..learning.examples import Examples
from ..learning.features import with_features
from ..learning.model import Learner
from ..learning.tasks import Task
from ..simulations.federation import Federation
from ..wire.arrays import Arrays
from .canaries import Tell
from .inversion import MOST_CLIENTS, Inverter, View, attack_of
from .membership import Losses, attack, losses_of
from .mislabelled import audit_from_outside
from .subject import FEWEST, Subject, a_few, bounded, no_claim

_MOST_LOSSES, _MOST_LOSSES_THROUGH_BASE = 4_000, 1_000
"""Number of members, and of non-members, whose losses are compared."""
_POOL = 500
_TRIALS, _TRIALS_THROUGH_BASE = 100, 6
_LEAST_LOSS = 1e-4


def mislabelled(
    subject: Subject, federation: Federation, learner: Learner, task: Task, tell: Tell
) -> dict[str, Any]:
    """Wrong labels put into training: what models say of them, from outside."""
    if subject.job.privacy.unit != "example":
        return {"skipped": no_claim(subject.job)}
    if not subject.job.kind.classified:
        return {"skipped": "only for a task with classes"}
    if not learner.network.head_alone:
        return {
            "skipped": "only for a head on frozen features, because then training again is cheap"
        }
    tell("mislabelled", 0, 0)
    share = next(s for s in federation.shares if s.name == subject.client["name"])
    own = with_features(learner, federation.data(share).train)
    others = [with_features(learner, federation.data(s).test) for s in federation.shares]
    held_out = Examples.concatenate([part for part in others if len(part)] or [own])
    if own.features is None or held_out.features is None or not any(map(len, others)):
        return {"skipped": "it needs held-out records, and a head that reads features"}
    seen = audit_from_outside(
        learner,
        task,
        subject.mechanism,
        own,
        held_out,
        federation.classes,
        claim=subject.claim,
        delta=subject.job.privacy.delta,
    )
    return bounded(seen, subject.claim)


def membership(
    federation: Federation, learner: Learner, task: Task, final: Arrays, tell: Tell
) -> dict[str, Any]:
    """The attack over all clients, on each client, and on the model before training."""
    data = [(share.name, federation.data(share)) for share in federation.shares]
    most = _MOST_LOSSES if learner.network.head_alone else _MOST_LOSSES_THROUGH_BASE
    most = max(2, most // len(data))
    sides = [
        (
            name,
            a_few(with_features(learner, both.train), most),
            a_few(with_features(learner, both.test), most),
        )
        for name, both in data
    ]
    total = 2 * sum(len(train) + len(test) for _, train, test in sides)
    if not any(len(train) and len(test) for _, train, test in sides):
        return {"skipped": "there are no held-out records to compare with"}
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        tell("membership", done, total)

    def measure(weights: Arrays) -> dict[str, Losses]:
        learner.network.load(weights)
        return {
            name: (
                losses_of(learner, task, train, progress),
                losses_of(learner, task, test, progress),
            )
            for name, train, test in sides
        }

    before, after = measure(learner.initial), measure(final)
    return {
        "interval": "DeLong, 95 %",
        "final": _figures(*after.values()),
        "before": _figures(*before.values()),
        "clients": {
            name: _figures(losses)
            for name, losses in after.items()
            if min(map(len, losses)) >= FEWEST
        },
        "losses": _histogram(after),
    }


def _figures(*groups: Losses) -> dict[str, Any]:
    found = attack(groups)
    return {**asdict(found), "telling": found.telling}


def _histogram(losses: dict[str, Losses]) -> dict[str, Any]:
    """Shares of losses in bins of equal ratio, for the picture."""
    members, others = map(np.concatenate, zip(*losses.values(), strict=True))
    everything = np.concatenate([members, others])
    low, high = max(_LEAST_LOSS, everything.min()), everything.max() + _LEAST_LOSS
    edges = np.geomspace(low, 1.001 * high, 41)
    members, others = np.maximum(members, low), np.maximum(others, low)
    return {
        "edges": edges.tolist(),
        "members": (np.histogram(members, edges)[0] / len(members)).tolist(),
        "others": (np.histogram(others, edges)[0] / len(others)).tolist(),
    }


def inversion(
    subject: Subject,
    federation: Federation,
    learner: Learner,
    task: Task,
    final: Arrays,
    tell: Tell,
) -> dict[str, Any]:
    """Records of an update, and of a sum of updates, with and without the run's noise."""
    kind = attack_of(learner)
    if kind is None:
        return {
            "skipped": "no attack is implemented for what this job trains (neither a linear head "
            "nor token embeddings)"
        }
    job, shares = subject.job, federation.shares
    if job.privacy.unit not in ("example", "none"):
        return {"skipped": f"not implemented if noise protects one {job.privacy.unit}"}
    clients = min(MOST_CLIENTS, subject.plan["cohort"]["size"], len(shares))
    each = max(1, _POOL // len(shares))
    parts = [a_few(with_features(learner, federation.data(s).train), each) for s in shares]
    firsts = np.cumsum([0, *map(len, parts)])
    pool = Examples.concatenate(parts)
    inverter = Inverter(learner, task, final, pool)
    trials = _TRIALS if learner.network.head_alone else _TRIALS_THROUGH_BASE
    groups = [
        [_place(firsts, trial * clients + turn) for turn in range(clients)]
        for trial in range(min(trials, max(1, len(pool) // clients)))
    ]
    alone = [group[:1] for group in groups]
    noises: list[tuple[float, float] | None] = [None]
    if job.privacy.unit == "example":
        noises.append((subject.mechanism.noise_multiplier, job.privacy.clipping_norm))
    views, total, done = [], 2 * len(noises) * trials, 0

    def step() -> None:
        nonlocal done
        done += 1
        tell("inversion", done, total)

    for noise in noises:
        for victims in (alone, groups):
            view = inverter.view(victims, noise, tell=step)
            summed = victims is groups
            seen = summed == job.encrypted and (noise is not None) == (len(noises) > 1)
            views.append(_view(view, summed, seen))
    return {"attack": kind, "pool": len(pool), "views": views}


def _place(firsts: np.ndarray, turn: int) -> int:
    """Place in the pool of the record that is attacked at a turn; clients take turns."""
    round_, client = divmod(turn, len(firsts) - 1)
    held = int(firsts[client + 1] - firsts[client])
    return int(firsts[client]) + round_ % held


def _view(view: View, summed: bool, seen: bool) -> dict[str, Any]:
    return {
        "summed": summed,
        "clients": view.clients,
        "noised": view.noised,
        "seen_by_server": seen,
        "share": view.share,
        "chance": view.chance,
        "trials": [asdict(trial) for trial in view.trials],
    }
