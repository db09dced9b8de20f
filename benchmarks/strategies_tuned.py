"""Comparisons in which each rule has its own best settings, found on seeds that no result has."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from spread import interval
from strategies_runs import CLEAR, Case, Entry, Scores

Row = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """What takes part under one name, and the settings that are tried for it: as many for each arm."""

    name: str
    tried: Mapping[str, Entry]


def best(arm: Arm, scores: Scores, cases: Sequence[Case]) -> str | None:
    """The settings of `arm` with the best mean accuracy over the tuning `cases`; None if one was not run.

    These runs are in the clear and not tested on the way, which changes their time, and their figures by what
    a secure sum rounds.
    """
    if len(arm.tried) == 1:
        return next(iter(arm.tried))
    found = {
        settings: [
            scores.of(replace(entry, own=entry.own | CLEAR | {"evaluation.every": 0}), case)
            for case in cases
        ]
        for settings, entry in arm.tried.items()
    }
    means = {
        settings: statistics.mean(figure.accuracy for figure in figures if figure)
        for settings, figures in found.items()
        if all(figures)
    }
    return max(means, key=lambda settings: means[settings]) if len(means) == len(found) else None


def compared(
    arms: Iterable[Arm], against: str, scores: Scores, tuning: Sequence[Case], cases: Sequence[Case]
) -> list[Row]:
    """A row per arm with its best settings: accuracy, and points above the arm `against`, case by case.

    Each is over the `cases` that the two have; intervals are half of 95 % ones (Student's t) of the mean.
    """
    chosen = {arm.name: (arm, best(arm, scores, tuning)) for arm in arms}
    each: dict[str, dict[Case, float]] = {name: {} for name in chosen}
    for case, (name, (arm, settings)) in itertools.product(cases, chosen.items()):
        found = scores.of(arm.tried[settings], case) if settings is not None else None
        if found:
            each[name][case] = found.accuracy
    rows = []
    for name, own in each.items():
        points = [100 * (own[case] - each[against][case]) for case in own if case in each[against]]
        if not points:
            continue
        rows.append(
            {
                "strategy": name,
                "settings": chosen[name][1],
                "accuracy": statistics.mean(own[case] for case in own if case in each[against]),
                "points": statistics.mean(points),
                "interval": interval(points) if len(points) > 1 else None,
                "seeds": len(points),
            }
        )
    return rows


TUNING = {1.0: 101, 2.0: 100}
"""By epsilon, the seed on which learning rates are chosen."""
PRIVATE = tuple(
    Arm(
        name,
        {
            f"rate {rate:g}": Entry(name, "lora", own, rate=0.3, noised=rate)
            for rate in (0.5, 1.0, 2.0)
        },
    )
    for name, own in {
        **{name: {} for name in ("fedavg", "ffa-lora", "rolora", "la-lora")},
        "fed-sb": {"model.lora.rank": 32},
    }.items()
)


def private(scores: Scores, seeds: int) -> list[Row]:
    """Points above plain averaging of both factors, each rule with its own rate at each epsilon."""
    rows = []
    for epsilon, tuning in TUNING.items():
        cases = [Case("reviews", "iid", epsilon, seed) for seed in range(seeds)]
        found = compared(
            PRIVATE, "fedavg", scores, [Case("reviews", "iid", epsilon, tuning)], cases
        )
        rows += [{"epsilon": epsilon, **row} for row in found]
    return rows


FEW, MIXED, MANY = "4", "4, 8, 16", "16"
RANKS: dict[str, dict[str, Any]] = {
    FEW: {"model.lora.rank": 4},
    MIXED: {"model.lora.rank": 16, "simulation.ranks": [4, 8, 16]},
    MANY: {"model.lora.rank": 16},
}
"""Of all owners, or by turns; alpha is twice the job's rank."""
RANKED: dict[str, Any] = {
    "training.optimizer": "adamw",
    "training.rounds": 10,
    "training.local_steps": 8,
}
"""In place of LoRA's common settings, in which factors hardly move."""
RANKED_RATES = (0.0015, 0.003, 0.006)
RANKED_TUNING = 100
"""The seed on which each of `RANKS` has its learning rate chosen."""


def ranked(name: str) -> Arm:
    own = RANKED | RANKS[name]
    own["model.lora.alpha"] = 2.0 * own["model.lora.rank"]
    tried = {
        f"rate {rate:g}": Entry(
            "flexlora", "lora", own | {"training.learning_rate": rate}, rate=0.3
        )
        for rate in RANKED_RATES
    }
    return Arm(name, tried)


def ranks(scores: Scores, seeds: int) -> list[Row]:
    """Points beside the largest rank at all owners, each at its own rate."""
    cases = [
        Case("questions", "dirichlet:0.1", math.inf, seed)
        for seed in (*range(seeds), RANKED_TUNING)
    ]
    rows = compared(map(ranked, RANKS), MANY, scores, cases[seeds:], cases[:seeds])
    return [{"ranks" if key == "strategy" else key: row[key] for key in row} for row in rows]
