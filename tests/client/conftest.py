"""What starts slowly and is shared: a child that works on records, and a clock that nobody waits by."""

import pytest


@pytest.fixture(scope="session")
def sound():
    """A bench whose child lives. Starting one takes seconds; it can change owner and job at any time."""
    from umbel.client.child import Bench

    bench = Bench()
    yield bench
    bench.close()


class Clock:
    """A clock that waiting moves."""

    time = 0.0

    def now(self):
        return self.time

    def wait_until(self, moment):
        self.time = max(self.time, moment)


@pytest.fixture
def moved_clock():
    return Clock()
