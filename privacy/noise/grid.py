"""The public grid that noised numbers are rounded to, so that their lowest bits tell nothing.

Mironov 2012 ("On significance of the least significant bits for differential privacy", CCS) takes a
number and its noise apart by the bits of a floating-point sum. Here the sum is rounded to the multiples
of a step that follows from the noise alone, in float64, before anything else sees it.

What is proven: with exact reals, (sum + Gaussian) rounded to a public grid is post-processing of the
Gaussian mechanism, so its guarantee is that of the mechanism. What is not: that our float64 noise has
that distribution to the last digit. It has 53-bit uniforms, no draw beyond 8.6 deviations, and errors
of a few units in the last place, 2^-50 of a deviation or less; an error changes what is released only
if the sum lies so near the middle between two multiples, whose chance is about 2^-50 over a step of
2^-10, 2^-40 a number. The total over all numbers of a run is what delta would have to grow by: below
10^-6 for a million released numbers. A discrete Gaussian, as for client level and counts, has no such
remainder; for sampled steps no accountant here knows it.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

_BITS = 10
"""So fine that rounding adds a ten-millionth of the noise's variance; far coarser than float64."""


def grid_step(deviation: float) -> float:
    """The grid of numbers with noise of this standard deviation: a power of two, 0 without noise.

    From 2^-11 to 2^-10 of the deviation.
    """
    if not deviation:
        return 0.0
    _, exponent = math.frexp(deviation)
    return math.ldexp(1.0, exponent - 1 - _BITS)


def snap(values: npt.NDArray[np.float64], step: float) -> None:
    """Round to multiples of `step`, a power of two, in place; nothing if it is 0."""
    if step:
        # Exact but for the rounding in the middle: a power of two changes the exponent alone.
        values /= step
        np.rint(values, out=values)
        values *= step
