"""Who may hold a connection to the public port before it has shown a member's key.

Guarantee: at most ``Bounds.waiting`` connections from addresses that nobody is known at, and as many from
those at which a member was, are open at any moment without a member's signature, each for
``Bounds.seconds`` at most; and no more than ``Bounds`` says are begun in a second, after a burst. So what
strangers cost, in memory and in handshakes, does not grow with how many there are.

Not guaranteed: that a member gets in while strangers at its own address try to; it tries again. Members
who are connected already are not counted, and notice nothing.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_MOST_ADDRESSES = 4096
"""How many are remembered; beyond this, counting starts again."""


@dataclass(frozen=True)
class Bounds:
    """What connections may take before they have shown a member's key."""

    waiting: int = 32
    """Open at the same time, of unknown addresses, and as many of known ones."""
    seconds: float = 10.0
    """From the first byte until a member's signature has arrived."""
    grace: float = 1.0
    """Beyond this age a connection is closed for a newer one if there are too many."""
    each_second: float = 40.0
    """Begun per second, by all unknown addresses together."""
    each_address: float = 10.0
    """Begun per second, by one unknown address."""
    each_familiar: float = 100.0
    """Begun per second, by one known address."""


@dataclass(eq=False)
class Guest:
    """A connection: where it comes from, since when, and what ends it."""

    address: str
    begun: float
    familiar: bool
    end: Callable[[], None] = lambda: None
    member: bytes | None = field(default=None)
    """The public key with which a request of it was signed."""


class _Bucket:
    """So many a second, and twice as many at once after a pause."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate, self._left, self._seen = rate, 2 * rate, now

    def take(self, now: float) -> bool:
        self._left = min(2 * self._rate, self._left + (now - self._seen) * self._rate)
        self._seen = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Admission:
    """Decides at once, by numbers alone. `clock`: seconds, never less than before."""

    def __init__(
        self, bounds: Bounds | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.bounds, self._clock = bounds or Bounds(), clock
        self._waiting: dict[Guest, None] = {}
        self._familiar: dict[str, None] = {}
        self._strangers = _Bucket(self.bounds.each_second, clock())
        self._buckets: dict[str, _Bucket] = {}
        self.refused = 0
        """Connections that were closed because there were too many, or no member's key came."""

    @property
    def waiting(self) -> int:
        """Connections without a member's signature."""
        return len(self._waiting)

    def enter(self, host: str) -> Guest | None:
        """Take a new connection in; None if it is to be closed. Ends an older one to make room."""
        now, address = self._clock(), network_of(host)
        familiar = address in self._familiar
        rate = self.bounds.each_familiar if familiar else self.bounds.each_address
        allowed = self._bucket(address, rate, now).take(now)
        if not allowed or not (familiar or self._strangers.take(now)):
            self.refused += 1
            return None
        beside = [guest for guest in self._waiting if guest.familiar == familiar]
        if len(beside) >= self.bounds.waiting:
            # The oldest first: dictionaries keep their order.
            self.refused += 1
            if now - beside[0].begun < self.bounds.grace:
                return None
            self.leave(beside[0])
            beside[0].end()
        guest = Guest(address, now, familiar)
        self._waiting[guest] = None
        return guest

    def recognise(self, guest: Guest, member: bytes) -> None:
        """A request with a member's signature came: the connection counts no more."""
        guest.member = member
        self._waiting.pop(guest, None)
        self._familiar.pop(guest.address, None)
        if len(self._familiar) >= _MOST_ADDRESSES:
            self._familiar.pop(next(iter(self._familiar)))
        self._familiar[guest.address] = None

    def leave(self, guest: Guest) -> None:
        """The connection is over."""
        self._waiting.pop(guest, None)

    def overdue(self, guest: Guest) -> bool:
        """Whether it is still waiting for a signature, after all its time; it is then let go of."""
        if guest not in self._waiting:
            return False
        self.refused += 1
        self.leave(guest)
        return True

    def _bucket(self, address: str, rate: float, now: float) -> _Bucket:
        if address not in self._buckets or self._buckets[address]._rate != rate:
            if len(self._buckets) >= _MOST_ADDRESSES:
                self._buckets.pop(next(iter(self._buckets)))
            self._buckets[address] = _Bucket(rate, now)
        return self._buckets[address]


def network_of(host: str) -> str:
    """What one stranger can have all of: an IPv4 address, or a network of 64 bits under IPv6."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
