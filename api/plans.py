"""What a job will run and what it guarantees, before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..job import Job
from .sources import as_job
from .tables import Rows, Shown

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True, repr=False)
class Planned(Shown):
    """A plan: what ``umbel plan`` shows."""

    job: Job
    values: dict[str, Any]
    """As ``umbel plan --json`` prints them."""

    @property
    def guarantee(self) -> str:
        """One sentence."""
        return str(self.values["guarantee"])

    @property
    def warnings(self) -> list[str]:
        return list(self.values["warnings"])

    @property
    def epsilon(self) -> float | None:
        """The most that the job costs any client; None without privacy."""
        spent = [client["epsilon"] for client in self.values["clients"]]
        return max((one for one in spent if one is not None), default=None)

    @property
    def clients(self) -> Rows:
        """What each client contributes and pays: a row per client."""
        return Rows(self.values["clients"])

    def table(self) -> RenderableType:
        from ..reports.plan_table import plan_table

        return plan_table(self.values)


def plan(source: Any, *, progress: bool = True, **sections: Any) -> Planned:
    """What a job will run here, and its guarantee; everything except the training.

    source, sections: as in ``umbel.simulate``. Raises ``UmbelError``: a job that cannot work is
    refused here.
    """
    from ..simulations.engine import plan_job
    from .progress import shown

    with shown(progress) as listener:
        job = as_job(source, sections, listener)
        found, federation = plan_job(job, listener)
    return Planned(found.job, found.to_dict() | {"data": federation.holdings()})
