"""What each owner has of its own at the end of a simulation, beside what all have: figures, and adapters.

Between machines only the owner can look (``umbel client own-model``). Here all owners are on one
machine, so their exact figures can stand side by side; no ledger is charged for that.
"""

from __future__ import annotations

from typing import Any

from ..learning.metrics import Counts, exact_counts_from_list, total
from ..server.run import Run
from ..strategies import leaves_own_model
from .workers import Workers

FOLDER = "own"
"""Of a run's folder: an adapter for each owner."""
MOST_EXPORTED = 100
"""Adapters of more owners are not written: each is a folder of some megabytes."""


def compare_own(run: Run, pool: Workers) -> dict[str, Any] | None:
    """Figures of each owner's own model and of the shared one, on the owner's held-out records.

    None if the strategy leaves owners nothing of their own.
    """
    if not leaves_own_model(run.plan.job.strategy):
        return None
    names = list(run.plan.by_name)
    exported = len(names) <= MOST_EXPORTED
    run.listener.started("own", len(names))
    pool.forget()
    for name in names:
        place = run.folder.path / FOLDER / name if exported else None
        counted, _ = run.counted.get(name, (0, b""))
        pool.submit(name, "own_model", name, run.id, counted, run.arrays, place)
    found: dict[str, dict[str, Counts]] = {}
    rounds: dict[str, int] = {}
    waiting = set(names)
    while waiting:
        for name, result in pool.collect():
            if name not in waiting:  # an answer that came after its round's deadline
                continue
            if isinstance(result, BaseException):
                raise result
            waiting.discard(name)
            rounds[name], counts = result
            found[name] = {
                k: exact_counts_from_list(run.plan.job.task, c) for k, c in counts.items()
            }
            run.listener.advanced(len(names) - len(waiting))
    labels = run.plan.job.data.labels or []
    tested = {name: counts for name in names if (counts := found[name])}

    def together(which: str) -> dict[str, Any]:
        every = {name: counts[which] for name, counts in tested.items()}
        return total(every).metrics(labels) if every else {}

    return {
        "tensors": len(run.plan.model.personal or run.arrays),
        "adapters": FOLDER if exported else None,
        "own": together("own"),
        "shared": together("shared"),
        "clients": {
            name: {which: c.metrics(labels) for which, c in counts.items()}
            for name, counts in tested.items()
        },
        "rounds": {name: rounds[name] for name in names},
    }
