"""What the clients of an asynchronous job train between machines, while sums are made of what others have.

A client is asked to train as soon as it may begin, and answers once its update is kept (``client.buffered``).
If it is silent beyond the deadline, or was away, it is asked for the same version again; if that would be too
old for a sum, for the newest. Another process asks all of them again: who has trained answers at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from flwr.app import ConfigRecord, Message

from ..errors import Interrupted
from ..planning.buffered import Buffer
from ..wire.arrays import to_array_record
from ..wire.requests import OUT_OF_RANGE, REFUSED, TRAIN
from .collect import Collection
from .exchange import CohortGrid, Exchange, Stage, assigned
from .replies import scalars_check
from .run import Run

FOR_GOOD = (REFUSED, OUT_OF_RANGE)
"""Error codes after which a client is asked nothing more."""
_POLL_SECONDS = 0.2
_LOOK_SECONDS = 2.0
"""Between two looks at who is connected."""
_AGAIN_SECONDS = 10.0
"""Until a client that could not train, or died of a request and of its repetition, is asked again."""


def requests_to_train(run: Run, versions: Mapping[str, int]) -> list[Message]:
    """One request for each of these clients, to train the version that it began with."""
    names, messages = run.names, []
    for version in sorted(set(versions.values())):
        nodes = [run.nodes[name] for name, its in versions.items() if its == version]
        arrays = run.arrays if version == run.round else run.versions[version]
        view, stage = CohortGrid(run.grid, nodes), Stage(version + 1)
        requests = run.strategy.configure_train(
            version + 1, to_array_record(arrays), ConfigRecord(), view
        )
        once: dict[int, object] = {}
        messages += [assigned(run, message, names, stage, once) for message in requests]  # type: ignore[arg-type]
    return messages


class Trainings:
    """Who was asked to train, and who has."""

    def __init__(self, run: Run, buffer: Buffer) -> None:
        self._run, self._buffer = run, buffer
        self._asked: dict[str, Exchange] = {}
        """By client that an answer is awaited of."""
        self._ready: set[str] = set()
        """Clients whose update of the version that they began with is kept."""
        resumed = run.buffered is not None
        self.masked = {n: f.version for n, f in buffer.flights.items()} if resumed else {}
        """By client the version of an update that was in a sum which came to nothing, or may have been before
        this process began."""
        self._back: set[str] = set()
        """Clients that came back since they were asked, and may not know of it."""
        self._not_before: dict[str, float] = {}
        self._since: dict[str, float] = {}
        """When each client was first asked for the version that it trains."""
        self.collection = self._collecting()
        """What trainings cost, and told, that no event says yet."""
        self._began = run.clock.now() - buffer.now
        self._looked = -_LOOK_SECONDS
        self._online: set[str] = set()

    def gather(self, wanted: Sequence[str]) -> list[str]:
        """Wait until the members of the next sum have trained; these, sorted, or none if too few do in time.

        wanted: of a sum that is made again; others may take their place. Raises ``Interrupted``.
        """
        run, buffer, clock = self._run, self._buffer, self._run.clock
        end = clock.now() + run.plan.job.cohort.deadline
        while True:
            self.attend()
            if not set(wanted) <= buffer.flights.keys():
                wanted = []
            members = sorted(wanted) or buffer.next_members()
            if members and self.are_ready(members):
                return members
            if run.should_stop():
                raise Interrupted(run.stopped)
            if clock.now() >= end:
                if not self.drop_late(members):
                    return []
                wanted = []
                continue
            clock.wait_until(clock.now() + _POLL_SECONDS)

    def attend(self) -> None:
        """Hear who has trained, and ask those who may begin; it waits for nobody."""
        self._look()
        self._take()
        self._ask()

    def are_ready(self, members: Iterable[str]) -> bool:
        """Whether the update of each of these is kept."""
        return self._ready.issuperset(members)

    def drop_late(self, members: Iterable[str], seconds: float = 0.0) -> bool:
        """Wait no more for those of the members of a sum who have not trained for so long; whether there are
        some. They are asked for the newest version."""
        now = self._run.clock.now()
        late = {
            name
            for name in set(members) - self._ready
            if now - self._since.get(name, now) >= seconds
        }
        self._drop(late)
        return bool(late)

    def finish(self) -> None:
        """Wait until every connected client has answered or timed out.

        If they take long, they are asked again, at twice the time each: an agent that was started again so
        quickly that nobody saw it go does not know that it was asked.
        """
        run, patience = self._run, self._run.plan.job.encryption.deadline
        again = run.clock.now() + patience
        while True:
            self._look()
            self._take()
            late = self._asked.keys() - self.away
            if run.should_stop() or not late:
                return
            if run.clock.now() >= again:
                self._ask_again(late)
                patience *= 2
                again = run.clock.now() + patience
            run.clock.wait_until(run.clock.now() + _POLL_SECONDS)

    def summed(self, members: Iterable[str]) -> None:
        """These were in a sum, or could not be: what they have is asked for anew."""
        self._ready -= set(members)
        for name in members:
            self._since.pop(name, None)

    def told(self) -> Collection:
        """What trainings cost, and told, since this was last asked."""
        found, self.collection = self.collection, self._collecting()
        return found

    def _collecting(self) -> Collection:
        return Collection(self._run, TRAIN, Stage(self._run.round + 1), 0)

    @property
    def away(self) -> set[str]:
        """Whom no sum waits for; nobody if the virtual clock says who is in it."""
        if self._run.ahead == "virtual":
            return set()
        return self._buffer.flights.keys() - self._online

    def _look(self) -> None:
        """See who is connected, now and then: who came back trains again."""
        run, buffer, now = self._run, self._buffer, self._run.clock.now()
        if now < self._looked + _LOOK_SECONDS:
            return
        self._looked = now
        nodes = set(run.grid.get_node_ids())
        before, self._online = self._online, {n for n in run.candidates if run.nodes[n] in nodes}
        self._drop(buffer.flights.keys() - set(run.candidates))
        # What they train would be too old for any sum that may still begin (``Buffer.open``).
        self._drop((self._asked.keys() | self._ready) - buffer.flights.keys())
        # Nobody waits for them until their versions are too old.
        self._drop(n for n in self.away - buffer.summing if buffer.is_late(n))
        buffer.begin(self._online - buffer.flights.keys())
        self._back = (self._back | self._online - before) & self._asked.keys() & self._online
        due = {name for name in self._back if now >= self._not_before.get(name, now)}
        self._ask_again(due)
        self._back -= due
        self._not_before |= dict.fromkeys(due, now + _AGAIN_SECONDS)

    def _ask(self) -> None:
        """Have those train who may begin, and are connected."""
        run, flights, now = self._run, self._buffer.flights, self._run.clock.now()
        summing = self._buffer.summing
        versions = {
            name: flight.version
            for name, flight in sorted(flights.items())
            if name in self._online
            and name not in summing
            and name not in self._asked
            and name not in self._ready
            and now >= self._not_before.get(name, now)
        }
        names = run.names
        for message in requests_to_train(run, versions):
            name = names[message.metadata.dst_node_id]
            self._since.setdefault(name, now)
            self._asked[name] = Exchange(
                run.grid,
                [message],
                names,
                run.plan.job.cohort.deadline,
                scalars_check(run),
                clock=run.clock,
            )

    def _ask_again(self, names: Iterable[str]) -> None:
        """Ask these the same once more, in the time that they have left."""
        flights, found = self._buffer.flights, self._run.names
        for message in requests_to_train(self._run, {n: flights[n].version for n in sorted(names)}):
            self._asked[found[message.metadata.dst_node_id]].ask_again([message])

    def _take(self) -> None:
        """The answers that there are by now."""
        for name, exchange in list(self._asked.items()):
            for reply in exchange.arrived():
                self.collection.note(name, reply)
                if name in self._buffer.flights:
                    self._buffer.arrived(name, self._run.clock.now() - self._began)
                    self._ready.add(name)
            if exchange.lasts:
                continue
            exchange.give_up()
            del self._asked[name]
            self.collection.absorb(exchange)
            if exchange.failed:
                self._failed(name, exchange)

    def _failed(self, name: str, exchange: Exchange) -> None:
        if exchange.codes.get(name) in FOR_GOOD:
            self._drop([name])
            self._buffer.leave([name], for_good=True)
        self._not_before[name] = self._run.clock.now() + _AGAIN_SECONDS

    def _drop(self, names: Iterable[str]) -> None:
        """Wait for these no more: when they are asked again, it is for the newest version."""
        for name in set(names):
            self._buffer.leave([name])
            self._asked.pop(name, None)
            self._since.pop(name, None)
            self._ready.discard(name)
