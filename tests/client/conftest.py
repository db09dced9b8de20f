"""What starts slowly and is shared: a child that works on records."""

import pytest


@pytest.fixture(scope="session")
def sound():
    """A bench whose child lives. Starting one takes seconds; it can change owner and job at any time."""
    from umbel.client.child import Bench

    bench = Bench()
    yield bench
    bench.close()
