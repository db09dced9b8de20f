"""What an agent answered, and streams of secrets by name: what tests of the agent share."""

import hashlib

from umbel.privacy.randomness import SecretStream
from umbel.wire.arrays import to_arrays

DELTA = 1e-3


def update_of(reply):
    assert not reply.has_error(), reply.error.reason
    return to_arrays(reply.content["arrays"])


def as_bytes(reply):
    return b"".join(array.tobytes() for array in update_of(reply).values())


def form(reply):
    """All of an answer but the numbers that it charges for or masks."""
    assert not reply.has_error(), reply.error.reason
    content = reply.content
    arrays = {
        k: [(n, a.dtype, a.shape) for n, a in r.items()] for k, r in content.array_records.items()
    }
    metrics = {
        key: {name: (type(v), len(v) if isinstance(v, list) else 0) for name, v in record.items()}
        for key, record in content.metric_records.items()
    }
    return arrays, metrics, {key: list(r) for key, r in content.config_records.items()}


def seeded(what):
    return SecretStream.from_key(hashlib.sha256(what.encode()).digest())
