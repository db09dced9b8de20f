"""What somebody gets who brings a file and no job: beside logistic regression on the same features."""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from first_result_sets import DATA, FOLDS, MODEL, SETS, Case, Prepared
from spread import interval

PARTITIONS = ("iid", "dirichlet:0.5")
EPSILONS = (math.inf, 8.0)
MEAN_BARS = {math.inf: 0.7, 8.0: 3.0}
SET_BARS = {math.inf: 1.5, 8.0: 5.0}
"""Most points below logistic regression: the mean over sets, partitions and seeds; any set."""
SLOWER = 1.5
"""Most seconds of a run by the recipe, in those of one by a job file that names no setting."""

ABOUT = f"""\
Runs umbel.simulate(FILE, simulation.clients=8, privacy.epsilon=8 or privacy.unit="none") as somebody would
who sets nothing else, encrypted, on five sets that come in packages, dealt evenly and by Dirichlet(0.5) with
another seed each time. Beside it: scikit-learn's logistic regression on the same features of all training
records in one place, without privacy, with C tuned by {FOLDS} folds of them. Both are tested on the same
held-out records. A gap is how many points of accuracy the first is below the second; the interval is 95 %,
over seeds, of the mean (Student's t).

  reviews    sentences from four places: positive or negative (VADER; split by document)
  questions  TREC questions, six classes (official split)
  messages   SMS: spam or not
  disasters  tweets: about a disaster or not
  clothes    customers' reviews of clothes: which of six departments they are about (benchmarks/packages.txt)

Bars: mean gap {MEAN_BARS[math.inf]} without privacy and {MEAN_BARS[8.0]} at epsilon 8; no set beyond
{SET_BARS[math.inf]} and {SET_BARS[8.0]}; with --seconds, a first run of `questions` at epsilon 8 (from an
empty cache) takes at most {SLOWER} times as long as with the defaults of a job file. The recipe was chosen
on parts of the training sides (--validation).

With --keep FOLDER each figure is kept there when it is found: the same command goes on after a stop, and
--only-kept shows what is there. All sets have their first seed before any has its second.
"""


@dataclass(frozen=True)
class Gap:
    """Points below logistic regression, one value per seed."""

    data: str
    partition: str
    epsilon: float
    reference: float
    """Accuracy of logistic regression."""
    accuracy: list[float] = field(default_factory=list)

    @property
    def points(self) -> list[float]:
        return [100 * (self.reference - one) for one in self.accuracy]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {
            "epsilon": None if math.isinf(self.epsilon) else self.epsilon,
            "mean_points": statistics.mean(self.points),
            "interval": None if len(self.points) < 2 else interval(self.points),
        }


def by_seed(gaps: Sequence[Gap], epsilon: float) -> list[float]:
    """The mean gap over sets and partitions, one value per seed that all of them have."""
    return [
        statistics.mean(one) for one in zip(*(g.points for g in of(gaps, epsilon)), strict=False)
    ]


def by_set(gaps: Sequence[Gap], epsilon: float) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for gap in of(gaps, epsilon):
        found.setdefault(gap.data, []).extend(gap.points)
    return {name: statistics.mean(points) for name, points in found.items()}


def of(gaps: Sequence[Gap], epsilon: float) -> list[Gap]:
    return [gap for gap in gaps if gap.epsilon == epsilon]


def measure(
    sets: Sequence[Prepared],
    seeds: int,
    epsilons: Sequence[float],
    *,
    smoke: bool,
    only_kept: bool,
) -> list[Gap]:
    """Gaps of every set, way to deal and epsilon, of which some seed is there."""
    gaps: dict[tuple[str, str, float], Gap] = {}
    for seed in range(seeds):
        for prepared in sets:
            reference = prepared.reference(only_kept=only_kept)
            for partition in PARTITIONS[:1] if smoke else PARTITIONS:
                for epsilon in epsilons:
                    case = Case(partition, epsilon, seed)
                    found = prepared.accuracy(case, only_kept=only_kept)
                    if found is None or reference is None:
                        continue
                    key = (prepared.name, partition, epsilon)
                    gap = gaps.setdefault(key, Gap(*key, reference))
                    gap.accuracy.append(found)
                    print(line(gap), file=sys.stderr, flush=True)
    order = [prepared.name for prepared in sets]
    return sorted(gaps.values(), key=lambda gap: order.index(gap.data))


def line(gap: Gap) -> str:
    privacy = "no privacy" if math.isinf(gap.epsilon) else f"epsilon {gap.epsilon:g}"
    return (
        f"{gap.data:10s} {gap.partition:14s} {privacy:11s} {statistics.mean(gap.accuracy):.4f}  regression "
        f"{gap.reference:.4f}  gap {shown(gap.points)} ({len(gap.points)} seeds)"
    )


def shown(points: Sequence[float]) -> str:
    width = f" ± {interval(points):.2f}" if len(points) > 1 else ""
    return f"{statistics.mean(points):.2f}{width}"


def means(gaps: Sequence[Gap]) -> dict[str, dict[str, Any]]:
    """The mean gap over sets and partitions, by epsilon: with its interval over seeds."""
    found = {}
    for epsilon in dict.fromkeys(gap.epsilon for gap in gaps):
        seeds = by_seed(gaps, epsilon)
        found[f"{epsilon:g}"] = {
            "mean_points": statistics.mean(seeds),
            "interval": None if len(seeds) < 2 else interval(seeds),
            "seeds": len(seeds),
        }
    return found


def report(
    gaps: Sequence[Gap], sets: Sequence[Prepared], taken: dict[str, dict[str, float]]
) -> list[str]:
    found = rows(gaps, sets) if gaps else []
    for epsilon, mean in means(gaps).items():
        found.append(
            f"epsilon {epsilon}: mean gap {shown(by_seed(gaps, float(epsilon)))} ({mean['seeds']} seeds)"
        )
    for what, one in taken.items():
        found.append(
            f"{what}: {one['recipe']:.1f} s by the recipe, {one['job file']:.1f} s by a job file, "
            f"{one['ratio']:.2f} x ({one['ratio, processor']:.2f} x of the processor's seconds)"
        )
    return found


def rows(gaps: Sequence[Gap], sets: Sequence[Prepared]) -> list[str]:
    """A table in Markdown: gaps dealt evenly / by Dirichlet, with intervals."""
    found = [
        "| set | classes, records to train on | regression | no privacy | epsilon 8 |",
        "|---" * 5 + "|",
    ]
    for prepared in sets:
        mine = [gap for gap in gaps if gap.data == prepared.name]
        if not mine:
            continue
        cells = [" / ".join(shown(gap.points) for gap in of(mine, epsilon)) for epsilon in EPSILONS]
        counts = prepared.counts
        found.append(
            f"| {prepared.name} | {counts['classes']}, {counts['train']:,} | {mine[0].reference:.3f} | "
            + " | ".join(cells)
            + " |"
        )
    return found


def seconds(pairs: int, epsilons: Sequence[float]) -> dict[str, dict[str, float]]:
    """Seconds of a run of questions by the recipe and by a job file without settings, in turns.

    A first run computes features; one `again` finds them. The least of all turns, in one process with one
    worker; beside it the processor's seconds, which other work on the machine changes less.
    """
    from umbel.job import Job
    from umbel.simulations.engine import Options, simulate
    from umbel.simulations.first import first_job

    kept = os.environ["UMBEL_CACHE"]
    taken: dict[str, dict[str, float]] = {}
    given = {"model.base": MODEL, "simulation.clients": 8, "data.path": str(DATA / "questions.csv")}
    makes = {"job file": lambda given: Job.compose(None, given), "recipe": first_job}
    for epsilon in epsilons:
        privacy = "no privacy" if math.isinf(epsilon) else f"epsilon {epsilon:g}"
        further = {"privacy.unit": "none"} if math.isinf(epsilon) else {"privacy.epsilon": epsilon}
        for _ in range(pairs):
            for name, make in makes.items():
                with tempfile.TemporaryDirectory(prefix="umbel-first-") as folder:
                    os.environ["UMBEL_CACHE"] = f"{folder}/cache"
                    for which in ("first", "again"):
                        wall, processor = time.monotonic(), time.process_time()
                        simulate(make(given | further), Options(Path(folder) / which, workers=1))
                        took = {
                            name: time.monotonic() - wall,
                            f"{name}, processor": time.process_time() - processor,
                        }
                        found = taken.setdefault(f"{privacy}, {which}", {})
                        found |= {
                            key: min(one, found.get(key, math.inf)) for key, one in took.items()
                        }
    os.environ["UMBEL_CACHE"] = kept
    for found in taken.values():
        found["ratio"] = found["recipe"] / found["job file"]
        found["ratio, processor"] = found["recipe, processor"] / found["job file, processor"]
    return taken


def missed(gaps: Sequence[Gap], taken: dict[str, dict[str, float]]) -> list[str]:
    """The bars that were missed, in words."""
    found = []
    for epsilon in dict.fromkeys(gap.epsilon for gap in gaps):
        mean = statistics.mean(by_seed(gaps, epsilon))
        if mean > MEAN_BARS[epsilon]:
            found.append(
                f"epsilon {epsilon:g}: {mean:.2f} points in the mean, above {MEAN_BARS[epsilon]}"
            )
        found += [
            f"epsilon {epsilon:g}, {name}: {points:.2f} points, above {SET_BARS[epsilon]}"
            for name, points in by_set(gaps, epsilon).items()
            if points > SET_BARS[epsilon]
        ]
    ratio = taken.get("epsilon 8, first", {}).get("ratio", 0.0)
    if ratio > SLOWER:
        found.append(f"seconds: a first run takes {ratio:.2f} times as long, above {SLOWER}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="*", help=f"of {', '.join(SETS)} [all]")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--epsilon", type=float, choices=EPSILONS, help="8, or inf: without privacy [both]"
    )
    parser.add_argument(
        "--validation", action="store_true", help="test on a part of the training side"
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep figures and go on there")
    parser.add_argument("--only-kept", action="store_true", help="show what is kept, run nothing")
    parser.add_argument(
        "--seconds", nargs="?", type=int, const=2, default=0, metavar="PAIRS",
        help="time runs by the recipe and by a job file, in turns, and nothing else",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    parser.add_argument("--smoke", action="store_true", help="few records, one round, no bars")
    options = parser.parse_args()
    if unknown := set(options.sets) - set(SETS):
        parser.error(f"{', '.join(sorted(unknown))}: the sets are {', '.join(SETS)}")
    if options.only_kept and not options.keep:
        parser.error("--only-kept needs --keep FOLDER")
    epsilons = EPSILONS if options.epsilon is None else (options.epsilon,)
    with tempfile.TemporaryDirectory(prefix="umbel-first-") as passing:
        folder = options.keep or Path(passing)
        folder.mkdir(parents=True, exist_ok=True)
        cache = str(folder.resolve() / "cache")
        if options.keep:
            os.environ["UMBEL_CACHE"] = cache
        os.environ.setdefault("UMBEL_CACHE", cache)
        if options.seconds:
            sets, gaps, taken = [], [], seconds(options.seconds, epsilons)
        else:
            sets, taken = prepared(options, folder), {}
            gaps = measure(
                sets,
                1 if options.smoke else options.seeds,
                epsilons,
                smoke=options.smoke,
                only_kept=options.only_kept,
            )
    bars = [] if options.smoke else missed(gaps, taken)
    if options.json:
        lines = [gap.to_dict() for gap in gaps]
        print(
            json.dumps(
                {"gaps": lines, "mean": means(gaps), "seconds": taken, "missed": bars}, indent=2
            )
        )
    else:
        print(*report(gaps, sets, taken), *bars, sep="\n")
    if options.check and bars:
        sys.exit(1)


def prepared(options: argparse.Namespace, folder: Path) -> list[Prepared]:
    few = 240 if options.smoke else None
    settings = {"training.rounds": 1, "training.local_steps": 1} if options.smoke else {}
    names = options.sets or (["questions"] if options.smoke else list(SETS))
    return [
        Prepared(name, folder, few, validation=options.validation, settings=settings)
        for name in names
    ]


if __name__ == "__main__":
    main()
