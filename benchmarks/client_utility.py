"""What client-level privacy costs in accuracy: over the number of clients, with and without noise."""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "reviews.toml"
PUBLIC = 3000
"""Records that nobody trains on: the public hold-out that the models are tested on."""
CLIENTS = (25, 50, 100)
EPSILON, BAR = 8.0, 0.75
SMOKE_ROWS, SMOKE_CLIENTS, SMOKE_PUBLIC = 400, 6, 100

ABOUT = f"""\
Spreads the records of examples/reviews.toml evenly over virtual clients and trains a linear head,
encrypted, with and without client-level privacy (any client's data exchanged for any other), tested
on {PUBLIC:,} records that are held out as public ones. The noise of a sum does not depend on how many
clients are in it, so the more there are, the less it is in their mean.

"distributed": each client adds its share, with encryption.minimum at 80 % of the clients;
"central": the server adds the noise. Bar: {BAR} with {CLIENTS[-1]} clients at epsilon {EPSILON:g},
distributed.
"""


@dataclass(frozen=True)
class Point:
    """One run."""

    clients: int
    mechanism: str
    accuracy: float
    epsilon: float | None
    noise_multiplier: float | None
    seconds: float


def split(folder: Path, most: int | None, held: int) -> tuple[Path, Path]:
    """The example's records, or the first `most`, in two files, by lot: to train on, and public ones."""
    with (EXAMPLE.parent / "data" / "reviews.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    random.Random(0).shuffle(rows)
    rows = rows[:most]
    paths = folder / "train.csv", folder / "public.csv"
    for path, part in zip(paths, (rows[held:], rows[:held]), strict=True):
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(part)
    return paths


def measure(clients: int, mechanism: str, folder: Path, rounds: int) -> Point:
    """Train and test once."""
    train, public = folder / "train.csv", folder / "public.csv"
    values: dict[str, Any] = {
        "data.path": str(train),
        "data.test_fraction": 0.0,
        "evaluation.public_path": str(public),
        "evaluation.counts": "off",
        "evaluation.every": 0,
        "training.rounds": rounds,
        "training.local_steps": 16,
        "training.batch_size": 128,
        "simulation.partition": "iid",
        "simulation.clients": clients,
        "simulation.alone": False,
        "simulation.pooled": False,
        "encryption.minimum": round(0.8 * clients),
        "encryption.colluders": 0.05,
        "privacy.unit": "none",
    }
    if mechanism != "none":
        values |= {
            "privacy.unit": "client",
            "privacy.mechanism": mechanism,
            "privacy.epsilon": EPSILON,
            "privacy.delta": 1e-3,
            "privacy.clipping_norm": 0.5,
            "encryption.clip": 64.0,
        }
    sets = [f"--set={key}={json.dumps(value)}" for key, value in values.items()]
    with tempfile.TemporaryDirectory(prefix="run-", dir=folder) as place:
        command = [sys.executable, "-m", "umbel.cli", "simulate", str(EXAMPLE), *sets]
        done = subprocess.run(
            [*command, "--run-dir", f"{place}/run"], stdout=subprocess.DEVNULL, check=False
        )
        if done.returncode:
            sys.exit(f"{clients} clients, {mechanism}: failed with status {done.returncode}")
        result = json.loads(Path(place, "run", "result.json").read_text())
        plan = json.loads(Path(place, "run", "plan.json").read_text())
    return Point(
        clients,
        mechanism,
        result["public"]["metrics"]["accuracy"],
        result["privacy"]["epsilon"],
        plan["clients"][0]["noise_multiplier"],
        result["seconds"]["federated"],
    )


def row(point: Point) -> str:
    spent = "-" if point.epsilon is None else f"{point.epsilon:.2f}"
    sigma = "-" if point.noise_multiplier is None else f"{point.noise_multiplier:.3f}"
    return (
        f"{point.clients:>7}  {point.mechanism:<12}{point.accuracy:>9.4f}{spent:>9}{sigma:>8}"
        f"{point.seconds:>9.0f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, action="append", help=f"[{CLIENTS}]")
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="a little of each, no bars: does it run?",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--check", action="store_true", help="exit with 1 if the bar is missed")
    given = parser.parse_args()
    points = []
    if not given.json:
        print("clients  noise by     accuracy  epsilon   sigma  seconds")
    with tempfile.TemporaryDirectory(prefix="umbel-clients-") as folder:
        split(Path(folder), *((SMOKE_ROWS, SMOKE_PUBLIC) if given.smoke else (None, PUBLIC)))
        for clients in (SMOKE_CLIENTS,) if given.smoke else given.clients or CLIENTS:
            for mechanism in ("none", "central", "distributed"):
                points.append(measure(clients, mechanism, Path(folder), 1 if given.smoke else 6))
                if not given.json:
                    print(row(points[-1]), flush=True)
    if given.json:
        print(json.dumps({"points": [asdict(point) for point in points]}))
    reached = {(p.clients, p.mechanism): p.accuracy for p in points}
    return int(given.check and reached.get((CLIENTS[-1], "distributed"), BAR) < BAR)


if __name__ == "__main__":
    sys.exit(main())
