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
BARS = {8.0: 0.79, 4.0: 0.79, 2.0: 0.78, 1.0: 0.77}
"""Least federated accuracy with a head at an epsilon."""
NOISE = 0.01
"""By how much a point may lie below one of a smaller epsilon."""

SMOKE = {"data.limit": 400, "training.rounds": 1, "training.local_steps": 1}
SETTINGS = {
    "head": {"training.rounds": 10, "training.local_steps": 8},
    # Two layers: what is trained below them costs time and draws noise. The long features give the
    # head, which starts at zero, a larger part of the clipped gradient and larger steps.
    "lora": {
        "model.adapter": "lora",
        "model.feature_scale": 16.0,
        "model.lora.rank": 2,
        "model.lora.alpha": 4.0,
        "model.lora.target": [
            f"layer.{layer}.{part}"
            for layer in (4, 5)
            for part in (
                *("attention.self.value", "attention.output.dense"),
                *("intermediate.dense", "output.dense"),
            )
        ],
        "training.rounds": 4,
        "training.local_steps": 4,
        "training.batch_size": 256,
        "training.microbatch": 16,
        "training.learning_rate": 4.0,
        "training.schedule": "linear",
    },
}
# Without noise more steps still help, and without clipping they must be smaller.
UNLIMITED = {
    "head": {"training.rounds": 40, "training.learning_rate": 0.3},
    "lora": {
        "model.feature_scale": 4.0,
        "training.local_steps": 24,
        "training.batch_size": 32,
        "training.optimizer": "adamw",
        "training.learning_rate": 2e-3,
    },
}

ABOUT = f"""\
Runs examples/reviews.toml (four sites, 2.4k to 8.0k snippets each, all-MiniLM-L6-v2) at several
epsilons, encrypted, with everything that a data owner's agent does; inf is without privacy (and
with more and smaller steps). "federated" is the accuracy of the one model on all held-out records;
"alone" is that of each site's own model on the same records, trained with as many steps and the same
epsilon. A site alone with epsilon inf has nothing to protect: the figure that a federation must
beat to be worth while. Figures are means over --seeds seeds; the spread is half their range.

Bars, for both: at every epsilon the federation beats each site alone with the same epsilon, and no
epsilon is more than {NOISE} below a smaller one. For the head:
{", ".join(f"{least} at epsilon {e:g}" for e, least in BARS.items())}; at epsilon 1 the
federation beats every site alone without any privacy.

A head takes a minute on two cores and seconds from then on (its features are cached); LoRA, in the
last two layers, takes five minutes an epsilon. --results keeps what was measured: points that the
file holds are not measured again.
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


def measure(
    adapter: str, epsilon: float, seeds: int, alone: bool, changed: dict[str, Any] | None = None
) -> Point:
    """Run the example at one epsilon, once a seed, with some keys `changed`."""
    results = [_run(adapter, epsilon, seed, alone, changed or {}) for seed in range(seeds)]
    sites = sorted(results[0]["local_only"])
    return Point(
        adapter,
        epsilon,
        results[0]["privacy"]["epsilon"],
        # Without the noise of tests, which a simulation can read: what is measured is the model.
        [(result["exact"] or result)["metrics"]["accuracy"] for result in results],
        {n: [result["local_only"][n]["accuracy"] for result in results] for n in sites},
    )


def _run(
    adapter: str, epsilon: float, seed: int, alone: bool, changed: dict[str, Any]
) -> dict[str, Any]:
    values: dict[str, Any] = {"seed": seed, "evaluation.every": 0}
    values |= {"simulation.alone": alone, "simulation.pooled": False} | SETTINGS[adapter]
    if math.isinf(epsilon):
        values |= {"privacy.unit": "none"} | UNLIMITED[adapter]
    else:
        values["privacy.epsilon"] = epsilon
    values |= changed
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
    if 1.0 in heads and math.inf in heads and heads[math.inf].alone:
        best = max(heads[math.inf].alone_means.values())
        if heads[1.0].mean <= best:
            found.append(
                f"head at epsilon 1: {heads[1.0].mean:.4f}, and a site alone without privacy "
                f"reaches {best:.4f}"
            )
    for adapter in SETTINGS:
        found += _misshapen([point for point in points if point.adapter == adapter])
    return found


def _misshapen(points: list[Point]) -> list[str]:
    """Where one adapter's curve falls, or a site alone does as well as the federation."""
    found, before = [], None
    for point in sorted(points, key=lambda point: point.epsilon):
        what = f"{point.adapter} at epsilon {point.epsilon:g}: {point.mean:.4f}"
        for name, own in point.alone_means.items():
            if point.mean <= own:
                found.append(f"{what}, and {name} alone reaches {own:.4f}")
        if before and point.mean < before.mean - NOISE:
            found.append(f"{what} is below {before.mean:.4f} at epsilon {before.epsilon:g}")
        if before is None or point.mean > before.mean:
            before = point
    return found


def kept(path: Path | None) -> list[Point]:
    """Points of earlier calls; none if there is no such file."""
    if path is None or not path.exists():
        return []
    points = json.loads(path.read_text(encoding="utf-8"))["points"]
    return [Point(**{**point, "epsilon": float(point["epsilon"])}) for point in points]


def as_json(points: list[Point]) -> str:
    """One JSON object; no privacy is the epsilon "inf", because JSON has no such number."""
    values = [asdict(p) | ({"epsilon": "inf"} if math.isinf(p.epsilon) else {}) for p in points]
    return json.dumps({"points": values, "missed": missed(points)}, indent=1)


def row(point: Point) -> str:
    alone = "  ".join(f"{name} {value:.3f}" for name, value in point.alone_means.items()) or "-"
    spent = "-" if point.spent is None else f"{point.spent:.3f}"
    return (
        f"{point.adapter:<6}{point.epsilon:>6g}{spent:>9}{point.mean:>11.4f} +-{point.spread:.4f}"
        f"   alone: {alone}"
    )


def draw(points: list[Point], path: Path) -> None:
    """Accuracy over epsilon: a line an adapter, and a bar from the worst to the best site alone."""
    from umbel.reports import canvas

    adapters = sorted({point.adapter for point in points})
    sheet = canvas.figure(
        "What privacy costs in accuracy",
        "one model of four sites, and from the worst to the best site alone, over epsilon",
    )
    axes = sheet.add_subplot()
    canvas.dress(axes)
    places = {epsilon: place for place, epsilon in enumerate(EPSILONS)}
    for adapter, colour in zip(adapters, canvas.PALETTE, strict=False):
        own = sorted((p for p in points if p.adapter == adapter), key=lambda p: p.epsilon)
        beside = 0.08 * adapters.index(adapter)
        at = [places[p.epsilon] + beside for p in own]
        axes.errorbar(
            at, [p.mean for p in own], [p.spread for p in own],
            color=colour, marker="o", label=f"{adapter}, federated", capsize=3,
        )  # fmt: skip
        compared = [p for p in own if p.alone]
        alone = [p.alone_means.values() for p in compared]
        axes.errorbar(
            [places[p.epsilon] + beside for p in compared], [max(a) for a in alone],
            [[max(a) - min(a) for a in alone], [0.0] * len(alone)],
            color=colour, alpha=0.5, fmt="_", label=f"{adapter}, each site alone",
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
    parser.add_argument(
        "--no-alone", action="store_true", help="leave out each site alone: half the time"
    )
    parser.add_argument(
        "--smoke", action="store_true", help="each setting with few records, no bars: does it run?"
    )
    parser.add_argument("--results", type=Path, help="keep points in this JSON file")
    parser.add_argument("--plot", type=Path, help="draw the curve into this PNG file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    given = parser.parse_args()
    if given.smoke:
        given.adapter, given.epsilon, given.seeds, given.check = (
            [*SETTINGS],
            [8.0, math.inf],
            1,
            False,
        )
    points = kept(given.results)
    if not given.json:
        print("adapter  eps    spent   federated")
    for adapter in given.adapter or ["head"]:
        for epsilon in given.epsilon or EPSILONS:
            point = next((p for p in points if (p.adapter, p.epsilon) == (adapter, epsilon)), None)
            if point is None:
                changed = SMOKE if given.smoke else None
                point = measure(adapter, epsilon, given.seeds, not given.no_alone, changed)
                points.append(point)
                if given.results:
                    given.results.write_text(as_json(points) + "\n", encoding="utf-8")
            if not given.json:
                print(row(point), flush=True)
    failed = missed(points)
    if given.plot:
        draw(points, given.plot)
    if given.json:
        print(as_json(points))
    for text in [] if given.json else failed:
        print(f"MISSED: {text}")
    return int(given.check and bool(failed))


if __name__ == "__main__":
    sys.exit(main())
