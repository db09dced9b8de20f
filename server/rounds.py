"""The round loop: cohort, requests, replies, strategy, checkpoint; until the job is done.

This is the coordinator's main path, the same over any Flower ``Grid``: in one process, on Ray, or
over the network. It calls the four methods of a Flower ``Strategy`` and nothing else of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from flwr.app import ConfigRecord, Message, RecordDict

from .. import __version__
from ..errors import Interrupted, PlanRefused, RoundFailed
from ..learning.metrics import Counts, total
from ..messages import (
    ASSIGNMENT,
    PREPARE,
    Arrays,
    Assignment,
    only_metrics,
    to_array_record,
    to_arrays,
)
from ..plan import sample_cohort
from .exchange import CohortGrid, Exchange
from .replies import (
    check_fits,
    counts_check,
    counts_of,
    readiness_check,
    readiness_of,
    update_check,
)
from .run import Run


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
        run.save()
    while run.round < job.training.rounds:
        if run.should_stop():
            raise Interrupted(f"Stopped after round {run.round} of {job.training.rounds}.")
        run.arrays = train_round(run, run.round + 1)
        run.round += 1
        run.save()
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
    exchange = _exchange(run, requests, labels, round_=run.round, check=readiness_check)
    for reply in exchange:
        readiness = readiness_of(reply)
        check_fits(run.plan, readiness)
        node = reply.metadata.src_node_id
        if run.nodes.setdefault(readiness.name, node) != node:
            raise PlanRefused(f"Two clients call themselves {readiness.name!r}: rename one.")
    if len(run.nodes) < run.plan.minimum:
        raise RoundFailed(
            f"{len(run.nodes)} of {len(nodes)} clients are ready, {run.plan.minimum} are needed. "
            + _reasons(exchange.failed)
        )
    seconds = round(time.monotonic() - begun, 3)
    run.tell(
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
        exchange = _exchange(run, requests, run.names, round_, attempt, update_check(run, shapes))
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
        run.tell(event)
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
    exchange = _exchange(run, requests, run.names, run.round, check=counts_check(run))
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
    run.tell(event)
    return counts


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
    names = run.names

    def note(reply: Message) -> None:
        metrics = only_metrics(reply.content)
        if "epsilon" in metrics:
            epsilons[names[reply.metadata.src_node_id]] = float(metrics["epsilon"])  # type: ignore[arg-type]
        if "loss" in metrics:
            losses.append(float(metrics["loss"]))  # type: ignore[arg-type]

    return note


def _counted(run: Run, exchange: Exchange, counts: dict[str, Counts]) -> Iterator[Message]:
    names = run.names
    for reply in exchange:
        counts[names[reply.metadata.src_node_id]] = counts_of(run, reply)
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


def _reasons(failed: Mapping[str, str]) -> str:
    shown = [f"{name}: {reason.rstrip('.')}." for name, reason in sorted(failed.items())[:3]]
    return " ".join(shown)
