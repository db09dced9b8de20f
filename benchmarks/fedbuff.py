"""How soon asynchronous rounds reach an accuracy if one owner is slow, beside synchronous ones."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from kept import Kept
from questions import MODEL, questions_job

RESULTS = Path(__file__).resolve().parent / "results" / "fedbuff.json"
CLIENTS, BUFFER, SLOWER = 8, 4, 5.0
SEEDS = (0, 1, 2)
SHARE = 0.95
"""Of the best accuracy that synchronous rounds reach: the target."""
SOONER = 1.5

ABOUT = f"""\
TREC questions, six classes, {CLIENTS} clients (Dirichlet 0.5), a linear head on frozen features, encrypted,
no privacy; tested on the official 500 questions after each sum. One client trains {SLOWER:g} times as long as
the others on the virtual clock, in both runs. fedavg waits for it in each round; fedbuff sums the first
{BUFFER} that are ready. Same data, seed and local steps.

For each seed: virtual seconds until the accuracy is {SHARE:.0%} of the best one of fedavg. Figures are kept
in --results and not measured again: the same command goes on after a stop.

Bar: fedbuff is there {SOONER} times sooner, for each seed.
"""


def settings(strategy: str, seed: int, smoke: bool) -> dict[str, Any]:
    """The job of a run, but for where files lie."""
    rounds = {"fedavg": 12, "fedbuff": 60}
    values: dict[str, Any] = {
        "seed": seed,
        "model.base": MODEL,
        "model.adapter": "head",
        "privacy.unit": "none",
        "training.rounds": 2 if smoke else rounds[strategy],
        "training.local_steps": 2 if smoke else 8,
        "training.batch_size": 32,
        "training.optimizer": "sgd",
        "training.learning_rate": 0.5,
        "strategy.name": strategy,
        "strategy.weighting": "equal",
        "evaluation.every": 1,
        "simulation.partition": "dirichlet:0.5",
        "simulation.clients": CLIENTS,
        "simulation.slow": {"client-0001": SLOWER},
    }
    if strategy == "fedbuff":
        values["strategy.options.buffer"] = BUFFER
    if smoke:
        values["data.limit"] = 400
    return values


def course(values: dict[str, Any]) -> dict[str, Any]:
    """Virtual seconds and accuracy of each tested model of a run, and how stale updates were."""
    from umbel.run.events import Evaluation, Round
    from umbel.simulations.engine import Options, simulate

    with tempfile.TemporaryDirectory(prefix="umbel-fedbuff-") as folder:
        run = simulate(
            questions_job(values), Options(Path(folder) / "run", workers=1, reproducible=True)
        )
        rounds = run.told(Round)
        seconds = {0: 0.0} | {event.round: event.virtual for event in rounds}
        tested = {event.round: event.metrics["accuracy"] for event in run.told(Evaluation)}
    stale = [age for event in rounds for age in event.staleness.values()]
    return {
        "seconds": [seconds[round_] for round_ in sorted(tested)],
        "accuracy": [tested[round_] for round_ in sorted(tested)],
        "stalest": max(stale, default=0),
    }


def reached(run: dict[str, Any], target: float) -> float | None:
    """Virtual seconds until the target; None if it is not reached."""
    pairs = zip(run["seconds"], run["accuracy"], strict=True)
    return min((seconds for seconds, accuracy in pairs if accuracy >= target), default=None)


def measured(seed: int, kept: Kept, smoke: bool) -> dict[str, Any]:
    """One row."""
    runs = {}
    for name in ("fedavg", "fedbuff"):
        values = settings(name, seed, smoke)
        runs[name] = kept.figures(values, lambda values=values: course(values))
    target = SHARE * max(runs["fedavg"]["accuracy"])
    times = {name: reached(run, target) for name, run in runs.items()}
    return {
        "seed": seed,
        "target": target,
        "seconds": times,
        "sooner": (times["fedavg"] or 0.0) / times["fedbuff"] if times["fedbuff"] else 0.0,
        "best": {name: max(run["accuracy"]) for name, run in runs.items()},
        "stalest": runs["fedbuff"]["stalest"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="FILE", help="keep figures there"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--check", action="store_true", help="exit with 1 if the bar is missed")
    parser.add_argument("--smoke", action="store_true", help="few records, two rounds, no bar")
    options = parser.parse_args()
    kept = Kept(None if options.smoke else options.results)
    rows = []
    for seed in options.seeds[:1] if options.smoke else options.seeds:
        row = measured(seed, kept, options.smoke)
        rows.append(row)
        print(
            f"seed {seed}: accuracy {row['target']:.3f} after {row['seconds']['fedavg']} s "
            f"(fedavg) and {row['seconds']['fedbuff']} s (fedbuff): {row['sooner']:.2f} times "
            f"sooner; best {row['best']['fedavg']:.3f} and {row['best']['fedbuff']:.3f}; updates up "
            f"to {row['stalest']:.0f} versions old",
            file=sys.stderr,
            flush=True,
        )
    missed = [f"seed {row['seed']}: {row['sooner']:.2f}" for row in rows if row["sooner"] < SOONER]
    if options.json:
        print(json.dumps({"rows": rows, "missed": missed}, indent=2))
    if options.check and missed and not options.smoke:
        sys.exit("\n".join(missed))


if __name__ == "__main__":
    main()
