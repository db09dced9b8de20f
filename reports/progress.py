"""How a run shows that it lives: a progress bar on a terminal, a line a step elsewhere."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import (
    Progress as Bar,
)

from ..quantities import tested_texts
from ..run.events import Ended, Evaluation, Event, Holdings, Holdout, Kept, Round
from ..run.outcome import decision_line
from .holdings import holdings_lines

_STAGES = {
    "data": "reading and tokenising data",
    "model": "loading the model",
    "prepare": "clients get ready",
    "keys": "exchanging keys, round",
    "train": "training, round",
    "confirm": "confirming who is in the sum, round",
    "open": "opening the sum, round",
    "evaluate": "testing after round",
    "public": "testing on the public hold-out after round",
    "compare": "training apart, for comparison",
}


class Progress:
    """Hears a run's events (a ``server.run.Listener``) and prints them to standard error."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not (sys.stderr.isatty() or self._console.is_jupyter),
        )
        self._task: TaskID | None = None
        self._last: Round | None = None
        self._begun = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def started(self, what: str, total: int) -> None:
        stage, _, number = what.partition(" ")
        text = f"{_STAGES[stage]} {number}".rstrip()
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(text, total=total or None)
        if self._bar.disable and stage in ("data", "model", "prepare", "compare"):
            self._say(text)

    def advanced(self, done: int) -> None:
        if self._task is not None:
            self._bar.update(self._task, completed=done)

    def event(self, event: Event) -> None:
        match event:
            case Round():
                self._last = event
                for name, reason in event.failed.items():
                    self._say(f"round {event.round}: {name} did not take part: {reason}")
                if event.unable:
                    self._say(
                        f"round {event.round}: {event.unable} clients could not train or test"
                    )
                if not event.aggregated:
                    self._say(f"round {event.round}: too few answers in attempt {event.attempt}")
            case Evaluation():
                self._say(" · ".join(self._figures(event)))
            case Holdout():
                figures = tested_texts(event.metrics, ".3f", {})
                self._say(" · ".join([f"round {event.round:>3}", "public hold-out", *figures]))
            case Holdings():
                for line in holdings_lines(asdict(event)):
                    self._say(line)
            case Ended() | Kept():
                self._say(decision_line(event))

    def _figures(self, event: Evaluation) -> list[str]:
        figures = [f"round {event.round:>3}", *tested_texts(event.metrics, ".3f", {})]
        if self._last is not None:
            if self._last.epsilon:
                figures.append(f"epsilon {max(self._last.epsilon.values()):.2f}")
            figures.append(f"{self._last.seconds:.1f} s")
        return figures

    def _say(self, text: str) -> None:
        stamp = f"{time.monotonic() - self._begun:6.1f} s  " if self._bar.disable else ""
        self._console.print(f"{stamp}{text}", soft_wrap=True, markup=False)
