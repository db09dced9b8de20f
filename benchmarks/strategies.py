"""The scoreboard of strategies: each on the same data, seeds, steps and privacy, and what each costs."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from kept import Kept
from strategies_model import STATES
from strategies_report import PAGE, draw, put, report
from strategies_runs import CLEAR, SETS, Case, Entry, Figure, Scores
from strategies_tuned import FEW, MIXED, RANKED_TUNING, TUNING, private, ranks

RESULTS = Path(__file__).resolve().parent / "results" / "strategies.json"
EPSILONS = (math.inf, 4.0)
ATTACKERS = {"strategy.options.attackers": 0.1}


def lora(name: str, own: dict[str, Any] | None = None, *, noised: float = 1.0) -> Entry:
    return Entry(name, "lora", own or {}, rate=0.3, noised=noised)


def head(name: str, own: dict[str, Any] | None = None, *, noised: float = 1.0) -> Entry:
    return Entry(name, "head", own or {}, rate=4.0, noised=noised)


BOARD = (
    *(head(name) for name in ("fedavg", "fedprox", "scaffold", "feddyn")),
    head("fedavgm", noised=0.3),
    *(head(name, {"strategy.options.learning_rate": 0.1}) for name in ("fedadam", "fedyogi")),
    head("fedadagrad", {"strategy.options.learning_rate": 0.5}),
    *(head(name) for name in ("q-fedavg", "afl")),
    head("fedbuff", {"strategy.options.buffer": 4}),
    head("ditto"),
    *(
        head(name, CLEAR | ATTACKERS)
        for name in ("median", "trimmed-mean", "geometric-median", "krum", "multi-krum", "bulyan")
    ),
    *(head(name, CLEAR | ATTACKERS) for name in ("centred-clipping", "norm-bound")),
    *(lora(name) for name in ("fedavg", "ffa-lora", "rolora", "la-lora")),
    lora("fed-sb", {"model.lora.rank": 32}),
    *(lora(name) for name in ("flexlora", "lora-fair", "flora", "fedex-lora", "hetlora")),
    *(lora(name) for name in ("fedsa-lora", "local-head", "fedrep")),
)


def of_board(adapter: str, *names: str) -> tuple[Entry, ...]:
    return tuple(entry for entry in BOARD if entry.adapter == adapter and entry.name in names)


SKEWED = tuple(Entry(name, "head", whole=True) for name in ("fedavg", "scaffold", "feddyn"))
MOST_BELOW = 0.5
"""Points by which mixed ranks may lie below the largest at all owners."""
LEAST_GAIN = 1.0
"""Points by which the best of the others must beat plain averaging of both factors, privately."""

ABOUT = f"""\
Eight clients, encrypted if the rule needs only sums, else in the clear; equal weights. Strategies for
any model train a linear head (10 rounds of 8 steps of 64), those for LoRA the feed-forward part of MiniLM's
last layer and a head (6 rounds of 3 steps of 32), both on {STATES} states of each text before that layer:
compare within an adapter.

  board    every strategy on {" and ".join(SETS)}, Dirichlet 0.1 and 0.5, without privacy and at epsilon 4
  private  LoRA at epsilon 1 and 2 on reviews: the factor rules beside plain averaging (FedIT)
  skewed   rounds until 95 % of the best accuracy of a set, Dirichlet 0.1: SCAFFOLD and FedDyn beside FedAvg
  ranks    FlexLoRA on questions, Dirichlet 0.1, without privacy: ranks 4, 8, and 16 beside 4 or 16 at all

In "private" each rule has at each epsilon the best of equally many learning rates, chosen on seeds that no
result has ({", ".join(map(str, TUNING.values()))}); so has each choice of ranks in "ranks" ({RANKED_TUNING}).

Figures are kept in --results and not measured again: the same command goes on after a stop.

Bars: private, the best factor rule at least {LEAST_GAIN} point above FedIT at both; skewed, SCAFFOLD and
FedDyn in fewer rounds than FedAvg, in the mean over sets and seeds; ranks, mixed ones above 4 at all and at
most {MOST_BELOW} points below 16 at all.
"""


def board(scores: Scores, entries: Sequence[Entry], sets: Sequence[str]) -> list[dict[str, Any]]:
    """One row per strategy, set and way to deal."""
    rows = []
    for data in sets:
        for partition in scores.partitions:
            for epsilon in EPSILONS:
                case = Case(data, partition, epsilon)
                found = [(entry, scores.of(entry, case)) for entry in entries]
                for adapter in ("head", "lora"):
                    mine = [(e, f) for e, f in found if f and e.adapter == adapter]
                    best = max((f.accuracy for _, f in mine), default=0.0)
                    rows += [row(entry, case, one, best) for entry, one in mine]
    return rows


def row(entry: Entry, case: Case, found: Figure, best: float) -> dict[str, Any]:
    return {
        "strategy": entry.name,
        "adapter": entry.adapter,
        "set": case.data,
        "partition": case.partition,
        "epsilon": None if math.isinf(case.epsilon) else case.epsilon,
        "accuracy": found.accuracy,
        "worst": found.worst,
        "rounds": reached(found.curve, 0.95 * best) if math.isinf(case.epsilon) else None,
        "bytes_up": found.bytes_up,
        "bytes_down": found.bytes_down,
        "seconds": found.seconds,
        "keeps": found.keeps,
    }


def reached(curve: Sequence[float], goal: float) -> int | None:
    """The first round with at least this accuracy; None if there is none, or none was tested."""
    return next((round_ for round_, one in enumerate(curve, 1) if one >= goal), None)


def skewed(scores: Scores, seeds: int) -> list[dict[str, Any]]:
    """Rounds to 95 % of the best, over sets and seeds; one that never comes there needs one more than all."""
    needed: dict[str, list[int]] = {entry.name: [] for entry in SKEWED}
    for data in SETS:
        for seed in range(seeds):
            case = Case(data, "dirichlet:0.1", math.inf, seed)
            found = {entry.name: scores.of(entry, case) for entry in SKEWED}
            curves = {name: one.curve for name, one in found.items() if one}
            if len(curves) < len(found):
                continue
            best = max(max(curve) for curve in curves.values())
            for name, curve in curves.items():
                needed[name].append(reached(curve, 0.95 * best) or len(curve) + 1)
    return [
        {"strategy": name, "rounds": statistics.mean(each), "each": each}
        for name, each in needed.items()
        if each
    ]


def missed(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The bars that were missed, in words."""
    bars = []
    for epsilon in (1.0, 2.0):
        rows = [r for r in found.get("private", []) if r["epsilon"] == epsilon]
        best = max((r["points"] for r in rows if r["strategy"] != "fedavg"), default=math.inf)
        if best < LEAST_GAIN:
            bars.append(f"private, epsilon {epsilon:g}: {best:+.2f} points, below {LEAST_GAIN}")
    rounds = {r["strategy"]: r["rounds"] for r in found.get("skewed", [])}
    bars += [
        f"skewed: {name} needs {rounds[name]:.1f} rounds, fedavg {rounds['fedavg']:.1f}"
        for name in ("scaffold", "feddyn")
        if name in rounds and rounds[name] >= rounds["fedavg"]
    ]
    above = {r["ranks"]: r["points"] for r in found.get("ranks", [])}
    if {FEW, MIXED} <= above.keys() and not above[FEW] < above[MIXED] >= -MOST_BELOW:
        bars.append(
            f"ranks: points above 16 at all: mixed {above[MIXED]:+.2f}, 4 {above[FEW]:+.2f}"
        )
    return bars


def main() -> None:
    parser = argparse.ArgumentParser(
        description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = {"board": None, "private": private, "skewed": skewed, "ranks": ranks}
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(parts)} [all]")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="strategies of the board [all]"
    )
    parser.add_argument("--adapter", choices=("head", "lora"), help="of the board [both]")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="of the board")
    parser.add_argument("--seeds", type=int, default=5, help="of all parts but the board [5]")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="FILE", help="keep figures there"
    )
    parser.add_argument("--only-kept", action="store_true", help="show what is kept, run nothing")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the board into this PNG file"
    )
    parser.add_argument("--page", action="store_true", help=f"renew the tables of docs/{PAGE.name}")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    parser.add_argument("--smoke", action="store_true", help="two strategies, one round, no bars")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(parts):
        parser.error(f"{', '.join(sorted(unknown))}: the parts are {', '.join(parts)}")
    entries = [
        entry
        for entry in BOARD
        if (not given.only or entry.name in given.only) and given.adapter in (None, entry.adapter)
    ]
    chosen, sets, seeds = given.parts or list(parts), given.sets, given.seeds
    if given.smoke:
        few = ("fedavg", "ffa-lora")
        chosen, sets = ["board"], ["questions"]
        entries = [e for e in BOARD if e.adapter == "lora" and e.name in few]
    kept = Kept(None if given.smoke else given.results)
    scores = Scores(kept, smoke=given.smoke, only_kept=given.only_kept)
    found: dict[str, list[dict[str, Any]]] = {}
    for part, measured in parts.items():
        if part in chosen:
            found[part] = measured(scores, seeds) if measured else board(scores, entries, sets)
    bars = [] if given.smoke else missed(found)
    if given.plot and found.get("board"):
        draw(found["board"], given.plot)
    if given.page:
        put(PAGE, found)
    if given.json:
        print(json.dumps({**found, "missed": bars}, indent=2))
    else:
        print(*report(found), *(f"MISSED: {bar}" for bar in bars), sep="\n")
    if given.check and bars:
        sys.exit(1)


if __name__ == "__main__":
    main()
