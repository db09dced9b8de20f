"""What a round costs the engine with each strategy, beside FedAvg's on the same job."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from engine import DATA, write_tiny_model
from kept import Kept
from strategies_report import PAGE, markdown, replace_table
from strategies_runs import CLEAR

from umbel.errors import UmbelError
from umbel.job import Job
from umbel.run.events import Event, Round
from umbel.server.run import Silent
from umbel.simulations.engine import Options, simulate
from umbel.strategies import NAMES
from umbel.strategies.catalogue import ours

RESULTS = Path(__file__).resolve().parent / "results" / "rounds.json"
CLIENTS = 8
MOST, MOST_OF_TWO_SUMS = 1.3, 2.2
COMPARED = {"strategy.options.attackers": 0.1}
OWN: dict[str, dict[str, Any]] = {
    "fedbuff": {"strategy.options.buffer": CLIENTS},
    "fedrep": {"strategy.options.head_steps": 1},
}
"""What a strategy needs beside the common settings."""
MORE = {"ditto": "two models"}
"""Strategies whose owners train more than FedAvg's, and what."""
SMOKE = ("fedavg", "hetlora", "flexlora")
ABOUT = f"""\
Processor time of a round in `umbel simulate`, in this process, with one worker: {CLIENTS} clients, nothing
tested, no privacy, on a random transformer of 2 layers, 128 wide. A strategy for any model trains a linear
head on its features (774 numbers, 2 steps of 32), one for LoRA an adapter (rank 4) and the head (2 steps of
8): training so light that it hides nothing of what a strategy adds. FedAvg takes turns with it, run by run;
each run's first round does not count, of its others the median does, and of the ratios of the pairs the
median. Once in the clear and once encrypted; rules that compare updates in the clear alone.

Bars: {MOST} x FedAvg, and {MOST_OF_TWO_SUMS} x for a rule of two sums; none for one whose owners train more:
{", ".join(f"{name} ({what})" for name, what in MORE.items())}.
"""


@dataclass
class Spent(Silent):
    """Processor and wall time of each round, seconds."""

    processor: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._last = time.process_time(), time.perf_counter()

    def event(self, event: Event) -> None:
        if isinstance(event, Round):
            now = time.process_time(), time.perf_counter()
            self.processor.append(now[0] - self._last[0])
            self.wall.append(now[1] - self._last[1])
            self._last = now


def adapter_of(name: str) -> str:
    return "head" if "head" in ours(name).fits else "lora"


def job_of(name: str, adapter: str, encrypted: bool, rounds: int, tiny: Path) -> Job:
    light = adapter == "head"
    values: dict[str, Any] = {
        "name": name,
        "model.base": str(tiny),
        "model.adapter": adapter,
        "data.path": str(DATA),
        "data.test_fraction": 0.0,
        "data.limit": 100 * CLIENTS,
        "training.rounds": rounds,
        "training.local_steps": 2,
        "training.batch_size": 32 if light else 8,
        "training.microbatch": 32 if light else 8,
        "training.optimizer": "sgd",
        "training.learning_rate": 0.1,
        "training.device": "cpu",
        "privacy.unit": "none",
        "strategy.name": name,
        "strategy.weighting": "equal",
        "simulation.clients": CLIENTS,
        **({} if encrypted else CLEAR),
        **(COMPARED if ours(name).sees != "SUM" else {}),
        **OWN.get(name, {}),
    }
    if not light:
        values |= {"model.lora.rank": 4, "model.lora.alpha": 8.0}
    return Job.compose(None, values)


def round_of(job: Job) -> tuple[float, float]:
    """Processor and wall time of the median round after the first, seconds."""
    spent = Spent()
    with tempfile.TemporaryDirectory(prefix="umbel-rounds-") as place:
        simulate(job, Options(Path(place) / "run", workers=1, reproducible=True), spent)
    return statistics.median(spent.processor[1:]), statistics.median(spent.wall[1:])


def bar_of(name: str) -> float | None:
    if name in MORE:
        return None
    return MOST_OF_TWO_SUMS if two_sums(name) else MOST


def two_sums(name: str) -> bool:
    kind = ours(name)
    return bool(kind().second({"w.lora_A": (1, 2), "w.lora_B": (2, 1)}))


def measured(name: str, encrypted: bool, rounds: int, pairs: int, tiny: Path) -> dict[str, Any]:
    """A strategy's row: its round's time over FedAvg's."""
    adapter = adapter_of(name)
    names = {"own": name, "fedavg": "fedavg"}
    jobs = {who: job_of(one, adapter, encrypted, rounds, tiny) for who, one in names.items()}
    each = [{who: round_of(job) for who, job in jobs.items()} for _ in range(pairs)]
    ratios = sorted(pair["own"][0] / pair["fedavg"][0] for pair in each)
    return {
        "strategy": name,
        "adapter": adapter,
        "encrypted": encrypted,
        "ratio": statistics.median(ratios),
        "least": ratios[0],
        "most": ratios[-1],
        "wall_ratio": statistics.median(pair["own"][1] / pair["fedavg"][1] for pair in each),
        "seconds": statistics.median(pair["own"][0] for pair in each),
        "fedavg_seconds": statistics.median(pair["fedavg"][0] for pair in each),
        "bar": bar_of(name),
    }


def table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| strategy | trains | sums | round, s | x FedAvg (least to most of pairs) | in wall time | bar |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        bar = f"<= {row['bar']}" if row["bar"] else f"none: {MORE[row['strategy']]}"
        lines.append(
            f"| `{row['strategy']}` | {row['adapter']} | {'encrypted' if row['encrypted'] else 'clear'} "
            f"| {row['seconds']:.3f} | {row['ratio']:.2f} ({row['least']:.2f} to {row['most']:.2f}) "
            f"| {row['wall_ratio']:.2f} | {bar} |"
        )
    return lines


def page_table(rows: list[dict[str, Any]]) -> list[str]:
    """A line per strategy: the factor encrypted and in the clear, each with the pairs' least and most."""
    found = {(row["strategy"], row["encrypted"]): row for row in rows}

    def cell(name: str, encrypted: bool) -> str:
        if encrypted and ours(name).sees != "SUM":
            return ""
        row = found.get((name, encrypted))
        return f"{row['ratio']:.2f} ({row['least']:.2f} to {row['most']:.2f})" if row else "-"

    names = dict.fromkeys(row["strategy"] for row in rows)
    lines = [
        [f"`{name}`", "2" if two_sums(name) else "1", cell(name, True), cell(name, False)]
        for name in names
    ]
    return markdown(["strategy", "sums", "encrypted", "in the clear"], lines)


def missed(rows: list[dict[str, Any]]) -> list[str]:
    """Strategies above their bars, in words."""
    return [
        f"{row['strategy']} ({'encrypted' if row['encrypted'] else 'clear'}): {row['ratio']:.2f} x FedAvg, "
        f"bar {row['bar']}"
        for row in rows
        if row["bar"] and row["ratio"] > row["bar"]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help="strategies [all]")
    parser.add_argument("--sums", choices=("clear", "encrypted"), help="[both]")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each, and of FedAvg [3]")
    parser.add_argument("--rounds", type=int, default=4, help="of a run, 2 or more [4]")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="FILE", help="keep figures there"
    )
    parser.add_argument("--only-kept", action="store_true", help="show what is kept, run nothing")
    parser.add_argument("--page", action="store_true", help=f"renew the table in docs/{PAGE.name}")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    parser.add_argument("--smoke", action="store_true", help="three strategies, one pair, no bars")
    given = parser.parse_args()
    if not DATA.exists():
        sys.exit(f"{DATA} is missing; write it with: python examples/fetch.py")
    names = given.only or [name for name in NAMES if name != "fedavg"]
    pairs, rounds = given.pairs, given.rounds
    if given.smoke:
        names, pairs, rounds = SMOKE, 1, 2
    kept = Kept(None if given.smoke else given.results)
    rows = []
    with tempfile.TemporaryDirectory(prefix="umbel-tiny-") as tiny:
        write_tiny_model(Path(tiny))
        for name in names:
            for encrypted in (False, True):
                if given.sums and encrypted != (given.sums == "encrypted"):
                    continue
                if encrypted and ours(name).sees != "SUM":
                    continue
                said = {"strategy": name, "encrypted": encrypted, "rounds": rounds, "pairs": pairs}
                if given.only_kept and not kept.has(said):
                    continue
                asked = (name, encrypted, rounds, pairs, Path(tiny))
                try:
                    rows.append(kept.figures(said, lambda asked=asked: measured(*asked)))
                except UmbelError as error:
                    sys.exit(f"{name}: {error}")
                print(table(rows[-1:])[-1], file=sys.stderr, flush=True)
    if given.page:
        replace_table(PAGE, "rounds", page_table(rows))
    bars = [] if given.smoke else missed(rows)
    if given.json:
        print(json.dumps({"rows": rows, "missed": bars}, indent=2))
    else:
        print(*table(rows), *(f"MISSED: {bar}" for bar in bars), sep="\n")
    if given.check and bars:
        sys.exit(1)


if __name__ == "__main__":
    main()
