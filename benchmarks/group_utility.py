"""What it costs in accuracy to protect all records of one person in place of one record."""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "reviews.toml"
LARGEST = 8
BAR = 0.77
"""Least accuracy at epsilon 8 for a whole person."""

ABOUT = f"""\
Runs examples/reviews.toml (four sites, a head on frozen features, encrypted) on the same records,
dealt out at random to persons of 1 to {LARGEST} records within each site: at epsilon 8 for one record, at
epsilon 8 for one person (privacy.unit = "group"), and without privacy. Accuracy is that of exact counts
on all held-out records, which a simulation reads on this machine (for persons the mean over persons);
means over --seeds seeds.

Bar: {BAR} for persons. Two to ten minutes on two cores, most of it for features that are kept.
"""

RUNS: dict[str, dict[str, Any]] = {
    "record": {"privacy.unit": "example", "privacy.epsilon": 8.0, "training.batch_size": 1024},
    # 256 persons bring about as many records.
    "person": {"privacy.unit": "group", "privacy.epsilon": 8.0, "training.batch_size": 256},
    "nothing": {"privacy.unit": "none", "training.rounds": 40, "training.learning_rate": 0.3},
}


def deal(source: Path, target: Path, rows: int | None) -> None:
    """Write the records with a column "person": 1 to ``LARGEST`` records of one site each."""
    with source.open(encoding="utf-8", newline="") as file:
        records = list(csv.DictReader(file))
    generator = np.random.default_rng(0)
    generator.shuffle(records)
    records = records[:rows]
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["site", "person", "text", "label"])
        left, number = dict.fromkeys({record["site"] for record in records}, 0), {}
        for record in records:
            site = record["site"]
            if not left[site]:
                left[site] = int(generator.integers(1, LARGEST + 1))
                number[site] = number.get(site, 0) + 1
            left[site] -= 1
            writer.writerow([site, f"{site}-{number[site]}", record["text"], record["label"]])


def accuracy(data: Path, run: str, seed: int, rounds: int | None) -> tuple[float, float | None]:
    """On all held-out records, as counted exactly; and the epsilon that was spent."""
    values: dict[str, Any] = {
        "seed": seed,
        "data.path": str(data),
        "data.group_column": "person",
        "data.records_per_group": LARGEST,
        "evaluation.every": 0,
        "simulation.alone": False,
        "simulation.pooled": False,
    }
    values |= RUNS[run] | ({"training.rounds": rounds} if rounds else {})
    sets = [f"--set={key}={json.dumps(value)}" for key, value in values.items()]
    with tempfile.TemporaryDirectory(prefix="umbel-groups-") as folder:
        command = [sys.executable, "-m", "umbel.cli", "simulate", str(EXAMPLE), *sets]
        done = subprocess.run(
            [*command, "--run-dir", f"{folder}/run"], stdout=subprocess.DEVNULL, check=False
        )
        if done.returncode:
            sys.exit(f"{run} failed with status {done.returncode}")
        result = json.loads(Path(folder, "run", "result.json").read_text())
        owners = sorted(Path(folder, "run", "owners").iterdir())
        lines = [(owner / "metrics.jsonl").read_text().splitlines()[-1] for owner in owners]
    figures = [json.loads(line)["metrics"] for line in lines]
    counted = sum(figure["examples"] for figure in figures)
    right = sum(figure["accuracy"] * figure["examples"] for figure in figures)
    return right / counted, result["privacy"]["epsilon"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=EXAMPLE.parent / "data" / "reviews.csv")
    parser.add_argument("--smoke", action="store_true", help="a few records, rounds and one seed")
    arguments = parser.parse_args()
    seeds, rows, rounds = (1, 1200, 1) if arguments.smoke else (arguments.seeds, None, None)
    with tempfile.TemporaryDirectory(prefix="umbel-groups-") as folder:
        data = Path(folder, "persons.csv")
        deal(arguments.data, data, rows)
        means = {}
        for run in RUNS:
            found = [accuracy(data, run, seed, rounds) for seed in range(seeds)]
            values = [value for value, _ in found]
            means[run] = statistics.mean(values)
            spread, spent = (max(values) - min(values)) / 2, found[0][1]
            cost = "" if spent is None else f"   epsilon {spent:.2f}"
            print(f"{run:<8}{means[run]:.4f} +-{spread:.4f}{cost}", flush=True)
    if not arguments.smoke and means["person"] < BAR:
        sys.exit(f"person: {means['person']:.4f} is below {BAR}")


if __name__ == "__main__":
    main()
