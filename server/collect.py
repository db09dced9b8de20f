"""Collecting a round: what a strategy folds, and what the round's event tells of it.

A collection is iterated once, by the strategy. It yields one reply for each sum that the server may
see: every client's own in ``PlainCollection``, and under secure aggregation one for each group, in
``secure.SecureCollection``. It raises ``TooFew`` after the last where the round does not count.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from flwr.app import Message

from ..learning.metrics import Counts
from ..privacy.secagg.messages import Slot
from ..wire.requests import EVALUATE, TRAIN, only_metrics
from .exchange import Exchange, Stage, ask
from .replies import (
    believed,
    counts_check,
    counts_of,
    head_of,
    scalars_check,
    told_state,
    update_check,
)
from .run import Run


class TooFew(Exception):
    """Fewer usable replies than the round needs."""


@dataclass
class Collection:
    """What is known after the iteration."""

    run: Run
    kind: str
    """``TRAIN``, ``SECOND`` or ``EVALUATE``."""
    stage: Stage
    minimum: int
    """Fewest clients for the round to count."""
    answered: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    lacks: str = ""
    """Why nothing comes of what was collected, if that is no single client's doing; else empty."""
    left_out: list[list[str]] = field(default_factory=list)
    """Groups that cannot be summed, without which the round is made."""
    heard: set[str] = field(default_factory=set)
    """Clients that answered any trip, also of a round that was given up."""
    refused: int = 0
    out_of_range: int = 0
    """Clients that refused because of the weights with which the round would begin."""
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each trip besides the training itself."""
    epsilons: dict[str, float] = field(default_factory=dict)
    doubted: dict[str, str] = field(default_factory=dict)
    """Clients whose figure contradicts the plan, and how."""
    heads: dict[str, str] = field(default_factory=dict)
    """Sealed heads of the clients' ledgers, if the job spends privacy."""
    loss: float | None = None
    clipped: int = 0
    within: float | None = None
    """Noised share of clients within the clipping norm, where it adapts."""
    unable: int = 0
    """Number of clients that took part but could not train or test; which ones is not known."""
    spoiled: tuple[Slot, list[str]] | None = None
    """A slot whose opened sum cannot come from honest members, and the members in it."""
    named: list[list[str]] = field(default_factory=list)
    """Groups that spoiled such a sum, or refused another sum."""
    counted: dict[str, bytes] = field(default_factory=dict)
    """Whose updates are in the opened sums, each with what shows it (``secagg.counted``), if encrypted."""
    restarted: list[str] = field(default_factory=list)
    """Clients whose own state is another than was counted: they began with the strategy's first."""
    counts: dict[str, Counts] = field(default_factory=dict)
    """Counts of the test by client, or under "" those of all together if only these are visible."""

    @property
    def groups(self) -> list[list[str]]:
        """Who is summed with whom; none if everybody is seen alone."""
        return []

    @property
    def tests(self) -> bool:
        return self.kind == EVALUATE or (self.stage.test and self.kind == TRAIN)

    def __iter__(self) -> Iterator[Message]:
        raise NotImplementedError

    def begin(self, clients: int) -> None:
        """Tell the listener that the clients' own work begins."""
        doing = "evaluate" if self.kind == EVALUATE else "train"
        self.run.listener.started(f"{doing} {self.stage.round}", clients)

    def absorb(self, exchange: Exchange) -> None:
        """Add up what a trip cost, and who failed in it; the first reason of a client counts.

        Who answers when it is asked again has not failed.
        """
        failed = exchange.failed | self.failed
        self.failed = {n: reason for n, reason in failed.items() if n not in exchange.answered}
        self.heard |= set(exchange.answered)
        self.refused += exchange.refused
        self.out_of_range += exchange.out_of_range
        self.bytes_up += exchange.bytes_up
        self.bytes_down += exchange.bytes_down

    def note(self, name: str, reply: Message) -> None:
        """Keep what a reply says of its client's ledger."""
        told = only_metrics(reply.content).get("epsilon")
        if told is not None and self.run.plan.job.private:
            epsilon, doubt = believed(self.run.plan, name, told)
            self.epsilons[name] = epsilon
            if doubt:
                self.doubted[name] = doubt
        own = told_state(reply)
        known, _ = self.run.counted.get(name, (0, b""))
        if own is not None and own != known:
            self.restarted.append(name)
        head = head_of(reply)
        if head is not None and self.run.plan.job.private:
            self.heads[name] = head


class PlainCollection(Collection):
    """Everybody's reply, readable by the server."""

    def __init__(
        self, run: Run, kind: str, stage: Stage, minimum: int, requests: Iterable[Message]
    ) -> None:
        super().__init__(run, kind, stage, minimum)
        self._requests = requests

    def __iter__(self) -> Iterator[Message]:
        names, losses = self.run.names, []
        requests = list(self._requests)
        self.begin(len(requests))
        exchange = ask(self.run, requests, names, self.stage, self._check)
        for reply in exchange:
            name = names[reply.metadata.src_node_id]
            self.note(name, reply)
            metrics = only_metrics(reply.content)
            if self.tests:
                self.counts[name] = counts_of(self.run, reply)
                del metrics["counts"]
            if "loss" in metrics:
                losses.append(float(metrics["loss"]))  # type: ignore[arg-type]
            yield reply
            del reply  # as large as the model: it is let go of before the next one comes
        self.answered = sorted(exchange.answered)
        self.counted = dict.fromkeys(self.answered, b"")
        self.loss = math.fsum(losses) / len(losses) if losses else None
        self.absorb(exchange)
        if len(self.answered) < self.minimum:
            raise TooFew

    def _check(self, reply: Message) -> None:
        if self.kind != EVALUATE:
            update_check(self.run, self.run.summed_by(self.kind, self.stage.round))(reply)
        else:
            scalars_check(self.run)(reply)
        if self.tests:
            counts_check(self.run)(reply)
