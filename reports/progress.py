"""How a run shows that it lives: a progress bar on a terminal, a line a step elsewhere."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
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

from ..quantities import duration_text, epsilon_text, tested_texts
from ..run.events import (
    Ended,
    Evaluation,
    Event,
    GroupLeftOut,
    Holdings,
    Holdout,
    Kept,
    Round,
    SumRefused,
)
from ..run.outcome import decision_line
from ..survey.holdings import holdings_lines

_QUIET = 2.0
"""Seconds of a stage before its pace is shown."""
_SLOW_START = 10.0
_FEW = 0.05
"""The first pieces are the slowest: so many seconds, no time left is told from less than this share."""
_BETWEEN = 10.0
"""Seconds between two lines of a stage without a terminal."""
_STAGES = {
    "data": "reading data",
    "columns": "looking at the columns",
    "texts": "comparing the texts",
    "tokens": "encoding the records",
    "model": "loading the model",
    "features": "running the base model over each record once",
    "prepare": "clients get ready",
    "keys": "exchanging keys, round",
    "train": "training, round",
    "confirm": "confirming who is in the sum, round",
    "open": "opening the sum, round",
    "evaluate": "testing after round",
    "public": "testing on the public hold-out after round",
    "own": "testing each owner's own model",
    "compare": "training apart, for comparison",
}


@dataclass
class _Stage:
    """One part of a run that takes a while."""

    text: str
    total: int
    begun: float
    told: float = 0.0

    def pace(self, done: int, now: float) -> str:
        """Rate and time left, once there is something to tell them by."""
        spent = now - self.begun
        if spent < _QUIET or not 0 < done <= self.total:
            return ""
        if spent < _SLOW_START and done < _FEW * self.total:
            return ""
        left = duration_text((self.total - done) * spent / done)
        if done / spent < 1:
            return f"{left} left"
        return f"{done / spent:,.0f} a second, {left} left"

    def is_due(self, now: float) -> bool:
        """Whether a line without a terminal is due: not too soon, and not too many."""
        last = self.told or self.begun
        if now - last < (_BETWEEN if self.told else _QUIET):
            return False
        self.told = now
        return True


class Progress:
    """Hears a run's events (a ``server.run.Listener``) and prints them to standard error."""

    def __init__(self) -> None:
        # A bar in a notebook takes ipywidgets; without them there are lines.
        bars = None if find_spec("ipywidgets") else False
        self._console = Console(stderr=True, highlight=False, force_jupyter=bars)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not (sys.stderr.isatty() or self._console.is_jupyter),
        )
        self._task: TaskID | None = None
        self._stage: _Stage | None = None
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
        self._task = self._bar.add_task(text, total=total or None, rate="")
        self._stage = _Stage(text, total, time.monotonic())
        if self._bar.disable and not number:
            self._say(text)

    def advanced(self, done: int) -> None:
        if self._task is None or self._stage is None:
            return
        pace = self._stage.pace(done, time.monotonic())
        self._bar.update(self._task, completed=done, rate=pace)
        if self._bar.disable and self._stage.is_due(time.monotonic()):
            self._say(
                f"{self._stage.text}: {done:,} of {self._stage.total:,}{pace and f', {pace}'}"
            )

    def event(self, event: Event) -> None:
        match event:
            case Round():
                self._last = event
                for name, reason in event.failed.items():
                    self._say(f"round {event.round}: {name} did not take part: {reason}")
                if event.lacks:
                    self._say(f"round {event.round}: {event.lacks}")
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
            case GroupLeftOut() | SumRefused():
                self._say(f"warning: {event.text}")
            case Ended() | Kept():
                self._say(decision_line(event))

    def _figures(self, event: Evaluation) -> list[str]:
        figures = [f"round {event.round:>3}", *tested_texts(event.metrics, ".3f", event.blur)]
        spent = event.epsilon or (self._last.epsilon if self._last is not None else {})
        if spent:
            figures.append(f"epsilon {epsilon_text(max(spent.values()))}")
        if self._last is not None:
            figures.append(f"{self._last.seconds:.1f} s")
            if self._last.staleness:
                ages = sorted(int(age) for age in self._last.staleness.values())
                figures.append(f"versions behind {', '.join(map(str, ages))}")
            if self._last.virtual is not None:
                figures.append(f"virtual clock {duration_text(self._last.virtual)}")
        return figures

    def _say(self, text: str) -> None:
        stamp = f"{time.monotonic() - self._begun:6.1f} s  " if self._bar.disable else ""
        self._console.print(f"{stamp}{text}", soft_wrap=True, markup=False)
