"""How fast the machine is while it works, felt by a small piece of work that reads no record.

A machine that others use, too, is now fast and now slow: by a fifth from one minute to the next. What a
round should take here follows from how fast the machine is during that round, and to know it from the
round's own work would be to know it from the records.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

EVERY = 0.4
"""Seconds of work between two beats: they take a hundredth of it."""
_BEAT = 0.004
"""Seconds that a beat takes, roughly: as short as the slices in which a machine is shared, or there
would be few of them."""
_MOST_PRODUCTS = 4096


@dataclass(frozen=True)
class Beats:
    """Some beats, and the seconds that they took together."""

    count: int = 0
    seconds: float = 0.0


class Tempo:
    """Beats, as far apart as `every` says, whenever work calls ``beat``.

    Guarantee: a beat is the same products of the same constants, draws nothing at random and touches
    nothing of the model, so that what is computed around it stays the same to the last bit.
    """

    def __init__(
        self,
        device: torch.device,
        clock: Callable[[], float] = time.perf_counter,
        every: float = EVERY,
        products: int | None = None,
    ) -> None:
        self._device, self._clock, self._every = device, clock, every
        self._rows = torch.linspace(-1, 1, 512 * 64, device=device).reshape(512, 64)
        self._weights = torch.linspace(-0.2, 0.2, 64 * 64, device=device).reshape(64, 64)
        self.products = products or self._enough()
        self._last = -math.inf
        self._count, self._seconds = 0, 0.0

    def beat(self) -> None:
        """Feel, unless it was felt shortly before."""
        begun = self._clock()
        if begun - self._last < self._every:
            return
        self._work(
            1
        )  # what was asked of a GPU before is not this beat's, nor that its numbers are fetched
        begun = self._clock()
        self._work(self.products)
        self._last = self._clock()
        self._count, self._seconds = self._count + 1, self._seconds + self._last - begun

    def taken(self) -> Beats:
        """What was felt since this was asked the last time; the next beat is due at once."""
        found = Beats(self._count, self._seconds)
        self._last, self._count, self._seconds = -math.inf, 0, 0.0
        return found

    def denser(self, every: float) -> Tempo:
        """The same beats, counted apart and nearer to each other."""
        return Tempo(self._device, self._clock, every, self.products)

    def _enough(self) -> int:
        """As many products as take about as long as a beat should."""
        products = 1
        self._work(products)
        while products < _MOST_PRODUCTS:
            begun = time.perf_counter()
            self._work(products)
            if time.perf_counter() - begun >= _BEAT / 2:
                break
            products *= 2
        return products

    @torch.inference_mode()
    def _work(self, products: int) -> None:
        with torch.autocast(self._device.type, enabled=False):
            rows = self._rows
            for _ in range(products):
                rows = torch.nn.functional.gelu(rows @ self._weights)
        self._finish()

    def _finish(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class Still:
    """No beats, where nobody waits."""

    def beat(self) -> None:
        pass

    def taken(self) -> Beats:
        return Beats()


STILL = Still()
