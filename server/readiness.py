"""Which clients are ready: asked when a run is taken up, and those that were away again between rounds."""

from __future__ import annotations

import time
from collections.abc import Mapping

from flwr.app import Message, RecordDict

from ..errors import CannotGoOn, MessageError, PlanRefused, RoundFailed
from ..planning.facts import some
from ..run.events import Ready
from ..wire.packing import SECAGG, to_bytes_record
from ..wire.requests import PREPARE, REFUSED
from .ending import failure
from .exchange import Exchange, Stage, ask, connected
from .replies import check_fits, readiness_of
from .restored import learn_rounds
from .run import Run

_AGAIN_SECONDS = 2.0
"""Between two attempts to get enough clients ready."""


def prepare(run: Run) -> None:
    """Ask every node whether it can take part, and learn which client it is.

    While too few are ready, those that did not answer are asked again, as long as the run has
    patience: after a fault a node may seem connected for a while before it really is.
    """
    begun, clock = time.monotonic(), run.clock
    until = clock.now() + run.patience
    known = run.names
    waiting = {node: known.get(node, f"node {node}") for node in known or run.grid.get_node_ids()}
    labels = dict(waiting)
    failed: dict[str, str] = {}
    slots: dict[str, int] = {}
    rounds: dict[str, int] = {}
    run.nodes = {}
    while True:
        online = set(run.grid.get_node_ids())
        gone = {label: "not connected" for node, label in waiting.items() if node not in online}
        here = {node: label for node, label in waiting.items() if node in online}
        exchange = _ask_whether_ready(run, here, slots, rounds)
        failed |= exchange.failed | gone
        again = [*gone, *(n for n in exchange.failed if not _for_good(exchange, n))]
        waiting = {node: label for node, label in waiting.items() if label in again}
        left = until - clock.now()
        needed = run.plan.minimum - len(run.nodes)
        if needed <= 0 or needed > len(waiting) or left <= 0 or run.should_stop():
            break
        clock.wait_until(clock.now() + min(left, _AGAIN_SECONDS))
        nodes = {label: node for node, label in waiting.items()}
        connected(run.grid, nodes, needed, left, run.should_stop, clock)
    ready = {labels[node] for node in run.nodes.values()}
    failed = {label: reason for label, reason in failed.items() if label not in ready}
    run.away = {label: node for node, label in waiting.items() if label in run.plan.by_name}
    if run.sums is not None:
        run.sums.learn(slots)
    if len(run.nodes) < run.plan.minimum:
        may_be = len(run.nodes) + len(waiting)
        raise failure(
            run,
            f"{len(run.nodes)} of {len(labels)} clients are ready, but {run.plan.minimum} are needed. "
            + reasons(failed),
            CannotGoOn if may_be < run.plan.minimum else RoundFailed,
        )
    learn_rounds(run, list(rounds.values()))
    seconds = round(time.monotonic() - begun, 3)
    run.tell(Ready(sorted(run.nodes), failed, seconds))


def take_back(run: Run) -> None:
    """Ask those that were away when the others got ready, and are connected now: they take part again."""
    online = set(run.grid.get_node_ids()) if run.away else set()
    here = {node: name for name, node in run.away.items() if node in online}
    if not here:
        return
    begun, before = time.monotonic(), set(run.nodes)
    slots: dict[str, int] = {}
    exchange = _ask_whether_ready(run, here, slots, {})
    if run.sums is not None:
        run.sums.learn(slots)
    gone = [name for name in here.values() if _for_good(exchange, name)]
    run.away = {n: node for n, node in run.away.items() if n not in run.nodes and n not in gone}
    clients = sorted(run.nodes.keys() - before)
    seconds = round(time.monotonic() - begun, 3)
    if clients or gone:
        run.tell(Ready(clients, exchange.failed, seconds))


def _ask_whether_ready(
    run: Run, labels: dict[int, str], slots: dict[str, int], rounds: dict[str, int]
) -> Exchange:
    """Ask these nodes; note who is ready, and the `slots` and `rounds` that each one came to."""

    def check(reply: Message) -> None:
        readiness, label = readiness_of(reply), labels[reply.metadata.src_node_id]
        check_fits(run.plan, readiness)
        if label in run.plan.by_name and readiness.name != label:
            raise MessageError(f"calls itself {readiness.name!r:.100}")

    run.listener.started("prepare", len(labels))
    requests = [prepare_request(node, run.roster) for node in sorted(labels)]
    exchange = ask(run, requests, labels, Stage(run.round), check)
    for reply in exchange:
        readiness = readiness_of(reply)
        slots[readiness.name], rounds[readiness.name] = readiness.slot, readiness.round
        node = reply.metadata.src_node_id
        if run.nodes.setdefault(readiness.name, node) != node:
            raise PlanRefused(f"Two clients call themselves {readiness.name!r}: rename one.")
    return exchange


def _for_good(exchange: Exchange, name: str) -> bool:
    """Whether a client that failed would fail again: it refuses, or says what does not fit the plan."""
    silent = name in exchange.silent
    return name in exchange.failed and not silent and exchange.codes.get(name, REFUSED) == REFUSED


def prepare_request(node: int, roster: bytes) -> Message:
    """The question whether a client can take part; with the newest roster, where it may lack it."""
    content = RecordDict({SECAGG: to_bytes_record(roster=roster)} if roster else {})
    return Message(content, dst_node_id=node, message_type=PREPARE)


def reasons(failed: Mapping[str, str], lacks: str = "") -> str:
    """The first three reasons, each with those who have it; and what is lacking by no client's doing."""
    alike: dict[str, list[str]] = {}
    for name, reason in sorted(failed.items()):
        alike.setdefault(reason.rstrip("."), []).append(name)
    said = [f"{some(names)}: {reason}." for reason, names in list(alike.items())[:3]]
    return " ".join([*said, *([f"Also, {lacks.rstrip('.')}."] if lacks else [])])
