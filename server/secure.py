"""A round under secure aggregation: the trips around training, group by group, over any grid.

The protocol is ``privacy.secagg``; here its messages travel. A round's cohort is one group or
several, each with a slot of its own, and all groups take each trip together:

    prekey (only who has not sent one) -> train and upload -> confirm -> reveal (and next prekeys)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from flwr.app import Message, MetricRecord, RecordDict

from ..errors import MessageError, ProtocolError, TooFewMembers
from ..planning.cohorts import groups_of
from ..planning.vector import Content, Reading
from ..privacy.secagg.aggregator import Aggregator
from ..privacy.secagg.collecting import Purpose
from ..privacy.secagg.messages import Naming, PrekeyReply, Signed, Slot
from ..privacy.secagg.repeats import digest_of_groups
from ..wire.arrays import to_array_record, to_arrays
from ..wire.packing import SECAGG, bytes_of, pieces_of, to_bytes_record
from ..wire.requests import (
    ASKED,
    ASSIGNMENT,
    CONFIRM,
    EVALUATE,
    PREKEY,
    REVEAL,
    SECOND,
    TRAIN,
    WEIGHT,
    all_sent,
    beside_of,
    only_arrays,
    request_digest,
)
from .attempts import Attempt
from .collect import TooFew
from .exchange import Stage, ask, assignment_of, same_again
from .readings import add_up, read_sum
from .replies import scalars_check
from .run import Run
from .slots import OpenRound, OpenSlot, as_it_stands
from .trips import SecureTrips

Trip = Literal["members", "survivors", "confirmed"]
"""By the list that ends with it."""


class SecureCollection(SecureTrips):
    """Yields one reply for each group, which says its sum and nothing else."""

    def __init__(
        self,
        run: Run,
        kind: str,
        stage: Stage,
        minimum: int,
        requests: Iterable[Message],
        following: Iterable[str] | None,
        attempt: Attempt,
    ) -> None:
        """`following` are the clients of the next sum, whose prekeys ride on the reveals."""
        super().__init__(run, kind, stage, minimum)
        assert run.sums is not None, "a run with encryption has a roster"
        self._sums = run.sums
        self._requests = {run.names[m.metadata.dst_node_id]: m for m in requests}
        self._following, self._again = following, attempt.again
        self._signed: dict[Slot, tuple[Signed, ...]] = {}
        self._naming = attempt.refused
        self.left_out = list(attempt.again.left_out) if attempt.again else []
        self._groups_of = attempt.groups or groups_of(sorted(self._requests), run.plan.job)
        channels = run.summed_by(kind, stage.round)
        self._content = Content(run.plan.terms, channels, kind != EVALUATE, self.tests)

    def __iter__(self) -> Iterator[Message]:
        groups: list[Aggregator] = []
        try:
            groups += self._groups()
            self._prekeys(groups)
            self._uploads(groups)
            if groups[0].confirms:
                self._confirm(groups)
            readings = self._open(groups)
        except (ProtocolError, MessageError) as error:  # given up, or what was opened is no sum
            if isinstance(error, ProtocolError) and error.peer in self._requests:
                self.failed.setdefault(error.peer, str(error))
            else:
                self.lacks = self.lacks or f"the sum was given up: {error}"
            self._sums.upcoming.clear()
            if len(groups) == 1 and isinstance(error, ProtocolError) and error.rule == "sum":
                self.spoiled = groups[0].slot, groups[0].survivors
            raise TooFew from None
        add_up(self, readings)
        if self.kind == TRAIN:
            for group in groups:
                self.counted |= dict.fromkeys(group.survivors, group.proof())
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
        ready, self._sums.upcoming = self._sums.upcoming, {}
        if self._again:
            return [self._reopened(slot) for slot in self._again.slots]
        for members in self._groups_of:
            known = None if self._naming else ready.get(tuple(members))
            groups.append(known or self._open_slot(members))
        return groups

    def _open_slot(self, members: list[str]) -> Aggregator:
        naming = None
        if self._naming:
            naming = Naming(self._naming.digest(), digest_of_groups(self._groups_of))
        return self._sums.open_slot(self.run.id, members, self._least(members), naming)

    def _each(self, groups: list[Aggregator], close: Callable[[Aggregator], None]) -> None:
        """Close a trip of every group. One that fails is left out to name it, or if others are enough."""
        for group in list(groups):
            try:
                close(group)
            except ProtocolError as error:
                if not self._naming and not self._are_enough(len(groups) - 1):
                    raise
                groups.remove(group)
                if self._naming:
                    self._name(group, error)
                else:
                    self._leave_out(group, error)
        if not groups:
            raise TooFew

    def _are_enough(self, groups: int) -> bool:
        """Whether a round can be made of the sums of so many groups, fewer than were dealt."""
        lacks = getattr(self.run.strategy, "lacks", None)
        if self.kind != TRAIN or groups < 1 or lacks is None:
            return False
        if reason := lacks(groups):
            self.lacks = self.lacks or f"the groups that are left are too few: {reason}"
        return not reason

    def _leave_out(self, group: Aggregator, error: ProtocolError) -> None:
        """Count the members of a group that cannot be summed as clients that did not answer."""
        self.left_out.append(list(group.slot.cohort))
        for name in group.slot.cohort:
            self.failed.setdefault(name, f"its group cannot be summed: {error}")

    @property
    def _needed(self) -> int:
        """Fewest clients in all sums together. Each group has its own least; the job may ask for more."""
        return self.run.plan.job.cohort.minimum or 0 if self.left_out else self.minimum

    def _name(self, group: Aggregator, error: ProtocolError) -> None:
        """A group spoiled the sum, or would not be summed once more."""
        members = list(group.slot.cohort)
        self.named.append(members)
        self.failed.setdefault(" or ".join(members), str(error))
        self._sums.suspect(members)

    def _reopened(self, slot: OpenSlot) -> Aggregator:
        return self._sums.reopen(self.run.id, slot.number, slot.cohort, self._least(slot.cohort))

    @property
    def groups(self) -> list[list[str]]:
        """Who was summed with whom."""
        return self._groups_of

    def _left(self, groups: list[Aggregator], which: Trip) -> dict[str, Aggregator]:
        """Each client's group; of slots that are gone on with, who took this trip the first time."""
        found: dict[str, Aggregator] = {}
        before = {slot.number: slot for slot in self._again.slots} if self._again else {}
        for group in groups:
            known = getattr(before[group.slot.number], which) if self._again else []
            found |= dict.fromkeys(known or _asked(group, which), group)
        return found

    def _write_down(self, groups: list[Aggregator], following: Sequence[Aggregator] = ()) -> None:
        """Onto the disk, before what follows from it is sent."""
        if self._naming:
            return  # another process begins with the refused sum
        stage, again = self.stage, self._again
        slots = [as_it_stands(group) for group in groups]
        if again:  # the earlier process had come further
            before = {slot.number: slot for slot in again.slots}
            slots = [slot.after(before[slot.number]) for slot in slots]
        next_ = [as_it_stands(g) for g in following] or (again.following if again else [])
        roster = self._sums.roster.hash.hex()
        now = OpenRound(self.kind, stage.round, stage.attempt, stage.test, slots, roster, next_)
        self._hold(replace(now, left_out=self.left_out))

    def _hold(self, now: OpenRound) -> None:
        now.write(self.run.folder)

    def _least(self, members: list[str]) -> int:
        """A group alone must have the round's minimum; of several, all together.

        Where one is named, and in a second sum, each is summed whole, or what is missing in it could be
        worked out.
        """
        if self._naming or self.kind == SECOND:
            return len(members)
        return self.minimum if len(members) == len(self._requests) else 0

    def _prekeys(self, groups: list[Aggregator]) -> None:
        begun = time.monotonic()
        numbers = [group.slot.number for group in groups]
        groups[:] = [self.with_circle(g) if g.needs_nonces else g for g in groups]
        if self._again and numbers != [group.slot.number for group in groups]:
            raise TooFew
        asks = {
            name: (group, group.prekey_request.to_bytes())
            for name, group in self._left(groups, "members").items()
            if name not in group.members
        }

        def take(group: Aggregator, name: str, reply: bytes) -> None:
            group.add_prekey(name, PrekeyReply.from_bytes(reply, name))

        def enough() -> bool:
            sent = {name for group in groups for name in group.members}
            return sent >= asks.keys() if self._again else len(sent) >= self._needed

        self.send(PREKEY, asks, take, enough)
        if self._again and not enough():
            raise TooFew  # another manifest is another slot
        together = sum(len(group.members) for group in groups)
        if together < self._needed and not self._are_enough(len(groups) - 1):
            raise TooFew  # before anybody trains and is charged for it
        context = self._context()
        purpose = Purpose(
            context, self._content.layout, self.run.plan.weight_cap, self._content.clip
        )
        self._signed = {group.slot: group.prekeys for group in groups}
        self._each(groups, lambda group: group.close_prekeys(purpose))
        if sum(len(group.members) for group in groups) < self._needed:
            raise TooFew
        self.seconds["prekey"] = round(time.monotonic() - begun, 3)

    def _context(self) -> bytes:
        """The digest of what all clients are asked to compute."""
        name, request = next(iter(self._requests.items()))
        assignment = assignment_of(self.run, self.stage, name)
        content = RecordDict({**request.content, ASSIGNMENT: assignment.to_record()})
        heard = self.run.heard if self.kind != EVALUATE else {}
        second = self.run.second(self.stage.round) if self.kind == SECOND else None
        asked = beside_of(content, second[1] if second else {}, ASKED)
        sent = all_sent(to_arrays(only_arrays(content)), beside_of(content, heard), asked)
        return request_digest(self.kind, content, sent)

    def _uploads(self, groups: list[Aggregator]) -> None:
        self._write_down(groups)
        group_of = self._left(groups, "survivors")
        repeat = self.repeats and self.run.plan.job.noised_locally
        # Who signed for the groups is for each of them to see.
        of_others = {
            slot: [s for other, many in self._signed.items() if other != slot for s in many]
            if self._naming
            else []
            for slot in self._signed
        }
        for name, group in group_of.items():
            message = self._requests[name]
            record = to_bytes_record(
                request=group.upload_request(name, repeat, of_others[group.slot])
            )
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
        wanted = list(group_of)
        for _ in range(2):
            messages = [same_again(self._requests[name]) for name in wanted]
            exchange = ask(self.run, messages, names, self.stage, take)
            for reply in exchange:
                self.note(names[reply.metadata.src_node_id], reply)
                del reply  # as large as the model, and in the sum by now
            self.absorb(exchange)
            wanted = [] if self._summed(groups, group_of) else self.may_answer_yet(exchange, wanted)
            if not wanted:
                break
        self.answered = self._uploaded(groups)
        whole = self._naming or self._summed(groups, group_of)
        if not whole and (self._again or not self._are_enough(len(groups) - 1)):
            raise TooFew
        self._each(groups, Aggregator.close_uploads)
        self.answered = self._uploaded(groups)
        if len(self.answered) < self._needed:
            raise TooFew

    def _summed(self, groups: list[Aggregator], asked: Iterable[str]) -> bool:
        """Whether enough uploaded; all of them, where somebody may have confirmed just these."""
        uploaded = self._uploaded(groups)
        if self._again and all(slot.survivors for slot in self._again.slots):
            return set(uploaded) == set(asked)
        return len(uploaded) >= self._needed and all(group.may_close for group in groups)

    def _uploaded(self, groups: list[Aggregator]) -> list[str]:
        return sorted(name for group in groups for name in group.survivors)

    def _confirm(self, groups: list[Aggregator]) -> None:
        begun = time.monotonic()
        self._write_down(groups)
        requests = {id(group): group.confirm_request() for group in groups}
        asks = {n: (g, requests[id(g)]) for n, g in self._left(groups, "confirmed").items()}
        self.send(
            CONFIRM,
            asks,
            Aggregator.add_confirmation,
            lambda: all(group.may_reveal for group in groups),
        )
        self._each(groups, Aggregator.close_confirmations)
        self.seconds["confirm"] = round(time.monotonic() - begun, 3)

    def _open(self, groups: list[Aggregator]) -> list[Reading]:
        begun = time.monotonic()
        upcoming = self._upcoming()
        self._write_down(groups, upcoming)
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

        self.send(REVEAL, asks, take, lambda: all(group.may_open for group in groups))
        readings = []

        def read(group: Aggregator) -> None:
            try:
                readings.append(self._read(group))
            finally:
                self.failed |= group.faults
                self._sums.exclude(group.spoilers)

        self._each(groups, read)
        self.answered = self._uploaded(groups)
        if len(self.answered) < self._needed:
            raise TooFew
        self._sums.upcoming = {slot.slot.cohort: slot for slot in upcoming}
        self.seconds["reveal"] = round(time.monotonic() - begun, 3)
        return readings

    def _read(self, group: Aggregator) -> Reading:
        return read_sum(self.run, self.stage, self._content, group)

    def _upcoming(self) -> list[Aggregator]:
        """Slots of the next sum, opened before their time, so that prekeys ride on the reveals."""
        if self._following is None:
            return []
        slots = []
        if self._again and self._again.following:
            run, following = self.run.id, self._again.following
            return [self._sums.reopen(run, slot.number, slot.cohort) for slot in following]
        for members in groups_of(sorted(self._following), self.run.plan.job):
            try:
                slot = self._sums.open_slot(self.run.id, members)
            except TooFewMembers:
                return []  # the next round will say so itself
            if not slot.needs_nonces:
                slots.append(slot)
        return slots


def _asked(group: Aggregator, which: Trip) -> list[str]:
    """Who takes the trip that ends with this list."""
    if which == "members":
        return list(group.slot.cohort)
    return group.members if which == "survivors" else group.survivors
