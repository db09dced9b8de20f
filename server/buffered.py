"""Asynchronous rounds: who is ready is summed, everybody else trains on (FedBuff, ``strategies.fedbuff``).

Beside ``rounds.train_round``, in whose place the loop calls it. A round makes one new model version:

    next members by the buffer -> train what each of them began with, and keep it -> one sum of what is kept

Who is in a sum follows from the buffer (``planning.buffered``) and the clock that it goes by. In a simulation
it is virtual: a client's training is asked for when its sum is due, and takes as long as it takes; the time
that counts is the one that the job gives its speed. So nothing hangs on how fast this machine is, and a run
that is resumed goes on as if it had never stopped. A rehearsal keeps to that clock, too. Between machines all
clients train while sums are made, and who has trained first is summed first (``overlapping``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict

from ..errors import CannotGoOn, RoundFailed
from ..learning.model import arrays_digest
from ..planning.buffered import Buffer, buffer_of
from ..planning.vector import Reading
from ..privacy.secagg.aggregator import Aggregator
from ..run.events import Evaluation
from ..strategies.fedbuff import UNIT, staleness_weight, weighted
from ..strategies.fold import FixedPointSum
from ..strategies.summed import SummedStrategy
from ..wire.arrays import Arrays, to_array_record, to_arrays
from ..wire.buffered import BUFFER, Listed
from ..wire.requests import ASSIGNMENT, TRAIN, only_arrays, request_digest
from .attempts import Attempt, Attempts
from .collect import Collection, PlainCollection, TooFew
from .ending import failure
from .exchange import CohortGrid, Exchange, Stage, assignment_of
from .readiness import reasons
from .readings import read_sum
from .replies import scalars_check
from .rounds import evaluate, round_event
from .run import Run
from .secure import SecureCollection
from .slots import OpenRound
from .spares import warn_of_spares
from .trainings import FOR_GOOD, Trainings, requests_to_train


def buffered_round(run: Run, round_: int, test: bool) -> Arrays:
    """Make the next model version of the first updates that are ready; the model.

    If it says `test`, all clients test the current model first, in a sum of its own. Raises
    ``RoundFailed`` if too few are left, or too few answer.
    """
    if test and not run.choice.heard(Evaluation, run.round, arrays_digest(run.arrays)):
        evaluate(run)
    buffer = under_way(run)
    attempts = Attempts(run, TRAIN, round_, run.plan.job.cohort.retries + 1)
    failed: dict[str, str] = {}
    for attempt in attempts:
        begun = time.monotonic()
        buffer.leave(buffer.flights.keys() - set(run.candidates))
        if not set(attempt.cohort) <= buffer.flights.keys():
            attempt = replace(attempt, again=None, groups=[])  # somebody of them has left
        if run.trainings is None:
            members = attempt.cohort or buffer.next_members()
        else:
            members = run.trainings.gather(attempt.cohort)
            if members != attempt.cohort:
                attempt = replace(attempt, again=None, groups=[])
        if not members:
            break
        buffer.wait_for(members)
        tried = _Trial(run, buffer, attempt, members)
        model = tried.model(round_)
        event = round_event(
            run,
            tried.collection,
            tried.stage,
            begun,
            model is not None,
            staleness={name: buffer.staleness(name) for name in members},
            virtual=buffer.now,
        )
        run.tell(event)
        warn_of_spares(run, event)
        failed |= tried.collection.failed
        attempts.groups = tried.collection.groups
        if run.trainings is not None:
            run.trainings.summed(members)
        if model is not None:
            run.versions[run.round] = run.arrays
            buffer.summed(members)
            run.versions = {v: run.versions[v] for v in buffer.versions if v <= run.round}
            return model
        buffer.leave(tried.refused, for_good=True)
    raise no_sum(run, buffer, round_, failed)


def no_sum(
    run: Run, buffer: Buffer, round_: int, failed: dict[str, str], lacks: str = ""
) -> RoundFailed:
    """Why no version is made: ``CannotGoOn`` if too few clients are left."""
    left = sum(map(buffer.may_train, run.candidates))
    few = f"{left} clients are left, and a sum needs {buffer.size}"
    why = few if left < buffer.size else "no sum could be made of the clients that were ready"
    kind = CannotGoOn if left < buffer.size else RoundFailed
    return failure(run, f"Round {round_}: {why}. {reasons(failed, lacks)}".rstrip(), kind)


def under_way(run: Run) -> Buffer:
    """The buffer of a run, as it begins or as its checkpoint has it."""
    if run.buffer is None:
        spare = run.plan.job.spare_rounds
        caps = {client.name: client.rounds + spare for client in run.plan.clients}
        run.buffer = buffer_of(run.plan.job, caps, virtual=run.ahead != "arrival")
        assert run.buffer is not None, "the job is asynchronous"
        if run.buffered is not None:
            run.buffer.restore(run.buffered)
        if run.buffer.version != run.round:  # the run's folder was set back (``restored``)
            run.buffer.version, run.versions = run.round, {}
            run.buffer.leave(list(run.buffer.flights))
            run.buffer.begin(run.candidates)
        if run.ahead:
            run.trainings = Trainings(run, run.buffer)
            run.before_test = run.trainings.finish
    return run.buffer


def version_of(run: Run, version: int) -> Arrays:
    """A model that somebody still trains."""
    return run.arrays if version == run.round else run.versions[version]


def requests_to_sum(run: Run, listed: dict[str, tuple[int, str]]) -> list[Message]:
    """One request for each member's kept update; `listed`: the version that it trained, and its digest."""
    return [
        Message(
            RecordDict({BUFFER: Listed(listed).to_record()}),
            dst_node_id=run.nodes[name],
            message_type=TRAIN,
        )
        for name in listed
    ]


def total_of(run: Run, replies: Iterable[Message]) -> FixedPointSum:
    """Of updates, or of what a secure sum opens, folded as they come. Raises what `replies` do."""
    return _strategy(run).total(replies)


def next_model(run: Run, round_: int, total: FixedPointSum) -> Arrays:
    """What the strategy makes of a sum and of the newest model, in its order."""
    view, strategy = CohortGrid(run.grid, []), _strategy(run)  # a sum has its members by now
    strategy.configure_train(round_, to_array_record(run.arrays), ConfigRecord(), view)
    record, _ = strategy.aggregate_total(round_, total)
    assert record is not None, "a buffer has one sum a round"
    found = to_arrays(record, like={name: array.shape for name, array in run.arrays.items()})
    return {name: found[name] for name in run.arrays}


def _strategy(run: Run) -> SummedStrategy:
    assert isinstance(run.strategy, SummedStrategy), "only Umbel's own rules are buffered"
    return run.strategy


class _Trial:
    """One attempt at a sum of these members."""

    def __init__(self, run: Run, buffer: Buffer, attempt: Attempt, members: list[str]) -> None:
        self._run, self._attempt, self._members = run, attempt, members
        self._began = {name: buffer.flights[name].version for name in members}
        self.stage = Stage(run.round + 1, attempt.number)
        self.refused: set[str] = set()
        """Clients that train no more in this run."""
        trainings = run.trainings
        self.collection = trainings.told() if trainings else Collection(run, TRAIN, self.stage, 0)

    def model(self, round_: int) -> Arrays | None:
        """The next model; None if somebody did not train, or too few answered."""
        run, members = self._run, self._members
        ahead = self.collection
        if run.trainings is None:
            self._train(ahead)
            if ahead.failed:
                return None
        models = {v: arrays_digest(version_of(run, v)) for v in set(self._began.values())}
        requests = requests_to_sum(run, {name: (v, models[v]) for name, v in self._began.items()})
        stale = {name: run.round - version for name, version in self._began.items()}
        found: SecureBuffer | PlainBuffer
        if run.plan.job.encrypted:
            minimum = run.plan.minimum
            found = SecureBuffer(run, self.stage, minimum, requests, self._attempt, stale)
        else:
            minimum = run.plan.job.cohort.minimum or len(members)
            found = PlainBuffer(run, self.stage, minimum, requests, stale)
        self.collection = found
        try:
            return next_model(run, round_, total_of(run, found))
        except TooFew:
            return None
        finally:
            found.with_trained(ahead)

    def _train(self, ahead: Collection) -> None:
        """Have each member train the version that it began with, and keep what comes of it."""
        run, names = self._run, self._run.names
        messages = requests_to_train(run, self._began)
        ahead.begin(len(messages))
        exchange = Exchange(
            run.grid,
            messages,
            names,
            run.plan.job.cohort.deadline,
            scalars_check(run),
            lambda done, _: run.listener.advanced(done),
            run.clock,
        )
        for reply in exchange:
            ahead.note(names[reply.metadata.src_node_id], reply)
        ahead.absorb(exchange)
        self.refused = {n for n in exchange.failed if exchange.codes.get(n) in FOR_GOOD}


class _Weighted(Collection):
    """A collection whose updates count as their staleness says, by client."""

    staleness: dict[str, int]

    def with_trained(self, ahead: Collection) -> None:
        """Add up what the members' training cost and told, before the sum."""
        self.bytes_up += ahead.bytes_up
        self.bytes_down += ahead.bytes_down
        failed = ahead.failed | self.failed
        self.failed = {name: why for name, why in failed.items() if name not in self.answered}
        self.heard |= ahead.heard
        self.epsilons = {**ahead.epsilons, **self.epsilons}
        self.heads = {**ahead.heads, **self.heads}
        self.doubted = {**ahead.doubted, **self.doubted}


class SecureBuffer(SecureCollection, _Weighted):
    """One secure sum of kept updates, weighted by their owners."""

    def __init__(
        self,
        run: Run,
        stage: Stage,
        minimum: int,
        requests: Iterable[Message],
        attempt: Attempt,
        staleness: dict[str, int],
        hold: Callable[[OpenRound], None] | None = None,
        masked: bool = False,
    ) -> None:
        """hold: writes down where the sum stands; by default as of the only one in progress.
        masked: whether some of the updates were in a sum before that came to nothing."""
        super().__init__(run, TRAIN, stage, minimum, requests, None, attempt)
        self.staleness = staleness
        self._written, self._masked = hold or super()._hold, masked

    @property
    def repeats(self) -> bool:
        return self._masked or super().repeats

    def _hold(self, now: OpenRound) -> None:
        self._written(now)

    def _context(self) -> bytes:
        name, request = next(iter(self._requests.items()))
        assignment = assignment_of(self.run, self.stage, name)
        content = RecordDict({**request.content, ASSIGNMENT: assignment.to_record()})
        return request_digest(TRAIN, content, {})

    def _read(self, group: Aggregator) -> Reading:
        """The sum over the weights that its members would have if nothing were stale."""
        reading = read_sum(
            self.run,
            self.stage,
            self._content,
            group,
            lambda name: staleness_weight(self.staleness[name]),
        )
        whole = sum(self.run.plan.by_name[name].weight for name in group.survivors)
        share = np.float32(reading.weight / (whole * UNIT))
        mean = {name: array * share for name, array in reading.mean.items()}
        return replace(reading, mean=mean, weight=whole)


class PlainBuffer(PlainCollection, _Weighted):
    """The kept updates themselves, if the job is not encrypted."""

    def __init__(
        self,
        run: Run,
        stage: Stage,
        minimum: int,
        requests: Iterable[Message],
        staleness: dict[str, int],
    ) -> None:
        super().__init__(run, TRAIN, stage, minimum, requests)
        self.staleness = staleness

    def __iter__(self) -> Iterator[Message]:
        names = self.run.names
        for reply in super().__iter__():
            stale = self.staleness[names[reply.metadata.src_node_id]]
            update = weighted(to_arrays(only_arrays(reply.content)), stale)
            reply.content["arrays"] = to_array_record(update)
            yield reply
            del reply, update
