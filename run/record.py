"""The typed reading of a run folder, finished or not.

Everything in this room starts with ``RunRecord.read(folder)``. A run may be read while it goes on,
after a crash, or when it is done; only ``plan.json`` must be there.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import RunFolderError
from ..job import DataSpec
from ..quantities import telling
from ..tasks.spec import MainMetric, known, spec_of, usual_task
from .events import (
    Ended,
    Evaluation,
    Holdout,
    Json,
    Kept,
    Partition,
    Round,
    Warned,
    number,
)
from .outcome import decision_line
from .reading import Failure, each_once, events_of, failures_of, read_job, read_object, read_text

_STAGES = {
    "prepare": "preparing",
    "rounds": "rounds",
    "evaluation": "tests",
    "compared": "comparison",
}


def main_metric(task: str) -> MainMetric:
    """The metric that headlines, curves and comparisons of `task` show."""
    try:
        return spec_of(task).main
    except KeyError:
        raise RunFolderError(
            f"Task {task!r} has no report (tasks with one: {', '.join(known())})"
        ) from None


@dataclass(frozen=True)
class RunRecord:
    """What a run folder says. Rounds and evaluations are in order, each once."""

    folder: Path
    job: Json
    job_text: str
    plan: Json
    result: Json | None
    partition: Partition | None
    rounds: list[Round]
    evaluations: list[Evaluation]
    holdouts: list[Holdout] = field(default_factory=list)
    """Tests on public records, by the server itself."""
    decisions: list[Ended | Kept] = field(default_factory=list)
    """Why training ended early, if it did, and which model was kept."""
    failures: list[Failure] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)
    """What the server warned of in the run."""

    @classmethod
    def read(cls, folder: str | Path) -> RunRecord:
        """Read `folder`; raises ``RunFolderError`` when no run was started there."""
        folder = Path(folder)
        if not (folder / "plan.json").is_file():
            if (folder / "job.toml").is_file():
                raise RunFolderError(
                    f"{folder} has no plan yet: not all clients were asked, or too few take part. "
                    f"See: umbel status {folder.name}"
                )
            what = "has no plan.json" if folder.is_dir() else "is a file"
            raise RunFolderError(
                f"{folder} is not a run folder: it {what if folder.exists() else 'does not exist'}. "
                "Give a folder that a run has written."
            )
        job_text = read_text(folder / "job.toml")
        result_path = folder / "result.json"
        plan = read_object(folder / "plan.json")
        events = list(events_of(folder / "metrics.jsonl"))
        rounds = [event for event in events if isinstance(event, Round)]
        last = {type(event): event for event in events if isinstance(event, Ended | Kept)}
        return cls(
            folder=folder,
            job=read_job(folder / "job.toml", job_text),
            job_text=job_text,
            plan=plan,
            result=read_object(result_path) if result_path.is_file() else None,
            partition=next((e for e in reversed(events) if isinstance(e, Partition)), None),
            rounds=each_once(rounds),
            evaluations=[
                replace(test, metrics=telling(test.metrics, _blur(plan)))
                for test in each_once(e for e in events if isinstance(e, Evaluation))
            ],
            holdouts=each_once(e for e in events if isinstance(e, Holdout)),
            decisions=[last[kind] for kind in (Ended, Kept) if kind in last],
            failures=failures_of(rounds),
            warned=[event.text for event in events if isinstance(event, Warned)],
        )

    @property
    def name(self) -> str:
        source = self.result or self.plan
        return str(source.get("name") or self.job.get("name") or self.folder.resolve().name)

    @property
    def task(self) -> str:
        source = self.result or self.plan
        return str(source.get("task") or self.job.get("task") or usual_task(labelled=True).name)

    @property
    def metric(self) -> MainMetric:
        return main_metric(self.task)

    @property
    def finished(self) -> bool:
        return self.result is not None

    @property
    def planned_rounds(self) -> int:
        planned = (self.result or {}).get("rounds") or self.plan.get("rounds")
        return int(planned or len(self.rounds))

    @property
    def client_names(self) -> list[str]:
        """Every client, in the plan's order."""
        names = [str(client["name"]) for client in self.plan.get("clients", [])]
        return names or list(self.partition.clients if self.partition else [])

    @property
    def labels(self) -> list[str]:
        named = (self.result or {}).get("labels")
        return list(named or (self.partition.labels if self.partition else []))

    @property
    def exact(self) -> bool:
        """Whether figures are without the noise that a deployment's server sees them with.

        A simulation reads them from the owners' logs on its machine.
        """
        if self.result:
            return bool(self.result.get("exact"))
        return any(test.exact for test in self.evaluations)

    @property
    def noised(self) -> bool:
        """Whether the figures are those of the owners' noised counts: a deployment's."""
        counts = (_section(self.plan, "evaluation") or {}).get("counts")
        return counts == "private" and not self.exact

    @property
    def seen(self) -> Json:
        """``final`` as a deployment's server sees it."""
        if self.result:
            return telling(self.result.get("metrics"), self.blur)
        return self.evaluations[-1].metrics if self.evaluations else {}

    @property
    def blur(self) -> float | None:
        """Standard deviation that noise gives the main figure of a test, by the plan."""
        return _blur(self.plan)

    @property
    def final(self) -> Json:
        """Metrics of the federated model on everybody's held-out examples, as of the last test."""
        if self.exact and self.result:
            return dict(self.result["exact"]["metrics"])
        if self.result and self.result.get("metrics"):
            return telling(self.result["metrics"], self.blur)
        return self.evaluations[-1].figures if self.evaluations else {}

    @property
    def before(self) -> Json:
        """The same metrics before training."""
        if self.exact and self.result:
            return dict(self.result["exact"]["initial"])
        if self.result and self.result.get("initial"):
            return telling(self.result["initial"], self.blur)
        first = self.evaluations[0] if self.evaluations else None
        return first.figures if first and first.round == 0 else {}

    @property
    def client_final(self) -> dict[str, Json]:
        """Metrics of the federated model on each client's own held-out examples."""
        if self.result and self.result.get("client_metrics"):
            return dict(self.result["client_metrics"])
        return self.evaluations[-1].clients if self.evaluations else {}

    @property
    def client_before(self) -> dict[str, Json]:
        if self.result and self.result.get("client_initial"):
            return dict(self.result["client_initial"])
        first = self.evaluations[0] if self.evaluations else None
        return first.clients if first and first.round == 0 else {}

    @property
    def public_final(self) -> Json:
        """Metrics of the model on the public hold-out: of the one that was kept, or of the latest."""
        measured = _section(_section(self.result, "public"), "metrics")
        return measured or (self.holdouts[-1].metrics if self.holdouts else {})

    @property
    def public_before(self) -> Json:
        first = self.holdouts[0] if self.holdouts else None
        return first.metrics if first and first.round == 0 else {}

    @property
    def decided(self) -> list[str]:
        """Sentences on what was decided on figures; none if the job asked for no decision."""
        return [decision_line(event) for event in self.decisions]

    @property
    def kept_round(self) -> int | None:
        """The round whose model is the result; None while that is not known."""
        value = number(_section(self.result, "kept"), "round")
        return None if value is None else int(value)

    @property
    def local_only(self) -> dict[str, Json]:
        """Models that each client trained alone: metrics on everybody's examples, and "own"."""
        return dict((self.result or {}).get("local_only") or {})

    @property
    def own_models(self) -> Json:
        """Of a strategy that leaves each owner a model of its own: figures of these ("own") and of the shared
        one ("shared"), of all together and by client; empty with most strategies, and between machines."""
        return _section(self.result, "own")

    @property
    def pooled(self) -> Json:
        """Metrics of the yardstick: one model on all data in one place, without privacy."""
        return dict((self.result or {}).get("pooled") or {})

    @property
    def _asked(self) -> Json:
        """The privacy section of the job, or the plan's copy of it."""
        return _section(self.job, "privacy") or _section(self.plan, "privacy")

    @property
    def unit(self) -> str:
        """What was to be protected: "example", "group", "client" or "none"."""
        unit = _section(self.result, "privacy").get("unit") or self._asked.get("unit")
        if unit is not None:
            return str(unit)
        private = any(number(client, "epsilon") for client in self.plan.get("clients", []))
        return "example" if private else "none"

    @property
    def private(self) -> bool:
        return self.unit != "none"

    @property
    def protects_clients(self) -> bool:
        """Whether noise hides all data of a client, and not single records."""
        return self.unit == "client"

    @property
    def protects_groups(self) -> bool:
        """Whether noise hides all records of one group together."""
        return self.unit == "group"

    @property
    def delta(self) -> float | None:
        spent = number(_section(self.result, "privacy"), "delta")
        return spent if spent is not None else number(self._asked, "delta")

    @property
    def epsilon_target(self) -> float | None:
        """Most epsilon that the job may cost any one client."""
        return number(self._asked, "epsilon") if self.private else None

    @property
    def epsilon(self) -> dict[str, float]:
        """Epsilon spent by each client: of the whole run, or up to the last round or test on record."""
        if not self.private:
            return {}
        spent = _section(self.result, "privacy").get("clients")
        if spent:
            return {str(name): float(value) for name, value in spent.items() if value is not None}
        latest: dict[str, float] = {}
        charged = [entry.epsilon for entry in self.rounds]
        charged += [entry.epsilon for entry in self.evaluations]
        for epsilons in charged:
            for name, spent_then in epsilons.items():  # which never falls
                latest[name] = max(spent_then, latest.get(name, 0.0))
        return latest

    @property
    def reproducible(self) -> bool:
        """Whether the noise came from the job's seed: then no guarantee holds (for tests only)."""
        return bool((self.result or {}).get("reproducible"))

    @property
    def state(self) -> str:
        """ "finished", or how far the run has come."""
        if self.finished:
            return "finished"
        return f"unfinished: {self.summed} of {self.planned_rounds} rounds"

    @property
    def summed(self) -> int:
        """Rounds of which a model came, as ``umbel status`` counts them."""
        return sum(entry.aggregated for entry in self.rounds)

    @property
    def guarantee(self) -> str:
        """The guarantee in one sentence, as the run (or else its plan) states it."""
        stated = _section(self.result, "privacy").get("guarantee")
        return str(stated or self.plan.get("guarantee") or "")

    def traffic(self, key: str) -> int | None:
        """Bytes: "up_per_client_round", "down_per_client_round", "up_total" or "down_total"."""
        value = number(_section(self.result, "bytes"), key)
        if value is None and key.endswith("_per_client_round"):
            value = number(self.plan, "bytes_" + key)
        if value is None and key.endswith("_total") and self.rounds:
            up = key == "up_total"
            value = sum(entry.bytes_up if up else entry.bytes_down for entry in self.rounds)
        return None if value is None else int(value)

    @property
    def seconds(self) -> float | None:
        total = number(_section(self.result, "seconds"), "total")
        if total is None and self.rounds:
            return sum(entry.seconds for entry in self.rounds)
        return total

    @property
    def stages(self) -> dict[str, float]:
        """Seconds by stage; together they are ``seconds``."""
        spent = _section(self.result, "seconds")
        found = {name: number(spent, key) for key, name in _STAGES.items()}
        return {name: value for name, value in found.items() if value}


def _blur(plan: Json) -> float | None:
    return number(_section(plan, "evaluation"), "deviation")


def _section(values: Json | None, key: str) -> Json:
    section = (values or {}).get(key)
    return section if isinstance(section, dict) else {}


def task_of(folder: Path) -> str:
    """What the model in a run's folder, or an adapter's, was tuned for; the usual task if it does not say."""
    for path in (folder / "adapter" / "umbel.json", folder / "umbel.json"):
        if path.is_file() and (task := read_object(path).get("task")) in known():
            return str(task)
    return usual_task(labelled=True).name


def text_column_of(folder: Path) -> str:
    """The column from which the job of a run's folder read its texts; the usual one if no job is there."""
    path = folder / "job.toml"
    data = _section(read_job(path, read_text(path)), "data") if path.is_file() else {}
    return str(data.get("text_column") or DataSpec().text_column)
