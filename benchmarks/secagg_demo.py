"""What encryption costs the main example: `umbel simulate` with it and without, taking turns."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

JOB = Path(__file__).resolve().parent.parent / "examples" / "reviews.toml"
WAYS = {
    "encrypted": [],
    "plain": ["--set", "encryption.mode=none", "--set", "simulation.encryption_required=false"],
}
_SHORT = ["--set", "simulation.alone=false", "--set", "simulation.pooled=false"]


def measure(repeats: int) -> dict[str, Any]:
    """Figures of both ways: medians over `repeats`, and what encryption adds.

    Both runs of a pair draw the same records and the same noise, so that what differs in accuracy
    is rounding to fixed point alone. A plain run before the first begins with an empty cache: its
    federated part holds the features, which are computed once for all later runs.
    """
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="umbel-secagg-cache-") as cache:
        first = _simulate(WAYS["plain"], cache)
        for _ in range(repeats):
            for way, settings in WAYS.items():
                runs[way].append(_simulate(settings, cache))
    medians = {
        way: {key: statistics.median(run[key] for run in found) for key in found[0]}
        for way, found in runs.items()
    }
    pairs = list(zip(runs["encrypted"], runs["plain"], strict=True))
    added = statistics.median(own["rounds_s"] - other["rounds_s"] for own, other in pairs)
    return {
        **medians,
        "with_features": first,
        "rounds_added_s": added,
        "added_to_bare_rounds": added / medians["plain"]["rounds_s"],
        "added_to_federated": added / first["federated_s"],
        "accuracy_difference_points": 100
        * max(abs(own["accuracy"] - other["accuracy"]) for own, other in pairs),
    }


def _simulate(settings: list[str], cache: str) -> dict[str, float]:
    """One run of the job in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="umbel-secagg-") as folder:
        run = Path(folder, "run")
        command = [sys.executable, "-m", "umbel.cli", "simulate", str(JOB), "--reproducible"]
        done = subprocess.run(
            [*command, *_SHORT, *settings, "--run-dir", str(run)],
            env={**os.environ, "UMBEL_CACHE": cache},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{JOB.name} {' '.join(settings)} failed:\n{done.stderr.strip()}")
        result = json.loads((run / "result.json").read_text())
        events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rounds = [event for event in events if event["event"] == "round"]
    return {
        "federated_s": result["seconds"]["federated"],
        "rounds_s": sum(event["seconds"] for event in rounds),
        "trips_s": sum(sum(event.get("trips", {}).values()) for event in rounds),
        "rounds": len(rounds),
        "accuracy": (result["exact"] or result)["metrics"]["accuracy"],
    }


def report(figures: dict[str, Any]) -> str:
    """The figures for a reader."""
    rows = [f"{JOB.name}: seconds of the federated part and of the rounds alone; accuracy"]
    for way in WAYS:
        found = figures[way]
        rows.append(
            f"  {way:<12}{found['federated_s']:>9.2f} s{found['rounds_s']:>9.2f} s"
            f"{found['accuracy']:>9.4f}   {found['rounds']:.0f} rounds"
        )
    rows.append(
        f"  with the features, computed once: {figures['with_features']['federated_s']:.2f} s of "
        f"federated part\n  added to the rounds: {figures['rounds_added_s']:+.2f} s, of which in trips "
        f"of their own {figures['encrypted']['trips_s']:.2f} s\n"
        f"    {figures['added_to_federated']:+.1%} of the federated part with the features, "
        f"{figures['added_to_bare_rounds']:+.1%} of bare rounds; accuracy "
        f"{figures['accuracy_difference_points']:.2f} points apart"
    )
    return "\n".join(rows)
