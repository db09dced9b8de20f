"""Writes run folders as the engine does, so that reports are tested on real files."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

JOB = """name = "{name}"
task = "{task}"

[data]
path = "/data/reviews.csv"
{data}
[training]
rounds = {rounds}

[privacy]
unit = "{unit}"
epsilon = 4.0
delta = 1e-5
{more}"""


def _classified(accuracy: float, labels: Sequence[str], examples: int) -> dict[str, Any]:
    right = round(accuracy * examples / len(labels))
    wrong = max(1, round((1 - accuracy) * examples / len(labels) / max(1, len(labels) - 1)))
    scores = {"precision": accuracy - 0.01, "recall": accuracy + 0.01, "f1": accuracy}
    return {
        "accuracy": accuracy,
        **scores,
        "per_class": {label: {**scores, "support": examples // len(labels)} for label in labels},
        "roc_auc": min(1.0, accuracy + 0.08),
        "kappa": 2 * accuracy - 1,
        "loss": 1.2 - accuracy,
        "examples": examples,
        "confusion": [[right if i == j else wrong for j in labels] for i in labels],
    }


def _modelled(perplexity: float, examples: int) -> dict[str, Any]:
    return {
        "loss": math.log(perplexity),
        "perplexity": perplexity,
        "tokens": examples * 40,
        "examples": examples,
    }


def write_run(
    folder: Path,
    *,
    name: str = "reviews",
    clients: Sequence[str] = ("film", "shop", "food", "travel"),
    labels: Sequence[str] = ("negative", "positive"),
    rounds: int = 10,
    ran: int | None = None,
    unit: str = "example",
    task: str = "text-classification",
    comparisons: bool = True,
    failed: dict[str, str] | None = None,
    job: str = "",
) -> Path:
    """Write a run of which `ran` rounds are done (all: with its result) and return its folder."""
    chance = random.Random(7)
    language = task == "causal-lm"
    labels = [] if language else list(labels)
    ran = rounds if ran is None else ran
    private = unit != "none"
    skill = {client: chance.uniform(-0.04, 0.04) for client in clients}
    sizes = {client: int(chance.lognormvariate(7.5, 0.8)) + 40 for client in clients}
    final_epsilon = {client: 3.9 - abs(skill[client]) * 20 for client in clients} if private else {}

    def metrics(done: float, client: str | None = None, loss: float = 0.0) -> dict[str, Any]:
        learned = 1 - math.exp(-4 * done)
        shift = skill[client] if client else 0.0
        held = sizes[client] // 5 if client else sum(sizes.values()) // 5
        if language:
            return _modelled((70 - 46 * learned) * (1 + 8 * shift) * (1 + loss), held)
        return _classified(0.52 + 0.31 * learned + shift - loss, labels, held)

    def epsilon(done: int) -> dict[str, float]:
        return {client: value * math.sqrt(done / rounds) for client, value in final_epsilon.items()}

    folder.mkdir(parents=True, exist_ok=True)
    data = 'label_column = "label"\n' if labels else ""
    (folder / "job.toml").write_text(
        JOB.format(name=name, task=task, rounds=rounds, unit=unit, data=data, more=job)
    )
    guarantee = (
        "Whoever sees the model learns about any one record at most what "
        "(3.90, 1e-5)-differential privacy allows."
    )
    if not private:
        guarantee = "No differential privacy: the model may reveal records."
    plan = {
        "name": name,
        "task": task,
        "rounds": rounds,
        "clients": [
            {
                "name": client,
                "size": sizes[client] + sizes[client] // 5,
                "training_share": 5 / 6,
                "holds_out": True,
                "training_size": sizes[client],
                "sampling_rate": 64 / sizes[client],
                "noise_multiplier": 0.81 if private else None,
                "epsilon": final_epsilon.get(client),
                "steps": 8 * rounds,
                "rounds": rounds,
            }
            for client in clients
        ],
        "trainable_parameters": 770,
        "total_parameters": 22_713_986,
        "bytes_up_per_client_round": 6_212,
        "bytes_down_per_client_round": 3_080,
        "guarantee": guarantee,
        "warnings": ["shop has fewer than 500 records"],
        "strategy": "fedavg",
    }
    (folder / "plan.json").write_text(json.dumps(plan))

    lines: list[dict[str, Any]] = [
        {
            "event": "partition",
            "labels": labels,
            "clients": {
                client: {
                    "train": sizes[client],
                    "test": sizes[client] // 5,
                    "labels": _spread(sizes[client], labels, chance),
                }
                for client in clients
            },
        }
    ]
    for done in range(ran + 1):
        if done:
            lines.append(
                {
                    "event": "round",
                    "round": done,
                    "attempt": 1,
                    "seconds": 2.1,
                    "clients": list(clients),
                    "failed": (failed or {}) if done == 2 else {},
                    "bytes_up": 6_212 * len(clients),
                    "bytes_down": 3_080 * len(clients),
                    "loss": 0.7 - 0.02 * done,
                    "epsilon": epsilon(done),
                }
            )
        tested = {client: metrics(done / rounds, client) for client in clients}
        overall = metrics(done / rounds)
        lines.append({"event": "evaluation", "round": done, "metrics": overall, "clients": tested})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if ran < rounds:
        return folder

    alone = {
        client: {**metrics(1, client, loss=0.07), "own": metrics(1, client, loss=0.02)}
        for client in clients
    }
    result = {
        "umbel_version": "0.1.0",
        "name": name,
        "task": task,
        "status": "finished",
        "reproducible": False,
        "rounds": rounds,
        "clients": len(clients),
        "labels": labels,
        "metrics": metrics(1),
        "initial": metrics(0),
        "client_metrics": {client: metrics(1, client) for client in clients},
        "client_initial": {client: metrics(0, client) for client in clients},
        "local_only": alone if comparisons else {},
        "pooled": metrics(1, loss=-0.03) if comparisons else None,
        "privacy": {
            "unit": unit,
            "epsilon": max(final_epsilon.values(), default=None),
            "delta": 1e-5 if private else None,
            "clients": final_epsilon,
            "guarantee": guarantee,
        },
        "seconds": {
            "total": 83.0,
            "prepare": 12.5,
            "rounds": 30.25,
            "evaluation": 11.75,
            "federated": 54.5,
            "compared": 28.5,
        },
        "bytes": {
            "up_per_client_round": 6_212,
            "down_per_client_round": 3_080,
            "up_total": 6_212 * len(clients) * rounds,
            "down_total": 3_080 * len(clients) * rounds,
        },
        "trainable_parameters": 770,
        "total_parameters": 22_713_986,
        "adapter": "head",
        "strategy": "fedavg",
        "adapter_sha256": "9f2c" + "0123456789ab" * 5,
    }
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def _spread(size: int, labels: Sequence[str], chance: random.Random) -> dict[str, int]:
    weights = [chance.gammavariate(0.6, 1) + 1e-3 for _ in labels]
    return {
        label: round(size * weight / sum(weights))
        for label, weight in zip(labels, weights, strict=True)
    }


@pytest.fixture(name="write_run")
def _write_run() -> Callable[..., Path]:
    return write_run
