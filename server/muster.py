"""Before a job runs between machines: who is there, who takes part, and with how much data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from .. import __version__
from ..clock import Clock, SystemClock
from ..errors import MessageError, RoundFailed
from ..facts import ClientFacts
from ..flower import UNREACHED
from ..job import Job
from ..messages import ASSIGNMENT, WAITING, Assignment, Readiness
from .exchange import Exchange
from .replies import readiness_check, readiness_of
from .rounds import prepare_request

_AGAIN_SECONDS = 3.0
_ANSWER_SECONDS = 300.0


@dataclass
class Muster:
    """The clients of a job: their nodes, and what they said of themselves when it began."""

    nodes: dict[str, int]
    ready: dict[str, Readiness] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def facts(self) -> list[ClientFacts]:
        """For the plan: what the owners declared, and their published sizes."""
        return [
            ClientFacts(name, r.size, r.training_share, False, r.holds_out)
            for name, r in sorted(self.ready.items())
        ]

    def to_json(self) -> dict[str, Any]:
        return {name: asdict(readiness) for name, readiness in sorted(self.ready.items())}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], nodes: dict[str, int]) -> Muster:
        """The clients of a run that goes on: those that it began with, where they still are."""
        ready = {name: Readiness(**said) for name, said in values.items()}
        return cls({name: node for name, node in nodes.items() if name in ready}, ready)


@dataclass(frozen=True)
class Order:
    """A job as the operator gave it out."""

    run: str
    job: Job
    signature: str
    roster: bytes

    def assignment(self) -> Assignment:
        """What is said with the first question; the plan that it needs does not stand yet."""
        return Assignment(
            __version__, self.run, self.job.to_json(), 0, 0, 1, signature=self.signature
        )


def muster(
    grid: Grid,
    order: Order,
    nodes: dict[str, int],
    wait: float,
    tell: Callable[[str], None],
    should_stop: Callable[[], bool],
    clock: Clock | None = None,
) -> Muster:
    """Ask all members until every one has answered, or `wait` seconds are over.

    nodes: every member's node. Members that are away, owners that have not decided yet, and those that
    do not answer yet are asked again. How long an owner prepares its records follows from how many
    there are, so those that are connected and silent get as long as a round of the job has
    (``cohort.deadline``). Raises ``RoundFailed`` if in the end there are too few.
    """
    found, clock = Muster(nodes), clock or SystemClock()
    begun = clock.now()
    told: dict[str, str] = {}
    while not should_stop():
        missing = [name for name in nodes if name not in found.ready and name not in found.refused]
        online = set(grid.get_node_ids())
        present = {n: nodes[n] for n in missing if nodes[n] in online}
        reasons, silent = _ask(grid, order, present, found, clock)
        reasons |= dict.fromkeys((n for n in missing if nodes[n] not in online), "not connected")
        for name, reason in {**reasons, **found.refused}.items():
            if told.get(name) != reason:
                tell(f"{name}: {reason}")
                told[name] = reason
        patience = max(wait, order.job.cohort.deadline) if silent else wait
        if not reasons or clock.now() - begun >= patience:
            return _enough(found, order.job, reasons)
        clock.wait_until(clock.now() + _AGAIN_SECONDS)
    return found


def _ask(
    grid: Grid, order: Order, nodes: dict[str, int], found: Muster, clock: Clock
) -> tuple[dict[str, str], set[str]]:
    """Ask these clients; why some of them are not ready yet, and which of those did not answer."""
    names = {node: name for name, node in nodes.items()}

    def named_as_admitted(reply: Message) -> None:
        readiness_check(reply)
        said, admitted = readiness_of(reply).name, names[reply.metadata.src_node_id]
        if said != admitted:
            raise MessageError(f"calls itself {said!r}")

    requests = []
    for node in names:
        request = prepare_request(node, order.roster if order.job.encrypted else b"")
        record = order.assignment().to_record()
        request.content = RecordDict({**request.content, ASSIGNMENT: record})
        requests.append(request)
    if not requests:
        return {}, set()
    exchange = Exchange(grid, requests, names, _ANSWER_SECONDS, named_as_admitted, clock=clock)
    for reply in exchange:
        readiness = readiness_of(reply)
        found.ready[readiness.name] = readiness
    waiting = {}
    for name, reason in exchange.failed.items():
        if name in exchange.silent:
            waiting[name] = "no answer yet: it may be preparing its records; its own log says more"
        elif exchange.codes.get(name) in UNREACHED:
            waiting[name] = "not connected"
        elif exchange.codes.get(name) == WAITING:
            waiting[name] = reason
        else:
            found.refused[name] = reason
    return waiting, exchange.silent


def _enough(found: Muster, job: Job, reasons: dict[str, str]) -> Muster:
    least = max(job.cohort.minimum or 1, job.encryption.minimum if job.encrypted else 1)
    if len(found.ready) < least:
        why = {**reasons, **found.refused}
        raise RoundFailed(
            f"{len(found.ready)} of {len(found.nodes)} members take part, {least} are needed. "
            + " ".join(f"{name}: {why[name].rstrip('.')}." for name in sorted(why))
        )
    return found
