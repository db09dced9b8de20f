"""The trips of secure aggregation over a grid: each client's request, and who is asked again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from flwr.app import Message, RecordDict

from ..errors import TooFewMembers
from ..privacy.secagg.aggregator import Aggregator
from ..wire.packing import SECAGG, bytes_of, to_bytes_record
from ..wire.requests import COMMIT, CONFIRM, NONCE, OUT_OF_RANGE, PREKEY, REFUSED, REVEAL, WAITING
from .collect import Collection
from .exchange import Exchange, ask
from .sums import SecureSums

Take = Callable[[Aggregator, str, bytes], None]

_CIRCLES = 5
"""Slots in which a large group may at most try to order its circle, each with those who answered before."""

_STAGES = {PREKEY: "keys", CONFIRM: "confirm", REVEAL: "open"}
"""What people read during a short trip."""


class SecureTrips(Collection):
    """A collection that can send each trip of a slot, and send it again.

    The very same request brings the same answer, from the disk if need be. So where a trip brought
    too little, those who did not answer are asked once more before the slot is given up: a client that
    died after its upload was on the disk, or whose reply was lost, costs nobody a round.
    """

    _sums: SecureSums

    @property
    def repeats(self) -> bool:
        """Whether members may have masked in an earlier slot what is summed here."""
        return self.stage.attempt > 0

    def with_circle(self, group: Aggregator) -> Aggregator:
        """Let a large group order its circle; without those who do not answer, in a slot of its own."""
        for _ in range(_CIRCLES):
            cohort = group.slot.cohort
            self._trip(COMMIT, group, group.commit_request(), Aggregator.add_commit)
            answered = group.committed
            if len(answered) == len(cohort):
                self._trip(NONCE, group, group.nonce_request(), Aggregator.add_nonce)
                answered = group.shown
            if len(answered) == len(cohort):
                return group
            group = self._sums.open_slot(self.run.id, answered)
            if not group.needs_nonces:
                return group
        raise TooFewMembers("nonce", "the cohort", "not all members answered, in any of the slots")

    def _trip(self, kind: str, group: Aggregator, request: bytes, take: Take) -> None:
        self.send(kind, dict.fromkeys(group.slot.cohort, (group, request)), take)

    def send(
        self,
        kind: str,
        asks: Mapping[str, tuple[Aggregator, bytes]],
        take: Take,
        enough: Callable[[], bool] = lambda: True,
    ) -> None:
        """One short trip: each client's request, and what to do with its reply."""
        if not asks:
            return
        names, nodes = self.run.names, self.run.nodes

        def check(reply: Message) -> None:
            name = names[reply.metadata.src_node_id]
            take(asks[name][0], name, bytes_of(reply.content, "reply"))

        if kind in _STAGES:
            self.run.listener.started(f"{_STAGES[kind]} {self.stage.round}", len(asks))
        deadline = self.run.plan.job.encryption.deadline
        wanted: Iterable[str] = asks
        for _ in range(2):
            messages = [
                Message(
                    RecordDict({SECAGG: to_bytes_record(request=asks[name][1])}),
                    dst_node_id=nodes[name],
                    message_type=kind,
                )
                for name in wanted
            ]
            exchange = ask(self.run, messages, names, self.stage, check, deadline)
            for _reply in exchange:
                pass
            self.absorb(exchange)
            wanted = [] if enough() else self.may_answer_yet(exchange, wanted)
            if not wanted:
                break

    def may_answer_yet(self, exchange: Exchange, asked: Iterable[str]) -> list[str]:
        """Those who did not answer, and neither refused nor are gone."""
        online = set(self.run.grid.get_node_ids())
        return [
            name
            for name in asked
            if name not in exchange.answered
            and exchange.codes.get(name) not in (REFUSED, WAITING, OUT_OF_RANGE)
            and self.run.nodes[name] in online
        ]
