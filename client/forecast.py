"""What an owner's data would have spent after more jobs like one, before any of them is asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..errors import PlanRefused
from ..job import Job
from ..planning.facts import training_size
from ..planning.noise import private_recipe
from ..planning.schedule import most_tests
from ..privacy.accounting.accountant import MechanismEvent, epsilon
from ..privacy.ledger.ledger import Ledger
from ..privacy.noise.sizes import SIZE_EVENT, SMALLEST_SIZE
from .home import Home
from .policy import Policy

if TYPE_CHECKING:
    from rich.table import Table

MOST_JOBS = 1000
"""The count stops at this many jobs."""


@dataclass(frozen=True)
class Forecast:
    """Spending of one data set before and after `after` more jobs, at the job's delta.

    A job is counted with all its planned rounds, this owner in each of them, and none repeated.
    """

    dataset: str
    job: str
    delta: float
    spent: float
    after: tuple[float, ...]
    """Epsilon after one more such job, after two, and so on."""
    limit: float
    """The owner's: the policy's epsilon_limit."""
    job_limit: float
    """What the ledger would allow this job: the owner's limit, or privacy.limit if that is lower."""
    fits: int
    """How many more such jobs the owner's limit allows (at most 1,000)."""
    fits_job: int
    """How many such jobs that limit allows."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def forecast(home: Home, job: Job, times: int) -> Forecast:
    """Compose with what the account has spent; nothing is written, and no size is drawn.

    Raises ``PlanRefused`` if the job has no privacy to spend, or no noise can meet its epsilon.
    """
    if not job.private:
        raise PlanRefused(
            f'Job {job.name} spends no epsilon: its privacy.unit is "none", so there is no promise '
            "for a ledger to count. The policy's privacy.units decides whether it may run."
        )
    account = home.account
    known, spent = account.sizes, _events(home, account.name)
    if known is None:
        # A size is drawn with the first job. What there is stays on this machine.
        size = max(SMALLEST_SIZE, home.source.counts(home.source.corpus()).data)
        spent = [*spent, SIZE_EVENT]
    else:
        size = known.data
    share = home.settings.data.share
    # The plan may choose fewer tests, of more noise each: they cost as much together, or less.
    rounds, tests = job.training.rounds, most_tests(job) if job.tests_privately else 0
    recipe = private_recipe(job, training_size(size, share), rounds, tests)

    def after(jobs: int) -> float:
        asked = recipe.spending(rounds * jobs, tests * jobs).values()
        return epsilon([*spent, *asked], job.privacy.delta)

    policy = Policy.read(home.policy)
    limit, job_limit = policy.privacy.epsilon_limit, policy.epsilon_limit_for(job)
    return Forecast(
        dataset=account.name,
        job=job.name,
        delta=job.privacy.delta,
        spent=after(0),
        after=tuple(after(jobs) for jobs in range(1, times + 1)),
        limit=limit,
        job_limit=job_limit,
        fits=_most(after, limit),
        fits_job=_most(after, job_limit),
    )


def forecast_table(found: Forecast) -> Table:
    """Epsilon after each more job, rounded up, and what the limits say to it."""
    from rich import box
    from rich.table import Table

    from ..quantities import delta_text, epsilon_text

    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False, padding=(0, 1))
    table.add_column("More such jobs", justify="right")
    table.add_column(f"Epsilon at delta {delta_text(found.delta)}", justify="right")
    table.add_column("")
    for jobs, value in enumerate((found.spent, *found.after)):
        table.add_row(f"{jobs}", epsilon_text(value), _verdict(value, found, jobs))
    return table


def forecast_line(found: Forecast) -> str:
    """How many more jobs fit, in words."""
    many = f"{found.fits:,}" + (" or more" if found.fits == MOST_JOBS else "")
    line = f"This owner's limit of {found.limit:g} has room for {many} more."
    if found.job_limit < found.limit:
        line += (
            f" The job itself sets a lower one, {found.job_limit:g} (privacy.limit), which has room "
            f"for {found.fits_job:,}."
        )
    return line


def _verdict(value: float, found: Forecast, jobs: int) -> str:
    if not jobs:
        return "spent so far"
    if not value <= found.limit:
        return "refused: beyond the owner's limit"
    return "" if value <= found.job_limit else "refused: beyond the job's own limit"


def _most(after: Any, limit: float) -> int:
    """The largest number of jobs, up to ``MOST_JOBS``, that keeps within `limit`."""
    low, high = 0, 1
    while high <= MOST_JOBS and after(high) <= limit:
        low, high = high, 2 * high
    high = min(high, MOST_JOBS + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if after(middle) <= limit else (low, middle)
    return low


def _events(home: Home, dataset: str) -> list[MechanismEvent]:
    if not Ledger.begun(home.ledger):
        return []
    with Ledger(home.ledger) as ledger:
        return ledger.events(dataset)
