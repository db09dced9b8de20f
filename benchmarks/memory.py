"""Peak memory of a simulation with a thousand virtual clients, beside one with ten."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from engine import write_tiny_model

from umbel.errors import UmbelError
from umbel.job import Job
from umbel.simulations.engine import Options, simulate

BAR = 1.2
SMOKE = {"few": 2, "many": 4, "rows": 160, "rounds": 1, "check": False}
DATA = Path(__file__).resolve().parent.parent / "examples" / "data" / "reviews.csv"
ABOUT = f"""\
Peak resident memory (ru_maxrss) of one simulation in one process, for few and for many virtual
clients that share the same {{}} reviews: example-level privacy as by default, a linear head on a
transformer of 2 layers (a large model would hide what clients cost), a ledger for each client, one
worker. Each simulation has a process of its own.

A virtual client should cost next to nothing: all share one model and the pages of one file of
tokens, updates are added up as they arrive, and what is left is a few kilobytes each.

Bar: many at most {BAR} x few.
"""


def simulate_here(clients: int, rows: int, rounds: int, model: Path) -> dict[str, Any]:
    """Run the simulation in this process; its peak memory so far, in MB."""
    job = Job.build(
        {
            "name": f"memory-{clients}",
            "model": {"base": str(model), "adapter": "head"},
            "data": {"path": str(DATA), "limit": rows},
            "training": {
                "rounds": rounds,
                "local_steps": 2,
                "batch_size": 8,
                "optimizer": "sgd",
                "learning_rate": 0.5,
                "device": "cpu",
            },
            # A thousand members would spend their time checking each other's signatures.
            "encryption": {"mode": "none"},
            "simulation": {"clients": clients, "encryption_required": False},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        run = simulate(job, Options(Path(folder) / "run", workers=1))
        digest = run.read_json("result.json")["adapter_sha256"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS.
    megabytes = peak / (2**20 if sys.platform == "darwin" else 2**10)
    return {"clients": clients, "peak_mb": megabytes, "adapter_sha256": digest}


def simulate_apart(clients: int, rows: int, rounds: int, model: Path) -> dict[str, Any]:
    """The same in a new process."""
    numbers = [str(number) for number in (clients, rows, rounds)]
    command = [sys.executable, __file__, "--alone", *numbers, str(model)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr.strip() or f"The simulation of {clients} clients died.")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(
        description=ABOUT.format("--rows"), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--few", type=int, default=10, help="clients (default: 10)")
    parser.add_argument("--many", type=int, default=1000, help="clients (default: 1000)")
    parser.add_argument("--rows", type=int, default=19000, help="reviews (default: 19000)")
    parser.add_argument("--rounds", type=int, default=2, help="rounds (default: 2)")
    parser.add_argument(
        "--smoke", action="store_true", help="a little of each, no bars: does it run?"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--check", action="store_true", help=f"exit with 1 if the ratio is above {BAR}"
    )
    parser.add_argument("--alone", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.smoke:
        vars(arguments).update(SMOKE)
    if not DATA.exists():
        sys.exit(f"{DATA} is missing; write it with: python examples/fetch.py")
    if arguments.alone:
        *numbers, model = arguments.alone
        try:
            print(json.dumps(simulate_here(*map(int, numbers), Path(model))))
        except UmbelError as error:
            sys.exit(str(error))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        write_tiny_model(Path(folder))
        few, many = (
            simulate_apart(clients, arguments.rows, arguments.rounds, Path(folder))
            for clients in (arguments.few, arguments.many)
        )
    ratio = many["peak_mb"] / few["peak_mb"]
    if arguments.json:
        print(json.dumps({"few": few, "many": many, "ratio": ratio, "bar": BAR}))
    else:
        for figures in (few, many):
            print(f"{figures['clients']:>6} clients: {figures['peak_mb']:8.1f} MB at the peak")
        print(f"ratio {ratio:.3f}, bar {BAR}")
    return int(arguments.check and ratio > BAR)


if __name__ == "__main__":
    sys.exit(main())
