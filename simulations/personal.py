"""What each owner has of its own at the end of a simulation, beside what all have: figures, and adapters.

Between machines only the owner can look (``umbel client own-model``). Here all owners are on one
machine, so their exact figures can stand side by side; no ledger is charged for that.
"""

from __future__ import annotations

from typing import Any

from ..learning.metrics import Counts, exact_counts_from_list
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
    names = dict.fromkeys(run.plan.by_name)
    exported = len(names) <= MOST_EXPORTED
    run.listener.started("own", len(names))
    pool.forget()
    for name in names:
        place = run.folder.path / FOLDER / name if exported else None
        counted, _ = run.counted.get(name, (0, b""))
        pool.submit(name, "own_model", name, run.id, counted, run.arrays, place)
    labels, task = run.plan.job.data.labels or [], run.plan.job.task
    came: dict[str, tuple[int, dict[str, list[float]]]] = {}
    together: dict[str, Counts] = {}
    clients: dict[str, dict[str, Any]] = {}
    rounds: dict[str, int] = {}
    for name in names:  # in this order, whoever comes first; of counts only their sum is kept
        while name not in came:
            for key, result in pool.collect():
                if key not in names:  # an answer that came after its round's deadline
                    continue
                if isinstance(result, BaseException):
                    raise result
                came[key] = result
        rounds[name], numbers = came.pop(name)
        counts = {which: exact_counts_from_list(task, n) for which, n in numbers.items()}
        if counts:
            clients[name] = {which: c.metrics(labels) for which, c in counts.items()}
            together = {w: together[w] + c if w in together else c for w, c in counts.items()}
        run.listener.advanced(len(rounds))
    return {
        "tensors": len(run.plan.model.personal or run.arrays),
        "adapters": FOLDER if exported else None,
        **{w: together[w].metrics(labels) if w in together else {} for w in ("own", "shared")},
        "clients": clients,
        "rounds": rounds,
    }
