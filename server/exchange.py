"""Sending a round's requests and taking the answers as they come, until a deadline."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run as FlowerRun

from .. import __version__
from ..clock import Clock, SystemClock
from ..errors import UmbelError
from ..foreign import shown
from ..wire.arrays import packed
from ..wire.packing import SECAGG
from ..wire.requests import (
    ASSIGNMENT,
    COUNTED,
    EVALUATE,
    LEDGER,
    OUT_OF_RANGE,
    REFUSED,
    TRAIN,
    Assignment,
    payload_bytes,
)

if TYPE_CHECKING:
    from .run import Run

_POLL_SECONDS = 0.2
_LOOK_SECONDS = 0.5
_log = logging.getLogger(__name__)
_LONGEST_REASON = 4000
"""At most this many characters of a client's reason for a failure: it goes into events, logs and reports."""

Check = Callable[[Message], None]
"""Raises an ``UmbelError`` for an unusable reply."""


class Exchange:
    """One round trip with a cohort. Iterating yields usable replies in the order of arrival.

    After the iteration `answered` and `failed` say who did what; a client that did not answer in
    time has failed with that reason.
    """

    def __init__(
        self,
        grid: Grid,
        messages: Iterable[Message],
        names: dict[int, str],
        deadline: float,
        check: Check = lambda _: None,
        on_reply: Callable[[int, int], None] = lambda done, total: None,
        clock: Clock | None = None,
        on_failure: Callable[[str, str], None] = lambda name, reason: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """`on_failure` hears at once, while others are still waited for, whose reply is none, and why.

        Once `should_stop` says so, nobody is waited for any more.
        """
        self.answered: list[str] = []
        self.failed: dict[str, str] = {}
        self.codes: dict[str, int] = {}
        """Error codes of those that answered with one."""
        self.silent: set[str] = set()
        """Clients that failed only because they did not answer."""
        self.refused = 0
        self.out_of_range = 0
        """Clients that refused because of the weights that they were sent."""
        self.bytes_down = self.bytes_up = 0
        self._grid, self._names, self._check, self._on_reply = grid, names, check, on_reply
        self._on_failure, self._should_stop = on_failure, should_stop
        self._clock = clock or SystemClock()
        self._end = self._clock.now() + deadline
        self._waiting: dict[str, str] = {}
        """By the id of a request, who is to answer it."""
        self._requests: defaultdict[str, list[str]] = defaultdict(list)
        """The ids of the requests of each."""
        self._send(messages)
        self._total = len(self._waiting)

    def __iter__(self) -> Iterator[Message]:
        while self.lasts and not self._should_stop():
            before = len(self._waiting)
            yield from self.arrived()
            if self._waiting and len(self._waiting) == before:
                self._clock.wait_until(self._clock.now() + _POLL_SECONDS)
        self.give_up()

    def ask_again(self, messages: Iterable[Message]) -> None:
        """Send those who have not answered yet the same request once more, in the time that is left.

        A request dies with the process that took it. The first answer counts."""
        self._send(messages)

    def _send(self, messages: Iterable[Message]) -> None:
        outgoing = list(messages)
        self.bytes_down += sum(payload_bytes(message.content) for message in outgoing)
        ids = self._grid.push_messages(outgoing)
        for message_id, message in zip(ids, outgoing, strict=True):
            name = self._names[message.metadata.dst_node_id]
            self._waiting[message_id] = name
            self._requests[name].append(message_id)

    @property
    def lasts(self) -> bool:
        """Whether answers are still waited for."""
        return bool(self._waiting) and self._clock.now() < self._end

    def arrived(self) -> Iterator[Message]:
        """The usable replies that are there by now; it waits for none."""
        # One at a time where the grid can: a reply may be as large as the model.
        for reply in self._grid.pull_messages(list(self._waiting)):
            # An error reply may carry another sender's id, so the request's id tells who it is.
            name = self._waiting.get(reply.metadata.reply_to_message_id)
            if name is not None:
                for request in self._requests[name]:
                    del self._waiting[request]
                if self._accept(name, reply):
                    yield reply
            del reply

    def give_up(self) -> None:
        """Wait for nobody any more."""
        self.silent = set(self._waiting.values())
        self._waiting = {}
        for name in self.silent:
            self.failed[name] = "no answer before the deadline"

    def _accept(self, name: str, reply: Message) -> bool:
        if not reply.has_error() and self._names.get(reply.metadata.src_node_id) != name:
            self.failed[name] = "another node answered in its place"
            return False
        if reply.has_error():
            self.failed[name] = _told(reply.error.reason or "no reason given")
            self.codes[name] = reply.error.code
            self.out_of_range += reply.error.code == OUT_OF_RANGE
            self.refused += reply.error.code in (REFUSED, OUT_OF_RANGE)
            self._on_failure(name, self.failed[name])
            return False
        try:
            size = payload_bytes(reply.content)
            self._check(reply)
        except UmbelError as error:
            self.failed[name] = _told(error)
            self._on_failure(name, self.failed[name])
            return False
        except Exception:
            # A member may send anything, and ends nobody's run but its own part.
            _log.exception("%s: an answer of an unexpected form", name)
            self.failed[name] = "answered in an unexpected form"
            self._on_failure(name, self.failed[name])
            return False
        self.answered.append(name)
        self.bytes_up += size
        self._on_reply(len(self.answered), self._total)
        return True


def _told(reason: object) -> str:
    return shown(reason, longest=_LONGEST_REASON)


@dataclass(frozen=True)
class Stage:
    """Where in a run a request belongs."""

    round: int
    attempt: int = 0
    test: bool = False
    """Whether a train request also asks for a test of the model that it brings."""
    naming: str = ""
    """The groups of which one is to be named, as the assignment says them."""


def ask(
    run: Run,
    requests: Iterable[Message],
    names: dict[int, str],
    stage: Stage,
    check: Check = lambda _: None,
    deadline: float | None = None,
) -> Exchange:
    """Send requests, each with the assignment of its client; `names` tells who is behind a node."""
    once: dict[int, ArrayRecord] = {}
    return Exchange(
        run.grid,
        [assigned(run, message, names, stage, once) for message in requests],
        names,
        deadline or run.plan.job.cohort.deadline,
        check,
        lambda done, _: run.listener.advanced(done),
        run.clock,
    )


def assignment_of(run: Run, stage: Stage, name: str) -> Assignment:
    """What a client is told of the job beside a request."""
    client = run.plan.by_name.get(name)
    return Assignment(
        version=__version__,
        run=run.id,
        job=run.job_json,
        round=stage.round,
        attempt=stage.attempt,
        participations=client.rounds if client else run.plan.job.training.rounds,
        test=stage.test,
        signature=run.signature,
        clipping_norm=run.clipping_norm if run.plan.job.privacy.clipping == "adaptive" else 0.0,
        tests=run.plan.tests,
        naming=stage.naming,
        fixed=run.plan.model.fixed_digest,
        cohort=run.plan.cohort_size,
    )


def echo_of(heads: Mapping[str, str], name: str) -> dict[str, ConfigRecord]:
    """What a client sent of its ledger before: its agent does not go on behind that (``client.echo``)."""
    return {LEDGER: ConfigRecord({"head": heads[name]})} if name in heads else {}


def _counted(run: Run, name: str) -> dict[str, ConfigRecord]:
    """Which update of a client the newest opened sum with one has: that makes its next state current."""
    if not run.owners_keep:
        return {}
    round_, shown = run.counted.get(name, (0, b""))
    return {COUNTED: ConfigRecord({"round": round_, "shown": shown})}


def assigned(
    run: Run,
    message: Message,
    names: dict[int, str],
    stage: Stage,
    once: dict[int, ArrayRecord],
) -> Message:
    """The request with its assignment; `once` holds the models that were packed, by the original."""
    name = names[message.metadata.dst_node_id]
    assignment = assignment_of(run, stage, name)
    echo = echo_of(run.heads or {}, name)
    kind = message.metadata.message_type
    if kind == TRAIN or (kind == EVALUATE and run.plan.model.personal):
        echo |= _counted(run, name)
    content = RecordDict({**message.content, ASSIGNMENT: assignment.to_record(), **echo})
    for key, record in content.array_records.items():
        if key != SECAGG:
            if id(record) not in once:
                once[id(record)] = packed(record)
            content[key] = once[id(record)]
    message.content = content
    return message


def connected(
    grid: Grid,
    nodes: Mapping[str, int],
    least: int,
    wait: float,
    should_stop: Callable[[], bool],
    clock: Clock,
) -> list[str]:
    """The clients whose nodes are connected; waits at most `wait` seconds while they are too few."""
    end = clock.now() + wait
    while True:
        online = set(grid.get_node_ids())
        here = [name for name, node in nodes.items() if node in online]
        if len(here) >= min(least, len(nodes)) or clock.now() >= end or should_stop():
            return here
        clock.wait_until(clock.now() + _LOOK_SECONDS)


def same_again(message: Message) -> Message:
    """A new envelope for the same content: one is sent once."""
    return Message(
        message.content,
        dst_node_id=message.metadata.dst_node_id,
        message_type=message.metadata.message_type,
    )


class CohortGrid(Grid):
    """A grid that shows a strategy only the nodes of the round's cohort."""

    def __init__(self, grid: Grid, nodes: Iterable[int]) -> None:
        self._grid = grid
        self._nodes = list(nodes)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._nodes)

    @property
    def run(self) -> FlowerRun:
        return self._grid.run

    def set_run(self, run: FlowerRun) -> None:
        self._grid.set_run(run)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, *rest: Any, **named: Any
    ) -> Message:
        return self._grid.create_message(content, message_type, dst_node_id, *rest, **named)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return self._grid.send_and_receive(messages, timeout=timeout)
