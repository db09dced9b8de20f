"""What privacy costs in accuracy: federated and alone, over epsilon, for a head and for LoRA."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "reviews.toml"
EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0, math.inf)
BARS = {8.0: 0.79, 2.0: 0.78, 1.0: 0.77}
"""Least federated accuracy with a head at an epsilon."""

SETTINGS = {
    "head": {"training.rounds": 10, "training.local_steps": 8},
    "lora": {
        "model.adapter": "lora",
        "model.lora.rank": 8,
        "training.rounds": 5,
        "training.local_steps": 6,
        "training.batch_size": 400,
        "training.optimizer": "adamw",
        "training.learning_rate": 2e-3,
    },
}
# Without noise more steps still help, and without clipping they must be smaller.
UNLIMITED = {"head": {"training.rounds": 40, "training.learning_rate": 0.3}, "lora": {}}

ABOUT = f"""\
Runs examples/reviews.toml (four sites, 4.2k to 5.2k snippets each, all-MiniLM-L6-v2) at several
epsilons, encrypted, with everything that a data owner's agent does; inf is without privacy (and
with 40 rounds for the head). "federated" is the accuracy of the one model on all held-out records;
"alone" is that of each site's own model on the site's own, trained with as many steps and the same
epsilon. A site alone with epsilon inf has nothing to protect: the figure that a federation must
beat to be worth while. Figures are means over --seeds seeds; the spread is half their range.

Bars, for the head: {", ".join(f"{least} at epsilon {e:g}" for e, least in BARS.items())}; at epsilon 1
the federation beats every site alone without any privacy.

A head takes a minute on two cores and seconds from then on (its features are cached); LoRA takes
several minutes an epsilon.
"""


@dataclass(frozen=True)
class Point:
    """Accuracies at one epsilon, one value a seed."""

    adapter: str
    epsilon: float
    spent: float | None
    """Epsilon that was really spent, the largest of any site."""
    federated: list[float]
    alone: dict[str, list[float]]

    @property
    def mean(self) -> float:
        return statistics.mean(self.federated)

    @property
    def spread(self) -> float:
        return (max(self.federated) - min(self.federated)) / 2

    @property
    def alone_means(self) -> dict[str, float]:
        return {name: statistics.mean(values) for name, values in self.alone.items()}


def measure(adapter: str, epsilon: float, seeds: int) -> Point:
    """Run the example at one epsilon, once a seed."""
    results = [_run(adapter, epsilon, seed) for seed in range(seeds)]
    sites = sorted(results[0]["local_only"])
    return Point(
        adapter,
        epsilon,
        results[0]["privacy"]["epsilon"],
        [result["metrics"]["accuracy"] for result in results],
        {n: [result["local_only"][n]["accuracy"] for result in results] for n in sites},
    )


def _run(adapter: str, epsilon: float, seed: int) -> dict[str, Any]:
    values: dict[str, Any] = {"seed": seed, "simulation.pooled": False, "evaluation.every": 0}
    values |= SETTINGS[adapter]
    if math.isinf(epsilon):
        values |= {"privacy.unit": "none"} | UNLIMITED[adapter]
    else:
        values["privacy.epsilon"] = epsilon
    sets = [f"--set={key}={json.dumps(value)}" for key, value in values.items()]
    with tempfile.TemporaryDirectory(prefix="umbel-utility-") as folder:
        command = [sys.executable, "-m", "umbel.cli", "simulate", str(EXAMPLE), *sets]
        done = subprocess.run(
            [*command, "--run-dir", f"{folder}/run"], stdout=subprocess.DEVNULL, check=False
        )
        if done.returncode:
            sys.exit(f"{adapter} at epsilon {epsilon:g} failed with status {done.returncode}")
        return json.loads(Path(folder, "run", "result.json").read_text())


def missed(points: list[Point]) -> list[str]:
    """The bars that were missed, in words."""
    heads = {point.epsilon: point for point in points if point.adapter == "head"}
    found = [
        f"head at epsilon {epsilon:g}: {heads[epsilon].mean:.4f} is below {least}"
        for epsilon, least in BARS.items()
        if epsilon in heads and heads[epsilon].mean < least
    ]
    if 1.0 in heads and math.inf in heads:
        best = max(heads[math.inf].alone_means.values())
        if heads[1.0].mean <= best:
            found.append(
                f"head at epsilon 1: {heads[1.0].mean:.4f}, and a site alone without privacy "
                f"reaches {best:.4f}"
            )
    return found


def row(point: Point) -> str:
    alone = "  ".join(f"{name} {value:.3f}" for name, value in point.alone_means.items())
    spent = "-" if point.spent is None else f"{point.spent:.3f}"
    return (
        f"{point.adapter:<6}{point.epsilon:>6g}{spent:>9}{point.mean:>11.4f} +-{point.spread:.4f}"
        f"   alone: {alone}"
    )


def draw(points: list[Point], path: Path) -> None:
    """Accuracy over epsilon: a line an adapter, and a band from the worst to the best site alone."""
    from umbel.reports import canvas

    adapters = sorted({point.adapter for point in points})
    sheet = canvas.figure(
        "What privacy costs in accuracy",
        "one model of four sites, and each site alone (shaded), over epsilon",
    )
    axes = sheet.add_subplot()
    canvas.dress(axes)
    places = {epsilon: place for place, epsilon in enumerate(EPSILONS)}
    for adapter, colour in zip(adapters, canvas.PALETTE, strict=False):
        own = sorted((p for p in points if p.adapter == adapter), key=lambda p: p.epsilon)
        at = [places[p.epsilon] for p in own]
        axes.errorbar(
            at, [p.mean for p in own], [p.spread for p in own],
            color=colour, marker="o", label=f"{adapter}, federated", capsize=3,
        )  # fmt: skip
        alone = [p.alone_means.values() for p in own]
        axes.fill_between(
            at, [min(a) for a in alone], [max(a) for a in alone],
            color=colour, alpha=0.15, linewidth=0, label=f"{adapter}, alone",
        )  # fmt: skip
    axes.set_xticks(range(len(EPSILONS)), [f"{e:g}" if e < math.inf else "none" for e in EPSILONS])
    axes.set_xlabel("epsilon at delta 1e-5 (none: no privacy)")
    axes.set_ylabel("accuracy on held-out records")
    axes.legend(frameon=False, loc="lower right")
    canvas.save(sheet, path)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapter", choices=sorted(SETTINGS), action="append", help="[head]")
    parser.add_argument(
        "--epsilon", type=float, action="append", choices=EPSILONS, help="[all of them]"
    )
    parser.add_argument("--seeds", type=int, default=1, help="runs a point [1]")
    parser.add_argument("--plot", type=Path, help="draw the curve into this PNG file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a bar is missed")
    given = parser.parse_args()
    points = []
    if not given.json:
        print("adapter  eps    spent   federated")
    for adapter in given.adapter or ["head"]:
        for epsilon in given.epsilon or EPSILONS:
            points.append(measure(adapter, epsilon, given.seeds))
            if not given.json:
                print(row(points[-1]), flush=True)
    failed = missed(points)
    if given.plot:
        draw(points, given.plot)
    if given.json:
        print(json.dumps({"points": [asdict(point) for point in points], "missed": failed}))
    for text in [] if given.json else failed:
        print(f"MISSED: {text}")
    return int(given.check and bool(failed))


if __name__ == "__main__":
    sys.exit(main())
