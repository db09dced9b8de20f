"""The runs of strategies.py: a strategy on one set, dealt in one way, with one epsilon and one seed."""

from __future__ import annotations

import math
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kept import Figures, Kept
from strategies_model import DATA, MODEL, STATES, last_layer

SETS: dict[str, dict[str, Any]] = {
    "questions": {"data.path": "questions.csv", "data.test_path": "questions-test.csv"},
    "reviews": {"data.path": "reviews.csv", "data.group_column": "document", "data.limit": 6000},
}
COMMON: dict[str, Any] = {"training.optimizer": "sgd", "training.learning_rate": 1.0}
WHOLE: dict[str, Any] = {
    "model.base": MODEL,
    "model.adapter": "head",
    "training.rounds": 20,
    "training.local_steps": 8,
    "training.batch_size": 64,
}
"""A head on the whole of a text, for many rounds."""
HEAD: dict[str, Any] = {
    "model.adapter": "head",
    "model.max_length": STATES,
    "training.rounds": 10,
    "training.local_steps": 8,
    "training.batch_size": 64,
}
LORA: dict[str, Any] = {
    "model.adapter": "lora",
    "model.max_length": STATES,
    "model.feature_scale": 16.0,
    "model.lora.rank": 4,
    "model.lora.alpha": 8.0,
    "model.lora.target": ["layer.0.intermediate.dense", "layer.0.output.dense"],
    "training.rounds": 6,
    "training.local_steps": 3,
    "training.batch_size": 32,
    "training.microbatch": 32,
    "training.schedule": "linear",
}
SMOKE_ROWS = 240
PARTITIONS = ("dirichlet:0.1", "dirichlet:0.5")
CLEAR: dict[str, Any] = {"encryption.mode": "none", "simulation.encryption_required": False}


@dataclass(frozen=True)
class Entry:
    """A strategy as it takes part: its adapter, and what it needs beside the common settings."""

    name: str
    adapter: str
    own: dict[str, Any] = field(default_factory=dict)
    rate: float = 1.0
    """Its learning rate in those of the common settings, the best of a few on another seed."""
    noised: float = 1.0
    """The same at an epsilon, where gradients are clipped."""
    whole: bool = False
    """Whether it trains on whole texts."""

    def rate_of(self, case: Case) -> float:
        return self.rate if math.isinf(case.epsilon) else self.noised


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
    worst: float | None
    """Accuracy of the client with the least, on its part of the held-out records; noised at an epsilon."""
    curve: list[float]
    """Accuracy after each round that was tested."""
    bytes_up: int
    bytes_down: int
    """Of a client in a round, the mean over rounds."""
    seconds: float
    """Of one processor in a round, of all clients and the server; with tests, and a share of the start."""
    keeps: int
    """Bytes that an owner keeps from round to round."""


def files(entry: Entry, case: Case, smoke: bool) -> dict[str, Any]:
    """The settings of a job that say what is where on this machine."""
    names = {key: name for key, name in SETS[case.data].items() if key.endswith("path")}
    if entry.whole:
        return {key: str(DATA / name) for key, name in names.items()} | {"model.base": MODEL}
    return last_layer(names, few=SMOKE_ROWS if smoke else None)


def settings(entry: Entry, case: Case, smoke: bool) -> dict[str, Any]:
    """The job of a run, but for where files lie."""
    kinds = {"head": WHOLE if entry.whole else HEAD, "lora": LORA}
    found: dict[str, Any] = {
        **COMMON,
        **kinds[entry.adapter],
        **{key: value for key, value in SETS[case.data].items() if not key.endswith("path")},
        "seed": case.seed,
        "strategy.name": entry.name,
        "strategy.weighting": "equal",
        "training.learning_rate": COMMON["training.learning_rate"] * entry.rate_of(case),
        "simulation.partition": case.partition,
        "simulation.clients": 8,
        **entry.own,
    }
    if math.isinf(case.epsilon):
        found |= {"privacy.unit": "none", "evaluation.every": 1}
    else:  # each test would cost a part of epsilon
        found |= {"privacy.epsilon": case.epsilon, "evaluation.every": 0}
    if not entry.whole:
        found.pop("data.limit", None)  # a choice has been made (``last_layer``)
    if smoke:
        found |= {"training.rounds": 1, "training.local_steps": 1, "data.limit": SMOKE_ROWS}
    return found


def figure(entry: Entry, case: Case, kept: Kept, *, smoke: bool, only_kept: bool) -> Figure | None:
    said = settings(entry, case, smoke) | {"set": case.data}
    if only_kept and not kept.has(said):
        return None
    return Figure(**kept.figures(said, lambda: _run(entry, case, smoke)))


def _run(entry: Entry, case: Case, smoke: bool) -> Figures:
    from umbel.job import Job
    from umbel.run.events import Evaluation
    from umbel.simulations.engine import Options, simulate

    values = settings(entry, case, smoke) | files(entry, case, smoke)
    job = Job.compose(None, values)
    begun = time.process_time()
    with tempfile.TemporaryDirectory(prefix="umbel-strategies-") as place:
        run = simulate(job, Options(Path(place) / "run", workers=1, reproducible=True))
        result, plan = run.read_json("result.json"), run.read_json("plan.json")
        tests = [event for event in run.told(Evaluation) if event.round]
    each = [one["accuracy"] for one in result["client_metrics"].values() if one]
    each = [accuracy for accuracy in each if accuracy is not None]
    found = Figure(
        # Without the noise of private tests: what is compared is the model.
        accuracy=(result["exact"] or result)["metrics"]["accuracy"],
        worst=min(each, default=None),
        curve=[event.figures["accuracy"] for event in tests],
        bytes_up=result["bytes"]["up_per_client_round"],
        bytes_down=result["bytes"]["down_per_client_round"],
        seconds=(time.process_time() - begun) / job.training.rounds,
        keeps=plan["owners_keep_bytes"],
    )
    return asdict(found)


class Scores:
    """Figures by entry and case, measured as they are asked for."""

    def __init__(self, kept: Kept, *, smoke: bool, only_kept: bool) -> None:
        self._kept = kept
        self._smoke, self._only_kept = smoke, only_kept
        self.partitions = PARTITIONS[: 1 if smoke else None]

    def of(self, entry: Entry, case: Case) -> Figure | None:
        """Measured, or as it is kept."""
        found = figure(entry, case, self._kept, smoke=self._smoke, only_kept=self._only_kept)
        if found:
            print(line(entry, case, found), file=sys.stderr, flush=True)
        return found


def line(entry: Entry, case: Case, found: Figure) -> str:
    return (
        f"{entry.name:17}{entry.adapter:5} {case.data:10} {case.partition:14} {case.privacy:11} seed "
        f"{case.seed}  {found.accuracy:.4f}  worst {found.worst or 0:.3f}  up {found.bytes_up:,}"
    )
