"""Before a job runs between machines: who is there, who takes part, and with how much data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from .. import __version__
from ..clock import Clock, SystemClock
from ..errors import MessageError, PlanRefused, RoundFailed
from ..flower import UNREACHED
from ..job import Job
from ..learning.shaping import other_fixed
from ..planning.facts import ClientFacts
from ..planning.noise import check_delta, private_recipe
from ..planning.terms import Terms
from ..wire.requests import ASSIGNMENT, WAITING, Assignment, Readiness
from .exchange import Exchange, echo_of
from .readiness import prepare_request
from .replies import readiness_of

_AGAIN_SECONDS = 3.0
Tell = Callable[[str, str], None]
"""Called with a member's name and its news: why it does not take part, or ``TAKES_PART``."""
TAKES_PART = "takes part"
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
    roster: Callable[[], bytes]
    """The present signed roster: it may be prolonged while members are asked."""
    heads: Mapping[str, str] = field(default_factory=dict)
    """The ledger heads that members last sent."""
    fixed: str = ""
    """SHA-256 of the adapter's tensors that the job trains nowhere (``learning.shaping``)."""

    def assignment(self) -> Assignment:
        """What is said with the first question; the plan that it needs does not stand yet."""
        return Assignment(
            __version__,
            self.run,
            self.job.to_json(),
            0,
            0,
            1,
            signature=self.signature,
            fixed=self.fixed,
        )


def muster(
    grid: Grid,
    order: Order,
    nodes: dict[str, int],
    wait: float,
    tell: Tell,
    should_stop: Callable[[], bool],
    clock: Clock | None = None,
    grace: float | None = None,
) -> Muster:
    """Ask all members until every one has answered, or `wait` seconds are over.

    nodes: every member's node. Members that are away, owners that have not decided yet, and those that
    do not answer yet are asked again. How long an owner prepares its records follows from how many
    there are, so those that are connected and silent get as long as a round of the job has
    (``cohort.deadline``). Once as many take part as a round needs, those that are not connected are
    waited for for `grace` seconds more (default: `wait`). Raises ``RoundFailed`` if in the end there
    are too few.
    """
    found, clock = Muster(nodes), clock or SystemClock()
    begun = calm = clock.now()
    least = needed_to_begin(order.job, len(nodes))
    for reasons, silent in _asking(grid, order, found, tell, should_stop, clock):
        now, online = clock.now(), set(grid.get_node_ids())
        if len(found.ready) < least or any(nodes[name] in online for name in reasons):
            calm = now
        patience = max(wait, order.job.cohort.deadline) if silent else wait
        if (
            not reasons
            or now - begun >= patience
            or now - calm >= (wait if grace is None else grace)
        ):
            return _enough(found, order.job, reasons)
    return found


def ask_to_join(
    grid: Grid,
    order: Order,
    nodes: dict[str, int],
    seconds: float,
    tell: Tell,
    should_stop: Callable[[], bool],
    clock: Clock | None = None,
) -> Muster:
    """Ask these members whether they join a run in progress; waits as ``muster`` does."""
    found, clock = Muster(nodes), clock or SystemClock()
    begun = clock.now()
    for reasons, silent in _asking(grid, order, found, tell, should_stop, clock):
        patience = max(seconds, order.job.cohort.deadline) if silent else seconds
        if not reasons or clock.now() - begun >= patience:
            break
    return found


def _asking(
    grid: Grid,
    order: Order,
    found: Muster,
    tell: Tell,
    should_stop: Callable[[], bool],
    clock: Clock,
) -> Iterator[tuple[dict[str, str], set[str]]]:
    """Ask those that have not answered, again and again.

    Gives, each time, why some are not ready yet, and which of those are connected and silent.
    """
    nodes = found.nodes
    told: dict[str, str] = {}

    def say(name: str, said: str) -> None:
        if told.get(name) != said:
            told[name] = said
            tell(name, said)

    while not should_stop():
        missing = [name for name in nodes if name not in found.ready and name not in found.refused]
        online = set(grid.get_node_ids())
        present = {n: nodes[n] for n in missing if nodes[n] in online}
        reasons, silent = _ask(grid, order, present, found, clock, say, should_stop)
        if should_stop():
            return
        reasons |= dict.fromkeys((n for n in missing if nodes[n] not in online), "not connected")
        said = {**reasons, **found.refused, **dict.fromkeys(found.ready, TAKES_PART)}
        for name, reason in sorted(said.items()):
            say(name, reason)
        yield reasons, silent
        clock.wait_until(clock.now() + _AGAIN_SECONDS)


def needed_to_begin(job: Job, members: int) -> int:
    """How many of a consortium's members must take part before those that are away are left out."""
    terms = Terms(job, members)
    return max(job.cohort.size or 0, terms.fewest_answers(terms.cohort_size(members)))


def _ask(
    grid: Grid,
    order: Order,
    nodes: dict[str, int],
    found: Muster,
    clock: Clock,
    say: Tell,
    should_stop: Callable[[], bool],
) -> tuple[dict[str, str], set[str]]:
    """Ask these clients; why some of them are not ready yet, and which of those did not answer.

    What one says is said on at once: others may take an hour.
    """
    names = {node: name for name, node in nodes.items()}

    def check(reply: Message) -> None:
        said, admitted = readiness_of(reply), names[reply.metadata.src_node_id]
        if said.name != admitted:
            raise MessageError(f"calls itself {said.name!r:.100}")
        _check_says(said, order.job, order.fixed)

    requests = []
    for node in names:
        request = prepare_request(node, order.roster() if order.job.encrypted else b"")
        record = order.assignment().to_record()
        echo = echo_of(order.heads, names[node])
        request.content = RecordDict({**request.content, ASSIGNMENT: record, **echo})
        requests.append(request)
    if not requests:
        return {}, set()

    def failed(name: str, reason: str) -> None:
        if exchange.codes.get(name) not in UNREACHED:
            say(name, reason)

    exchange = Exchange(
        grid,
        requests,
        names,
        _ANSWER_SECONDS,
        check,
        clock=clock,
        on_failure=failed,
        should_stop=should_stop,
    )
    for reply in exchange:
        readiness = readiness_of(reply)
        found.ready[readiness.name] = readiness
        say(readiness.name, TAKES_PART)
    waiting = {}
    for name, reason in exchange.failed.items():
        if name in exchange.silent:
            waiting[name] = (
                "no answer yet: it may still be preparing its records; its own log says more"
            )
        elif exchange.codes.get(name) in UNREACHED:
            waiting[name] = "not connected"
        elif exchange.codes.get(name) == WAITING:
            waiting[name] = reason
        else:
            found.refused[name] = reason
    return waiting, exchange.silent


def _check_says(said: Readiness, job: Job, fixed: str) -> None:
    """Refuse (``MessageError``) what would make the plan impossible for all; an honest agent refuses it
    itself."""
    if job.model.sha256 not in (None, said.base_model):
        raise MessageError(
            f"has another base model (SHA-256 {said.base_model[:12]}) than the job names"
        )
    if said.fixed != fixed:
        raise MessageError(other_fixed(said.name, said.fixed, fixed))
    if not job.private:
        return
    facts = ClientFacts(said.name, said.size, said.training_share, False, said.holds_out)
    try:
        check_delta(job, said.size, said.name)
        # In how many rounds lots fall on it is not known yet.
        private_recipe(job, facts.training_size, 1 if job.cohort.size else job.training.rounds)
    except PlanRefused as error:
        raise MessageError(str(error)) from None


def _enough(found: Muster, job: Job, reasons: dict[str, str]) -> Muster:
    least = max(job.cohort.minimum or 1, job.encryption.minimum if job.encrypted else 1)
    if len(found.ready) < least:
        why = {**reasons, **found.refused}
        raise RoundFailed(
            f"{len(found.ready)} of {len(found.nodes)} members take part, but {least} are needed. "
            + " ".join(f"{name}: {why[name].rstrip('.')}." for name in sorted(why))
        )
    return found
