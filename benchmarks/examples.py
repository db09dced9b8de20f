"""Whether the examples reach what they promise: accuracy or perplexity, epsilon, and time."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@dataclass(frozen=True)
class Bar:
    """What one example has to reach; seconds are wall time on two CPU cores."""

    metric: str
    least: float | None
    most: float | None
    federated_seconds: float
    total_seconds: float
    epsilon: float | None = None


BARS = {
    "reviews": Bar("accuracy", 0.78, None, 120, 200, epsilon=4.0),
    "reviews-lora": Bar("accuracy", 0.84, None, 900, 900),
    "questions": Bar("accuracy", 0.93, None, 1200, 1200),
    "shakespeare": Bar("perplexity", None, 85.0, 900, 900),
    # A third less than before training.
    "plays": Bar("perplexity", None, 106.0, 900, 900),
}

ABOUT = """\
Runs examples/NAME.toml as a user would, each with an empty cache (nothing computed before counts),
and prints what it reached beside its bar. One runs for two minutes (reviews) to fifteen. Data and
models: python examples/fetch.py. Bars are for two CPU cores that do nothing else.
"""


SMOKE = ("data.limit=400", "training.rounds=1", "training.local_steps=1", "simulation.alone=false")


def run(name: str, smoke: bool = False) -> dict[str, Any]:
    """The result of one example, run from scratch in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="umbel-example-") as folder:
        environment = {**os.environ, "UMBEL_CACHE": f"{folder}/cache"}
        command = [sys.executable, "-m", "umbel.cli", "simulate", str(EXAMPLES / f"{name}.toml")]
        command += [f"--set={override}" for override in SMOKE if smoke]
        done = subprocess.run(
            [*command, "--run-dir", f"{folder}/run"],
            env=environment,
            stdout=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{name} failed with exit status {done.returncode}")
        return json.loads(Path(folder, "run", "result.json").read_text())


def _exact(result: dict[str, Any]) -> dict[str, Any]:
    """Figures without the noise of tests, which a simulation can read."""
    return result["exact"] or result


def judge(bar: Bar, result: dict[str, Any]) -> list[str]:
    """The bars that a result misses, in words."""
    value, seconds = _exact(result)["metrics"][bar.metric], result["seconds"]
    missed = []
    if bar.least is not None and value < bar.least:
        missed.append(f"{bar.metric} {value:.4f} is below {bar.least}")
    if bar.most is not None and value > bar.most:
        missed.append(f"{bar.metric} {value:.2f} is above {bar.most}")
    if seconds["federated"] > bar.federated_seconds:
        missed.append(f"{seconds['federated']:.0f} s of federation, above {bar.federated_seconds}")
    if seconds["total"] > bar.total_seconds:
        missed.append(f"{seconds['total']:.0f} s in all, above {bar.total_seconds}")
    if bar.epsilon is not None and not result["privacy"]["epsilon"] <= bar.epsilon:
        missed.append(f"epsilon {result['privacy']['epsilon']:.3f} is above {bar.epsilon}")
    return missed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BARS)} [reviews]")
    parser.add_argument(
        "--smoke", action="store_true", help="a little of each, no bars: does it run?"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(BARS))
    if unknown:
        parser.error(f"there is no example {unknown[0]!r}; there are {', '.join(BARS)}")
    failed = False
    for name in options.names or ["reviews"]:
        bar, result = BARS[name], run(name, options.smoke)
        missed = [] if options.smoke else judge(bar, result)
        failed = failed or bool(missed)
        figures = {
            "example": name,
            bar.metric: _exact(result)["metrics"][bar.metric],
            "before": _exact(result)["initial"].get(bar.metric),
            "pooled": (result["pooled"] or {}).get(bar.metric),
            "alone": {n: found[bar.metric] for n, found in result["local_only"].items()},
            "epsilon": result["privacy"]["epsilon"],
            "seconds": result["seconds"],
            "bar": asdict(bar),
            "missed": missed,
        }
        if options.json:
            print(json.dumps(figures), flush=True)
        else:
            _print(figures, bar)
    sys.exit(1 if options.check and failed else 0)


def _print(figures: dict[str, Any], bar: Bar) -> None:
    bound = f">= {bar.least}" if bar.least is not None else f"<= {bar.most}"
    print(f"{figures['example']}")
    print(f"  {bar.metric:<12} {figures[bar.metric]:.4f}  (bar {bound})")
    for key in ("before", "pooled", "epsilon"):
        if figures[key] is not None:
            print(f"  {key:<12} {figures[key]:.4f}")
    for name, value in figures["alone"].items():
        print(f"  {name + ' alone':<12} {value:.4f}")
    print(
        f"  seconds      {figures['seconds']['federated']:.0f} federated (bar "
        f"{bar.federated_seconds:.0f}), {figures['seconds']['total']:.0f} in all "
        f"(bar {bar.total_seconds:.0f})"
    )
    for text in figures["missed"]:
        print(f"  MISSED: {text}")


if __name__ == "__main__":
    main()
