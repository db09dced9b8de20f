"""How many records, or groups, an owner has: the one number about it that is ever published.

Noise multiplier and sampling rate of DP-SGD are chosen from the size of the data, so that size
would tell one record were it exact. It is published once, with noise, and charged. Held-out records in
a file of their own have a size of their own, by which tests take their time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..accounting.accountant import MechanismEvent
from ..randomness import SecretStream
from .discrete import two_sided_geometric

SIZE_EPSILON = 0.1
"""The cost of a published size: pure differential privacy, so at delta 0."""
SIZE_EVENT = MechanismEvent(1 / SIZE_EPSILON, 1.0, 1, "pure")
SMALLEST_SIZE = 100
"""No size below this is published: so few records are no data set to train on privately."""

_SCALE = 10
assert SIZE_EVENT.noise_multiplier == _SCALE


@dataclass(frozen=True)
class Sizes:
    """Of an owner's data, and of its file of held-out records: what is true of both, or published."""

    data: int
    held_out: int | None = None
    """None if they are not in a separate file."""


def published_size(count: int, stream: SecretStream) -> int:
    """`count` with two-sided geometric noise of scale 10, and never below ``SMALLEST_SIZE``.

    Guarantee: (0.1, 0)-differentially private for whatever changes `count` by at most one: one
    record more or less, or one group if groups are counted (Ghosh, Roughgarden, Sundararajan
    2009, "Universally Utility-Maximizing Privacy Mechanisms", definition 2.1). The floor is
    post-processing.

    Assumptions: those of ``SecretStream``; and that each draw is charged. Its noise is fresh: noise
    that a key fixed would show a change of the file as the difference of two published sizes.
    """
    return max(SMALLEST_SIZE, count + two_sided_geometric(_SCALE, stream))


def published_sizes(counts: Sizes, stream: Callable[[str], SecretStream]) -> Sizes:
    """Both sizes, each with noise of its own: together one release of ``SIZE_EVENT``.

    Guarantee: (0.1, 0)-differentially private for one record, or one group, more or less. It is
    counted in one of the two files only, so that the two costs do not add up (parallel composition:
    McSherry 2009, "Privacy Integrated Queries", theorem 4). `stream` gives each its own: "size",
    "held out".

    Assumptions: those of ``published_size``; and that no record or group is counted twice.
    """
    held_out = counts.held_out
    if held_out is not None:
        held_out = published_size(held_out, stream("held out"))
    return Sizes(published_size(counts.data, stream("size")), held_out)
