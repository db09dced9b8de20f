"""A round under secure aggregation: the trips around training, group by group, over any grid.

The protocol is ``privacy.secagg``; here its messages travel. A round's cohort is one group or
several, each with a slot of its own, and all groups take each trip together:

    prekey (only who has not sent one) -> train and upload -> confirm -> reveal (and next prekeys)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from flwr.app import Message, MetricRecord, RecordDict

from ..client_level import server_noise
from ..encryption import groups_of
from ..errors import MessageError, ProtocolError, RoundFailed, TooFewMembers
from ..learning.metrics import total
from ..messages import (
    ASSIGNMENT,
    COMMIT,
    CONFIRM,
    NONCE,
    PREKEY,
    REVEAL,
    SECAGG,
    TRAIN,
    WEIGHT,
    bytes_of,
    only_arrays,
    pieces_of,
    request_digest,
    to_array_record,
    to_arrays,
    to_bytes_record,
)
from ..privacy.client_noise import ServerNoise
from ..privacy.secagg.aggregator import Aggregator, Purpose
from ..privacy.secagg.messages import PrekeyReply
from ..vector import Content, Reading
from .collect import Collection, TooFew
from .exchange import Stage, ask, assignment_of
from .replies import scalars_check
from .run import Run

_CIRCLES = 5
"""Slots in which a large group may try to order its circle, each with those who answered before."""

_STAGES = {PREKEY: "keys", CONFIRM: "confirm", REVEAL: "open"}
"""What people read while a short trip lasts."""


class SecureCollection(Collection):
    """Yields one reply for each group, which says its sum and nothing else."""

    def __init__(
        self,
        run: Run,
        kind: str,
        stage: Stage,
        minimum: int,
        requests: Iterable[Message],
        following: Iterable[str] | None,
    ) -> None:
        """`following` are the clients of the next sum, whose prekeys ride on the reveals."""
        super().__init__(run, kind, stage, minimum)
        assert run.sums is not None, "a run with encryption has a roster"
        self._sums = run.sums
        self._requests = {run.names[m.metadata.dst_node_id]: m for m in requests}
        self._following = following
        job, shapes = run.plan.job, {name: array.shape for name, array in run.arrays.items()}
        self._content = Content(job, shapes, kind == TRAIN, self.tests)

    def __iter__(self) -> Iterator[Message]:
        try:
            groups = self._groups()
            self._prekeys(groups)
            self._uploads(groups)
            if groups[0].confirms:
                self._confirm(groups)
            readings = self._open(groups)
        except (ProtocolError, MessageError) as error:  # given up, or what was opened is no sum
            peer = error.peer if isinstance(error, ProtocolError) else "the cohort"
            self.failed.setdefault(peer, str(error))
            self._sums.upcoming.clear()
            raise TooFew from None
        self._add_up(readings)
        first = [group.survivors[0] for group in groups]
        del groups  # and with them the sums
        while readings:
            reading, request = readings.pop(0), self._requests[first.pop(0)]
            content = RecordDict({"metrics": MetricRecord({WEIGHT: reading.weight})})
            if self._content.train:
                content["arrays"] = to_array_record(reading.mean)
            del reading
            yield Message(content, reply_to=request)
            del content

    def _groups(self) -> list[Aggregator]:
        """A slot for each group: one whose prekeys are here already, or a new one."""
        groups = []
        members_of = groups_of(sorted(self._requests), self.run.plan.job)
        ready, self._sums.upcoming = self._sums.upcoming, {}
        for members in members_of:
            known = ready.get(tuple(members))
            groups.append(known or self._sums.open_slot(self.run.id, members, self._least(members)))
        return groups

    def _least(self, members: list[str]) -> int:
        """A group alone must have the round's minimum; of several, all together."""
        return self.minimum if len(members) == len(self._requests) else 0

    def _prekeys(self, groups: list[Aggregator]) -> None:
        begun = time.monotonic()
        groups[:] = [self._with_circle(g) if g.needs_nonces else g for g in groups]
        asks = {
            name: (group, group.prekey_request.to_bytes())
            for group in groups
            for name in group.slot.cohort
            if name not in group.members
        }

        def take(group: Aggregator, name: str, reply: bytes) -> None:
            group.add_prekey(name, PrekeyReply.from_bytes(reply, name))

        self._send(PREKEY, asks, take)
        if sum(len(group.members) for group in groups) < self.minimum:
            raise TooFew  # before anybody trains and is charged for it
        context = self._context()
        for group in groups:
            group.close_prekeys(
                Purpose(
                    context,
                    self._content.layout,
                    self.run.plan.weight_cap,
                    self.run.plan.job.encryption.clip,
                )
            )
        self.seconds["prekey"] = round(time.monotonic() - begun, 3)

    def _with_circle(self, group: Aggregator) -> Aggregator:
        """Let a large group order its circle; without those who do not answer, in a slot of its own."""
        for _ in range(_CIRCLES):
            self._trip(COMMIT, group, group.commit_request(), Aggregator.add_commit)
            answered = group.committed
            if len(answered) == len(group.slot.cohort):
                self._trip(NONCE, group, group.nonce_request(), Aggregator.add_nonce)
                answered = group.shown
            if len(answered) == len(group.slot.cohort):
                return group
            group = self._sums.open_slot(self.run.id, answered)
            if not group.needs_nonces:
                return group
        raise TooFewMembers("nonce", "the cohort", "its members did not all answer in any slot")

    def _context(self) -> bytes:
        """The digest of what all clients are asked to compute."""
        name, request = next(iter(self._requests.items()))
        assignment = assignment_of(self.run, self.stage, name)
        content = RecordDict({**request.content, ASSIGNMENT: assignment.to_record()})
        return request_digest(self.kind, content, to_arrays(only_arrays(content)))

    def _uploads(self, groups: list[Aggregator]) -> None:
        group_of = {name: group for group in groups for name in group.members}
        for name, group in group_of.items():
            message = self._requests[name]
            record = to_bytes_record(request=group.upload_request(name))
            message.content = RecordDict({**message.content, SECAGG: record})
        names, check = self.run.names, scalars_check(self.run)

        def take(reply: Message) -> None:
            check(reply)
            name = names[reply.metadata.src_node_id]
            pieces = pieces_of(reply.content, "vector")
            if any(len(data) % 4 for data in pieces):
                raise ProtocolError("vector", name, "its vector is not made of words")
            words = [np.frombuffer(data, dtype="<u4") for data in pieces]
            group_of[name].add_upload(name, bytes_of(reply.content, "reply"), *words)

        self.begin(len(group_of))
        messages = [self._requests[name] for name in group_of]
        exchange = ask(self.run, messages, names, self.stage, take)
        for reply in exchange:
            self.note(names[reply.metadata.src_node_id], reply)
            del reply  # as large as the model, and in the sum by now
        self.absorb(exchange)
        self.answered = sorted(exchange.answered)
        if len(self.answered) < self.minimum:
            raise TooFew
        for group in groups:
            group.close_uploads()

    def _confirm(self, groups: list[Aggregator]) -> None:
        begun = time.monotonic()
        asks = {
            name: (group, request)
            for group in groups
            for request in [group.confirm_request()]
            for name in group.survivors
        }
        self._send(CONFIRM, asks, Aggregator.add_confirmation)
        for group in groups:
            group.close_confirmations()
        self.seconds["confirm"] = round(time.monotonic() - begun, 3)

    def _open(self, groups: list[Aggregator]) -> list[Reading]:
        begun = time.monotonic()
        upcoming = self._upcoming()
        next_of = {name: slot for slot in upcoming for name in slot.slot.cohort}
        asks = {}
        for group in groups:
            for name in group.revealers:
                following = next_of.get(name)
                request = following.prekey_request if following else None
                asks[name] = (group, group.reveal_request(name, request))

        def take(group: Aggregator, name: str, reply: bytes) -> None:
            prekey = group.add_reveal(name, reply)
            if prekey is not None and name in next_of:
                next_of[name].add_prekey(name, prekey)

        self._send(REVEAL, asks, take)
        readings = []
        for group in groups:
            try:
                readings.append(self._read(group))
            finally:
                self.failed |= group.faults
                self._sums.excluded |= group.spoilers
        self._sums.upcoming = {slot.slot.cohort: slot for slot in upcoming}
        self.seconds["reveal"] = round(time.monotonic() - begun, 3)
        return readings

    def _read(self, group: Aggregator) -> Reading:
        """The opened sum of a group; a ``ProtocolError`` where it cannot be of these members."""
        reading = self._content.read(group.open(), self._noise())
        planned = sum(self.run.plan.by_name[name].weight for name in group.survivors)
        if reading.weight != planned:
            raise ProtocolError(
                "sum", "the cohort", f"it weighs {reading.weight}, by the plan {planned}"
            )
        if reading.unable >= reading.members:
            # Another attempt would fare no better, and cost the owners' budgets again.
            raise RoundFailed(
                f"Round {self.stage.round}: no client could train or test the model. It may have "
                "diverged: lower training.learning_rate. The clients' own logs say more. Round "
                f"{self.run.round} is saved."
            )
        return reading

    def _noise(self) -> ServerNoise | None:
        """What this server adds to a sum of updates before anything else is done with it."""
        run, stage = self.run, self.stage
        job = run.plan.job
        if not self._content.train or not job.per_client or job.noised_by_clients:
            return None
        stream = run.secrets(f"server/{stage.round}/{stage.attempt}")
        return server_noise(job, run.clipping_norm, stream)

    def _upcoming(self) -> list[Aggregator]:
        """Slots of the next sum, opened before their time, so that prekeys ride on the reveals."""
        if self._following is None:
            return []
        slots = []
        for members in groups_of(sorted(self._following), self.run.plan.job):
            try:
                slot = self._sums.open_slot(self.run.id, members)
            except TooFewMembers:
                return []  # the next round will say so itself
            if not slot.needs_nonces:
                slots.append(slot)
        return slots

    def _add_up(self, readings: list[Reading]) -> None:
        self.clipped = sum(reading.clipped for reading in readings)
        self.unable = sum(reading.unable for reading in readings)
        within = [reading.within for reading in readings if reading.within is not None]
        self.within = sum(within) / len(within) if within else None
        losses = [reading.loss for reading in readings if reading.loss is not None]
        self.loss = sum(losses) / len(losses) if losses else None
        counts = {str(n): r.counts for n, r in enumerate(readings) if r.counts is not None}
        if counts:
            self.counts = {"": total(counts)}

    def _trip(
        self,
        kind: str,
        group: Aggregator,
        request: bytes,
        take: Callable[[Aggregator, str, bytes], None],
    ) -> None:
        self._send(kind, dict.fromkeys(group.slot.cohort, (group, request)), take)

    def _send(
        self,
        kind: str,
        asks: Mapping[str, tuple[Aggregator, bytes]],
        take: Callable[[Aggregator, str, bytes], None],
    ) -> None:
        """One short trip: each client's request, and what to do with its reply."""
        if not asks:
            return
        names, nodes = self.run.names, self.run.nodes

        def check(reply: Message) -> None:
            name = names[reply.metadata.src_node_id]
            take(asks[name][0], name, bytes_of(reply.content, "reply"))

        messages = [
            Message(
                RecordDict({SECAGG: to_bytes_record(request=request)}),
                dst_node_id=nodes[name],
                message_type=kind,
            )
            for name, (_, request) in asks.items()
        ]
        if kind in _STAGES:
            self.run.listener.started(f"{_STAGES[kind]} {self.stage.round}", len(asks))
        deadline = self.run.plan.job.encryption.deadline
        exchange = ask(self.run, messages, names, self.stage, check, deadline)
        for _ in exchange:
            pass
        self.absorb(exchange)
