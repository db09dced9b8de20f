"""A finished or unfinished run: its figures, its model, its proof."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, RunFolderError
from ..job import Job
from ..run.record import RunRecord
from ..run.run_folder import RunFolder
from .tables import Rows, Shown

if TYPE_CHECKING:
    import threading

    from matplotlib.figure import Figure
    from rich.console import RenderableType

    from ..learning.predict import Prediction, Predictor
    from ..simulations.engine import Engine


class Run(Shown):
    """A run's folder. Each access reads it again, so the run may be in progress."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._predictor: Predictor | None = None

    @classmethod
    def open(cls, path: str | Path = "runs/latest") -> Run:
        """The run in a folder; raises ``RunFolderError`` if there is none."""
        RunRecord.read(path)
        return cls(Path(path).resolve())

    @property
    def record(self) -> RunRecord:
        """Everything in the folder, typed."""
        return RunRecord.read(self.path)

    @property
    def job(self) -> Job:
        return RunFolder(self.path).job

    @property
    def finished(self) -> bool:
        return self.record.finished

    @property
    def result(self) -> dict[str, Any]:
        """``result.json``; raises ``RunFolderError`` while the run is not finished."""
        found = self.record.result
        if found is None:
            raise RunFolderError(
                f"{self.path} is not finished ({self.record.state}), so it has no result yet. "
                "Resume it: run.resume()"
            )
        return found

    @property
    def accuracy(self) -> float | None:
        """On everybody's held-out records, for the model that was kept; None if it is not defined."""
        return self.record.final.get("accuracy")

    @property
    def epsilon(self) -> float | None:
        """The most that any client has spent; None without privacy."""
        return max(self.record.epsilon.values(), default=None)

    @property
    def metrics(self) -> Rows:
        """A row per test: the round, and the figures on everybody's held-out records."""
        return Rows([{"round": t.round, **_numbers(t.figures)} for t in self.record.evaluations])

    @property
    def rounds(self) -> Rows:
        """A row per round: who took part, what it cost."""
        return Rows(
            [
                {
                    "round": r.round,
                    "clients": len(r.clients),
                    "seconds": r.seconds,
                    "loss": r.loss,
                    "bytes_up": r.bytes_up,
                    "bytes_down": r.bytes_down,
                    "epsilon": max(r.epsilon.values(), default=None),
                }
                for r in self.record.rounds
            ]
        )

    @property
    def clients(self) -> Rows:
        """A row per client: its own held-out records before and after, and what it has spent."""
        record = self.record
        metric, before, after = record.metric.key, record.client_before, record.client_final
        return Rows(
            [
                {
                    "client": name,
                    "before": before.get(name, {}).get(metric),
                    "after": after.get(name, {}).get(metric),
                    "epsilon": record.epsilon.get(name),
                }
                for name in record.client_names
            ]
        )

    @property
    def adapter(self) -> Path:
        """Folder of the tuned model, in PEFT's format."""
        return self._present("adapter")

    @property
    def certificate(self) -> Path:
        """The signed statement of what ran; ``umbel verify`` checks it."""
        return self._present("certificate.json")

    @property
    def page(self) -> Path:
        """The report page, made again from the present content of the folder."""
        from ..reports.page import write_page
        from ..reports.plots import draw

        return write_page(self.path, draw(self.path))

    def figure(self, name: str = "learning-curve") -> Figure:
        """A picture of the report, for a notebook or ``savefig``; ``KeyError`` lists the pictures."""
        from ..reports.plots import sheet, sheets

        found = sheet(self.record, name)
        if found is None:
            others = ", ".join(sheets(self.record))
            raise KeyError(f"{name!r}; there is {others or 'no picture yet'}")
        return found

    def predict(self, texts: str | Sequence[Any], new_tokens: int = 40) -> list[Prediction]:
        """Labels with probabilities for each text, or how a language model goes on.

        For a chat model a text may be a list of messages that ends with the user's. Of a blank text, of a
        missing one (None, NaN), and of a dialogue that cannot be answered, none. Raises ``DataError`` for
        what is no text.
        """
        from ..learning.predict import Prediction
        from ..reports.predictions import Asked, predictions
        from ..run.record import task_of
        from ..tasks.spec import spec_of

        if self._predictor is None:
            from ..learning.predict import Predictor

            self._predictor = Predictor.load(self.path)
        wanted = [texts] if isinstance(texts, str) or texts is None else list(texts)
        dialogues = spec_of(task_of(self.path)).reads == "dialogues"
        asked = [Asked(_text(text, place, dialogues)) for place, text in enumerate(wanted)]
        found = predictions(self._predictor, asked, new_tokens)
        return [prediction or Prediction(one.text, {}) for one, prediction in found]

    def merge(self, folder: str | Path) -> Path:
        """Write the base with the adapter merged into it: it loads with ``transformers`` alone.

        `folder` is new; its ``rebase.json`` names base and adapter. Raises ``ModelError``.
        """
        from ..learning.merging import merge

        merge(self.path, Path(folder))
        return Path(folder)

    def resume(
        self,
        expected: Job | None = None,
        *,
        workers: int | None = None,
        engine: Engine = "inprocess",
        progress: bool = True,
        stop: threading.Event | None = None,
    ) -> Run:
        """Continue a run that stopped, to the same result.

        expected: the job that the run should have; another one is refused. Other arguments
        are those of ``umbel.simulate``.
        """
        from ..simulations import engine as engines
        from .progress import shown

        with shown(progress) as listener:
            engines.resume(self.path, workers, listener, expected, engine, stop)
        return self

    def table(self) -> RenderableType:
        from ..reports.tables import result_table

        return result_table(self.record)

    def _present(self, name: str) -> Path:
        path = self.path / name
        if not path.exists():
            raise RunFolderError(f"{path} does not exist: the run is {self.record.state}.")
        return path


def _numbers(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if isinstance(value, int | float)}


def _text(value: Any, place: int, dialogues: bool) -> str:
    """A text as it was given, or a list of messages as JSON; an empty one for a value that is missing."""
    if dialogues and isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    if dialogues and isinstance(value, dict):
        raise DataError(
            f"Text {place} is a single message: give a list of dialogues, each a list of messages."
        )
    if isinstance(value, str):
        return value
    if value is None or value != value:  # NaN, as pandas has it, is not itself
        return ""
    raise DataError(f"Text {place} is not text but {type(value).__name__}: give strings.")
