"""Who is in which sum of an asynchronous job, and when.

``Buffer`` is the rule of FedBuff's buffer (``strategies.fedbuff``) as a value that a checkpoint can hold. The
coordinator goes by it. In a simulation its clock is virtual, so that all can know it, and the plan runs it
dry: the noise of each client is made for the sums that it will be in, and it is asked for no more. Between
machines clients get ready when they do, and noise is made for as many sums as a client may be asked into.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

from ..job import Job
from ..strategies import buffered
from .facts import some


@dataclass(frozen=True)
class Flight:
    """A client that trains, or has: it is ready at a time, in seconds, with an update of this version."""

    version: int
    ready: float | None
    """None: nobody knows yet."""


@dataclass
class Buffer:
    """Who trains which model version, and what is summed next.

    Guarantee: a sum has at least `size` members, none of whose updates is more than `farthest` versions old
    when the next version is made of it, and no client is in more sums than its cap, or in two at once.
    Clients are taken in the order in which they got ready; if at the same time, first who was in fewer sums,
    then by name.

    Several sums may be in progress (``opened``), and any of them may be the next to make a version. Why no
    update gets too old: let F sums be in progress. An update that waits is at most F versions older when the
    next sum begins, one in a sum at most F - 1 when its own is made. The buffer keeps
    staleness + F <= farthest for the former and staleness + F - 1 <= farthest for the latter. A sum that is
    made, or given up, raises a staleness by one at most and lowers F by one; a sum begins only if both still
    hold with F + 1.
    """

    size: int
    """K: updates in a sum, at least."""
    farthest: int
    """The most versions that an update may be old in a sum."""
    seconds: Mapping[str, float] | None
    """How long each client trains, on a virtual clock; None if each says itself when it is ready."""
    caps: Mapping[str, int]
    """How many sums each client may be asked into."""
    version: int = 0
    now: float = 0.0
    """Seconds on the clock, since training began."""
    flights: dict[str, Flight] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)
    """How many sums each client was asked into."""
    gone: set[str] = field(default_factory=set)
    """Clients that take no further part."""
    opened: list[frozenset[str]] = field(default_factory=list)
    """The members of each sum in progress, if several may be. A checkpoint does not have them."""
    apart: Sequence[frozenset[str]] = ()
    """Sets of clients of which as few as possible are in one sum. A checkpoint does not have them."""

    @property
    def summing(self) -> set[str]:
        """Who is in a sum in progress."""
        return {name for members in self.opened for name in members}

    def may_train(self, name: str) -> bool:
        """Whether a client may be asked into one more sum."""
        return name not in self.gone and self.asked.get(name, 0) < self.caps[name]

    def begin(self, names: Collection[str]) -> None:
        """Have clients train the current version from now on, but for those that reached their cap.

        Nobody begins while so many sums are in progress that it could be too old after them.
        """
        if len(self.opened) > self.farthest:
            return
        for name in sorted(names):
            if self.may_train(name):
                ready = None if self.seconds is None else self.now + self.seconds[name]
                self.flights[name] = Flight(self.version, ready)

    def arrived(self, name: str, now: float) -> None:
        """A client says that it is ready, at this time."""
        self.now = max(self.now, now)
        flight = self.flights[name]
        if self.seconds is None and flight.ready is None:
            self.flights[name] = replace(flight, ready=self.now)

    def next_members(self, without: Collection[str] = ()) -> list[str]:
        """The members of the next sum, sorted; none if too few are left, `without` some.

        Beside the first that got ready they are all that would be too far behind after it. None, too, if
        it could leave somebody too far behind who is in a sum in progress; or if a whole set that is to be
        kept apart (``apart``) would be in it, while others are in a sum in progress.
        """
        summing = self.summing
        here = self.flights.keys() - set(without) - summing
        if len(here) < self.size:
            return []
        if any(self.is_late(name, len(self.opened) - 1) for name in summing & self.flights.keys()):
            return []

        def turn(name: str) -> tuple[float, int, str]:
            return self._ready(name), self.asked.get(name, 0), name

        waiting = sorted(here, key=turn)
        due = [name for name in waiting if self.is_late(name)]
        members, others = set(due), [name for name in waiting if name not in due]
        while len(members) < self.size:
            # Of equals the first in turn.
            name = min(others, key=lambda one: self._met(one, members))
            others.remove(name)
            members.add(name)
        if self.opened and any(group <= members for group in self.apart):
            return []
        return sorted(members)

    def _met(self, name: str, members: Collection[str]) -> int:
        """How many of these a client is to be kept apart from, counted by sets."""
        return sum(len(group.intersection(members)) for group in self.apart if name in group)

    def wait_for(self, members: Collection[str]) -> None:
        """Let the clock go on until these are ready."""
        self.now = max(self.now, *map(self._ready, members))

    def _ready(self, name: str) -> float:
        ready = self.flights[name].ready
        return math.inf if ready is None else ready

    def staleness(self, name: str) -> int:
        """How many versions were made since the one that a client trains."""
        return self.version - self.flights[name].version

    def is_late(self, name: str, before: int | None = None) -> bool:
        """Whether an update may not be one version older when its sum is made, after so many others.

        before: by default the sums in progress.
        """
        others = len(self.opened) if before is None else before
        return self.staleness(name) + others >= self.farthest

    def open(self, members: Collection[str]) -> None:
        """A sum of these is in progress. Who waits and would be too old after it begins anew later."""
        waiting = self.flights.keys() - self.summing - set(members)
        self.leave([name for name in waiting if self.is_late(name)])
        self.opened.append(frozenset(members))

    def close(self, members: Collection[str]) -> None:
        """Their sum is in progress no more; unless it was made, they wait for another one."""
        self.opened.remove(frozenset(members))

    def summed(self, members: Collection[str]) -> None:
        """A new version was made of these members' updates, and they begin with it."""
        self.version += 1
        for name in members:
            self.asked[name] = self.asked.get(name, 0) + 1
            self.flights.pop(name, None)
        self.begin(members)

    def leave(self, names: Collection[str], *, for_good: bool = False) -> None:
        """Nobody waits for these any more; `for_good`: they take no further part."""
        for name in names:
            self.flights.pop(name, None)
        if for_good:
            self.gone |= set(names)

    @property
    def versions(self) -> set[int]:
        """Those that somebody trains."""
        return {flight.version for flight in self.flights.values()}

    def state(self) -> dict[str, Any]:
        """What changes, as JSON values."""
        flights = {name: asdict(flight) for name, flight in self.flights.items()}
        return {
            "version": self.version,
            "now": self.now,
            "flights": flights,
            "asked": self.asked,
            "gone": sorted(self.gone),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Without a virtual clock nobody is ready, until it says so again."""
        self.version, self.now = int(state["version"]), float(state["now"])
        self.flights = {name: Flight(**flight) for name, flight in state["flights"].items()}
        if self.seconds is None:
            self.flights = {n: replace(flight, ready=None) for n, flight in self.flights.items()}
        self.asked, self.gone = dict(state["asked"]), set(state["gone"])


def seconds_of(job: Job, names: Collection[str]) -> dict[str, float]:
    """Seconds on the virtual clock that each client of a simulation trains in a round, by the job's seed."""
    spec = job.simulation
    _, _, sigma = spec.speeds.partition(":")
    spread = statistics.NormalDist(0.0, float(sigma)) if sigma and float(sigma) else None

    def drawn(name: str) -> float:
        if spread is None:
            return 1.0
        lot = hashlib.sha256(f"{job.seed}\nspeeds\n{name}".encode()).digest()
        place = (int.from_bytes(lot[:6], "big") + 0.5) / 2**48  # inside (0, 1)
        return math.exp(spread.inv_cdf(place))

    return {name: spec.seconds * drawn(name) * spec.slow.get(name, 1.0) for name in names}


def buffer_of(job: Job, caps: Mapping[str, int], *, virtual: bool = True) -> Buffer | None:
    """The buffer of a job as it begins, with all clients at work; None if its rounds are synchronous.

    caps: how many sums each of the clients may be asked into. virtual: whether it goes by the virtual clock.
    """
    rule = buffered(job.strategy)
    if rule is None:
        return None
    size = min(rule.buffer, len(caps))
    seconds = seconds_of(job, caps) if virtual else None
    found = Buffer(size, rule.max_staleness, seconds, caps)
    found.begin(caps)
    return found


def most_asked(job: Job) -> int:
    """Sums that a client of an asynchronous job is asked into at most, whoever is ready when."""
    return min(job.cohort.participations or job.training.rounds, job.training.rounds)


def scheduled(job: Job, names: Sequence[str]) -> list[tuple[float, list[str]]]:
    """Time and members of each sum of an asynchronous job, if nothing fails; fewer than its rounds if too few
    clients are left, because of their caps."""
    return _scheduled(job.to_json(), tuple(sorted(names)))


@lru_cache(maxsize=8)
def _scheduled(job_json: str, names: tuple[str, ...]) -> list[tuple[float, list[str]]]:
    job = Job.build(json.loads(job_json))
    buffer = buffer_of(job, dict.fromkeys(names, most_asked(job)))
    found: list[tuple[float, list[str]]] = []
    while buffer is not None and len(found) < job.training.rounds:
        members = buffer.next_members()
        if not members:
            break
        buffer.wait_for(members)
        buffer.summed(members)
        found.append((buffer.now, members))
    return found


def buffer_refusals(job: Job, names: Sequence[str], *, virtual: bool = True) -> Iterator[str]:
    """Why an asynchronous job cannot come to its end with these clients.

    virtual: whether clients are ready when the virtual clock says so.
    """
    unknown = sorted(job.simulation.slow.keys() - set(names)) if virtual else []
    if unknown:
        yield (f"simulation.slow names {some(unknown)}, but the clients are {some(sorted(names))}")
    rule = buffered(job.strategy)
    if rule is None:
        return
    if virtual:
        sums = len(scheduled(job, names))
    else:
        sums = len(names) * most_asked(job) // min(rule.buffer, len(names))
    if sums < job.training.rounds:
        yield (
            f"only {sums} of {job.training.rounds} sums can be made, because each client takes part in "
            f"cohort.participations = {job.cohort.participations} at most: raise it, or lower "
            "training.rounds or strategy.options.buffer"
        )


def buffer_warnings(job: Job, names: Sequence[str], *, virtual: bool = True) -> Iterator[str]:
    """What a user of an asynchronous job should know of who will be summed when."""
    rule = buffered(job.strategy)
    if rule is None:
        return
    if not virtual:
        size, most, rounds = min(rule.buffer, len(names)), most_asked(job), job.training.rounds
        if most < rounds and (len(names) - size + 1) * most <= (rounds - 1) * size:
            yield (
                f"cohort.participations = {most} is the most that any client takes part. If some get ready "
                "more often than others, too few may be left for the last sums: then the run ends early. "
                "Raise it to rule that out."
            )
        return
    summed = {name for _, members in scheduled(job, names) for name in members}
    if slow := sorted(set(names) - summed):
        yield (
            f"{some(slow)} will be in none of the {job.training.rounds} sums: the others are so much "
            "faster. Raise training.rounds, or lower strategy.options.max_staleness."
        )
