"""Runs side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UmbelError
from .runs import Run
from .tables import Rows, Shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """Some runs of one task."""

    runs: tuple[Run, ...]

    def table(self) -> RenderableType:
        from ..reports.compare import comparison_table

        return comparison_table([run.record for run in self.runs])

    @property
    def figure(self) -> Figure:
        """All learning curves in one picture."""
        from ..reports.compare import comparison_figure

        return comparison_figure([run.record for run in self.runs])

    @property
    def differences(self) -> Rows:
        """A row per key that differs between the jobs, with its value in each."""
        from ..reports.compare import differing_keys

        jobs = [run.record.job for run in self.runs]
        return Rows(
            [
                {"key": key} | {run.path.name: v for run, v in zip(self.runs, values, strict=True)}
                for key, values in differing_keys(jobs).items()
            ]
        )


def compare(*runs: Any) -> Comparison:
    """Runs, or their folders, side by side. Raises ``UmbelError`` if they have no metric in common."""
    if not runs:
        raise UmbelError("There is nothing to compare. Give at least one run.")
    opened = tuple(run if isinstance(run, Run) else Run.open(Path(run)) for run in runs)
    from ..reports.compare import refuse_different_tasks

    refuse_different_tasks([run.record for run in opened])
    return Comparison(opened)
