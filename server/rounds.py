"""The round loop: cohort, requests, replies, strategy, checkpoint; until the job is done.

This is the coordinator's main path, the same over any Flower ``Grid``: in one process, on Ray, or
over the network. It calls the four methods of a Flower ``Strategy`` and nothing else of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from .. import __version__
from ..errors import Interrupted, MessageError, PlanRefused, RoundFailed
from ..learning.metrics import Counts, counts_from_list
from ..messages import (
    ASSIGNMENT,
    PREPARE,
    WEIGHT,
    Arrays,
    Assignment,
    Readiness,
    only_arrays,
    only_metrics,
    to_array_record,
    to_arrays,
)
from ..plan import Plan, sample_cohort
from ..strategies.fold import check_range
from .checkpoint import Checkpoint, save, strategy_state
from .exchange import CohortGrid, Exchange
from .run_folder import RunFolder


class Listener(Protocol):
    """Hears how a run goes; the command line draws its progress from this."""

    def started(self, what: str, total: int) -> None:
        """A stage with `total` parts begins: "prepare", "train 3" or "evaluate 3"."""

    def advanced(self, done: int) -> None:
        """`done` parts of the stage are finished."""

    def event(self, event: dict[str, Any]) -> None:
        """An event that was written to metrics.jsonl."""


class Silent:
    """A listener that does nothing."""

    def started(self, what: str, total: int) -> None: ...

    def advanced(self, done: int) -> None: ...

    def event(self, event: dict[str, Any]) -> None: ...


@dataclass
class Run:
    """A run in progress: what is fixed, and the state that rounds change."""

    id: str
    plan: Plan
    grid: Grid
    strategy: Strategy
    folder: RunFolder
    arrays: Arrays
    round: int = 0
    listener: Listener = field(default_factory=Silent)
    should_stop: Callable[[], bool] = lambda: False
    nodes: dict[str, int] = field(default_factory=dict)
    """Client name -> node id, learned when the clients report ready."""

    @cached_property
    def job_json(self) -> str:
        return self.plan.job.to_json()

    @property
    def names(self) -> dict[int, str]:
        return {node: name for name, node in self.nodes.items()}

    @property
    def checkpoints(self) -> Path:
        return self.folder.path / "checkpoints"


def run_rounds(run: Run) -> dict[str, Counts]:
    """All rounds that are left, with a checkpoint after each; counts of the final model by client.

    Raises ``RoundFailed`` when too few clients answer, ``Interrupted`` when the user stops it. In
    both cases the last finished round is on disk.
    """
    job = run.plan.job
    prepare(run)
    counts: dict[str, Counts] = {}
    if run.round == 0:
        counts = evaluate(run)
        _save(run)
    while run.round < job.training.rounds:
        if run.should_stop():
            raise Interrupted(f"Stopped after round {run.round} of {job.training.rounds}.")
        run.arrays = train_round(run, run.round + 1)
        run.round += 1
        _save(run)
        counts = {}
        if job.evaluation.every and run.round % job.evaluation.every == 0:
            counts = evaluate(run)
    counts = counts or evaluate(run)
    if not counts and any(client.test_examples for client in run.plan.clients):
        raise RoundFailed("No client could test the final model; the model itself is saved.")
    return counts


def prepare(run: Run) -> None:
    """Ask every node whether it can take part, and learn which client it is."""
    begun = time.monotonic()
    nodes = sorted(run.grid.get_node_ids())
    run.listener.started("prepare", len(nodes))
    labels = {node: f"node {node}" for node in nodes}
    requests = [Message(RecordDict(), dst_node_id=node, message_type=PREPARE) for node in nodes]
    exchange = _exchange(run, requests, labels, round_=run.round, check=_readiness_check)
    for reply in exchange:
        readiness = _readiness(reply)
        _check_fits(run.plan, readiness)
        node = reply.metadata.src_node_id
        if run.nodes.setdefault(readiness.name, node) != node:
            raise PlanRefused(f"Two clients call themselves {readiness.name!r}: rename one.")
    if len(run.nodes) < run.plan.minimum:
        raise RoundFailed(
            f"{len(run.nodes)} of {len(nodes)} clients are ready, {run.plan.minimum} are needed. "
            + _reasons(exchange.failed)
        )
    seconds = round(time.monotonic() - begun, 3)
    _tell(
        run,
        {
            "event": "ready",
            "clients": sorted(run.nodes),
            "failed": exchange.failed,
            "seconds": seconds,
        },
    )


def train_round(run: Run, round_: int) -> Arrays:
    """One round of training, repeated while too few answer; the next model."""
    job = run.plan.job
    for attempt in range(job.cohort.retries + 1):
        begun = time.monotonic()
        cohort = sample_cohort(sorted(run.nodes), job, round_, attempt)
        minimum = job.cohort.minimum or len(cohort)
        view = CohortGrid(run.grid, [run.nodes[name] for name in cohort])
        run.listener.started(f"train {round_}", len(cohort))
        requests = run.strategy.configure_train(
            round_, to_array_record(run.arrays), ConfigRecord(), view
        )
        shapes = {name: array.shape for name, array in run.arrays.items()}
        exchange = _exchange(run, requests, run.names, round_, attempt, _update_check(run, shapes))
        epsilons: dict[str, float] = {}
        losses: list[float] = []
        try:
            replies = _at_least(minimum, exchange, _note(run, epsilons, losses))
            record, _ = run.strategy.aggregate_train(round_, replies)
        except _TooFew:
            record = None
        event = {
            "event": "round",
            "round": round_,
            "attempt": attempt + 1,
            "seconds": round(time.monotonic() - begun, 3),
            "clients": sorted(exchange.answered),
            "failed": exchange.failed,
            "bytes_up": exchange.bytes_up,
            "bytes_down": exchange.bytes_down,
            "loss": math.fsum(losses) / len(losses) if losses else None,
            "epsilon": epsilons,
            "aggregated": record is not None,
        }
        _tell(run, event)
        if record is not None:
            return to_arrays(record, like=shapes)
        if len(cohort) - exchange.refused < minimum:
            break
    raise RoundFailed(
        f"Round {round_}: {len(exchange.answered)} of {len(cohort)} clients answered, {minimum} "
        f"are needed, after {attempt + 1} attempts. {_reasons(exchange.failed)} Round {run.round} "
        f"is saved; go on with --resume once the cause is mended."
    )


def evaluate(run: Run) -> dict[str, Counts]:
    """Test the current model on every client's held-out records; counts by client."""
    begun = time.monotonic()
    job = run.plan.job
    tested = [name for name in sorted(run.nodes) if run.plan.by_name[name].test_examples]
    if not tested:
        return {}
    run.listener.started(f"evaluate {run.round}", len(tested))
    view = CohortGrid(run.grid, [run.nodes[name] for name in tested])
    requests = run.strategy.configure_evaluate(
        run.round, to_array_record(run.arrays), ConfigRecord(), view
    )
    exchange = _exchange(run, requests, run.names, run.round, check=_counts_check(run))
    counts: dict[str, Counts] = {}
    run.strategy.aggregate_evaluate(run.round, _counted(run, exchange, counts))
    counts = dict(sorted(counts.items()))
    labels = job.data.labels or []
    event = {
        "event": "evaluation",
        "round": run.round,
        "seconds": round(time.monotonic() - begun, 3),
        "failed": exchange.failed,
        "metrics": total(counts).metrics(labels) if counts else {},
        "clients": {name: c.metrics(labels) for name, c in counts.items()},
    }
    _tell(run, event)
    return counts


def total(counts: Mapping[str, Counts]) -> Counts:
    """The counts of all clients together."""
    first, *rest = counts.values()
    for other in rest:
        first = first + other
    return first


class _TooFew(Exception):
    """Fewer usable replies than the round needs."""


def _at_least(
    minimum: int, exchange: Exchange, note: Callable[[Message], None]
) -> Iterator[Message]:
    for reply in exchange:
        note(reply)
        yield reply
    if len(exchange.answered) < minimum:
        raise _TooFew


def _note(run: Run, epsilons: dict[str, float], losses: list[float]) -> Callable[[Message], None]:
    """Keep the scalars that come with an update."""

    def note(reply: Message) -> None:
        metrics = only_metrics(reply.content)
        if "epsilon" in metrics:
            epsilons[run.names[reply.metadata.src_node_id]] = float(metrics["epsilon"])  # type: ignore[arg-type]
        if "loss" in metrics:
            losses.append(float(metrics["loss"]))  # type: ignore[arg-type]

    return note


def _counted(run: Run, exchange: Exchange, counts: dict[str, Counts]) -> Iterator[Message]:
    for reply in exchange:
        name = run.names[reply.metadata.src_node_id]
        counts[name] = _counts(run, reply)
        yield reply


def _exchange(
    run: Run,
    requests: Iterable[Message],
    names: dict[int, str],
    round_: int,
    attempt: int = 0,
    check: Callable[[Message], None] = lambda _: None,
) -> Exchange:
    """Send a strategy's requests, each with the assignment of its client."""
    return Exchange(
        run.grid,
        [_assigned(run, message, round_, attempt, names) for message in requests],
        names,
        run.plan.job.cohort.deadline,
        check,
        lambda done, _: run.listener.advanced(done),
    )


def _assigned(
    run: Run, message: Message, round_: int, attempt: int, names: dict[int, str]
) -> Message:
    client = run.plan.by_name.get(names[message.metadata.dst_node_id])
    assignment = Assignment(
        version=__version__,
        run=run.id,
        job=run.job_json,
        round=round_,
        attempt=attempt,
        participations=client.rounds if client else run.plan.job.training.rounds,
    )
    message.content = RecordDict({**message.content, ASSIGNMENT: assignment.to_record()})
    return message


def _update_check(run: Run, shapes: dict[str, tuple[int, ...]]) -> Callable[[Message], None]:
    def check(reply: Message) -> None:
        check_range(to_arrays(only_arrays(reply.content), like=shapes))
        metrics = only_metrics(reply.content)
        weight = metrics[WEIGHT]
        planned = run.plan.by_name[run.names[reply.metadata.src_node_id]].weight
        if weight != planned:
            raise MessageError(f"sent a weight of {weight}, the plan says {planned}")
        for name in ("epsilon", "loss"):
            number = metrics.get(name, 0.0)
            if isinstance(number, list) or not math.isfinite(number):
                raise MessageError(f"sent a {name} that is no number: {number}")

    return check


def _counts_check(run: Run) -> Callable[[Message], None]:
    def check(reply: Message) -> None:
        weight = only_metrics(reply.content)[WEIGHT]
        if isinstance(weight, list) or not weight >= 1:
            raise MessageError(f"sent a weight of {weight} for its held-out records")
        try:
            _counts(run, reply).metrics(run.plan.job.data.labels or [])
        except ValueError as error:
            raise MessageError(f"sent counts that do not fit the task: {error}") from None

    return check


def _counts(run: Run, reply: Message) -> Counts:
    numbers = only_metrics(reply.content).get("counts")
    if not isinstance(numbers, list):
        raise MessageError("sent no counts of its held-out records")
    return counts_from_list(run.plan.job.task, numbers)


def _readiness_check(reply: Message) -> None:
    _readiness(reply)


def _readiness(reply: Message) -> Readiness:
    record = reply.content.config_records.get("readiness")
    if record is None:
        raise MessageError("answered without saying whether it is ready")
    return Readiness.from_record(record)


def _check_fits(plan: Plan, readiness: Readiness) -> None:
    if readiness.name not in plan.by_name:
        raise PlanRefused(
            f"A client named {readiness.name!r} answered, whom the plan does not know."
        )
    if readiness.base_model != plan.model.base_digest:
        raise PlanRefused(
            f"{readiness.name} holds another base model (SHA-256 {readiness.base_model[:12]}) than "
            f"the plan ({plan.model.base_digest[:12]}): install the same files of {plan.job.model.base}."
        )
    planned = plan.by_name[readiness.name].size_class
    if readiness.size_class != planned:
        raise PlanRefused(
            f"{readiness.name} now has about {readiness.size_class} records, the plan was made for "
            f"{planned}: plan again."
        )


def _save(run: Run) -> None:
    save(run.checkpoints, Checkpoint(run.round, run.arrays, strategy_state(run.strategy)))


def _tell(run: Run, event: dict[str, Any]) -> None:
    run.folder.append(event)
    run.listener.event(event)


def _reasons(failed: Mapping[str, str]) -> str:
    shown = [f"{name}: {reason.rstrip('.')}." for name, reason in sorted(failed.items())[:3]]
    return " ".join(shown)
