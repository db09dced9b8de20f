"""What a piece of work costs: CPU seconds, wall seconds, or memory."""

from __future__ import annotations

import contextlib
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Container, Iterator
from typing import Any
from unittest.mock import patch


class Meter:
    """Sums what each party's work costs: CPU seconds of this process, or (`memory`) peak bytes.

    The CPU's time rather than the clock's: other programs then weigh on the figures less. A party's
    peak is the most that its work held at once: what earlier blocks left behind, and temporaries.
    Seconds and bytes are never taken in one run, because tracing slows the work down.
    """

    def __init__(self, memory: bool = False) -> None:
        self.memory = memory
        self.seconds: dict[str, float] = defaultdict(float)
        self.peak: dict[str, int] = defaultdict(int)
        self.at_work: str | None = None
        """Whose block is running."""
        self._held: dict[str, int] = defaultdict(int)

    @contextlib.contextmanager
    def of(self, party: str, received: int = 0) -> Iterator[None]:
        """Add what the block costs to `party`; `received` bytes are its own while the block runs."""
        before, self.at_work = self.at_work, party
        try:
            with self._traced(party, received) if self.memory else self._timed(party):
                yield
        finally:
            self.at_work = before

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Within a block of ``of`` (seconds only): leave out what this block costs."""
        party = self.at_work
        assert party is not None
        assert not self.memory
        begun, self.at_work = time.process_time(), None
        yield
        self.at_work = party
        self.seconds[party] -= time.process_time() - begun

    @contextlib.contextmanager
    def _timed(self, party: str) -> Iterator[None]:
        begun = time.process_time()
        yield
        self.seconds[party] += time.process_time() - begun

    @contextlib.contextmanager
    def _traced(self, party: str, received: int) -> Iterator[None]:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        yield
        after, most = tracemalloc.get_traced_memory()
        held = self._held[party] + received
        self.peak[party] = max(self.peak[party], held + most - before)
        self._held[party] += after - before


class Stage:
    """Seconds inside one function, over all its calls."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0


@contextlib.contextmanager
def stages(
    meter: Meter, parties: Container[str], **functions: tuple[Any, str]
) -> Iterator[dict[str, Stage]]:
    """Within the block, time functions, named as (owner, attribute), while one of `parties` works."""
    found = {name: Stage() for name in functions}
    with contextlib.ExitStack() as stack:
        for name, (owner, attribute) in functions.items():
            timed = _timed(getattr(owner, attribute), found[name], meter, parties)
            stack.enter_context(patch.object(owner, attribute, timed))
        yield found


def _timed(
    function: Callable[..., Any], stage: Stage, meter: Meter, parties: Container[str]
) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        if meter.at_work not in parties:
            return function(*arguments, **named)
        cpu, wall = time.process_time(), time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            stage.cpu += time.process_time() - cpu
            stage.wall += time.perf_counter() - wall

    return call
