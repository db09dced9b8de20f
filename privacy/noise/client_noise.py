"""Noise that hides a client's whole data set in the sum of a cohort's updates.

Each client clips its update, puts it on the grid of the sum (``secagg.fixed_point``), and, if the
mechanism is distributed, adds its share of discrete Gaussian noise there (Kairouz, Liu, Steinke
2021, "The Distributed Discrete Gaussian Mechanism"). Nothing but the sum is ever opened. Two steps
of that paper are left out: it rotates updates and rounds on condition, because its words are short.
With 32 bits, rounding any entry up or down adds at most the square root of their number to the norm,
in steps so fine that allowing for it costs less than a thousandth of the noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ...errors import ProtocolError
from ..randomness import SecretStream
from .discrete import discrete_gaussian
from .grid import grid_step, snap
from .scale import Scale

_Number = TypeVar("_Number", np.float32, np.int32)
_BLOCK = 1 << 16
TAIL = 12.0
"""Standard deviations of noise that must fit a word: larger noise occurs once in 10^32 numbers."""
_LEAST_SHARE = 20.0
"""Below this deviation of a share, in steps of the grid, a sum of shares is no discrete Gaussian."""
_MOST_ROUNDING = 0.1
"""The share of the norm that rounding may add."""
_ENDLESS = 2.0**64
COUNT_SHARE = 0.1
"""The share of a round's budget for the count of clients within the clipping norm, if it is adaptive."""
COUNT_STEPS = 1024
"""One client in that count: so fine that the shares of its noise add up to a discrete Gaussian."""


def split_noise(noise_multiplier: float, adaptive: bool) -> tuple[float, float]:
    """Noise of the update and of the count beside it, each over the most that it can change.

    Together they cost as much as one release with `noise_multiplier`: 1 / z^2 adds up, for discrete
    Gaussians (concentrated) and for Gaussians alike. Without a count the second is infinite.
    """
    if not adaptive:
        return noise_multiplier, math.inf
    return noise_multiplier / math.sqrt(1 - COUNT_SHARE), noise_multiplier / math.sqrt(COUNT_SHARE)


@dataclass(frozen=True)
class UpdateNoise:
    """How one client's update becomes its part of a sum.

    Guarantee: let all updates but one client's be fixed, and let at least `shares` of the clients in
    the opened sum, this one among them, add their share. Then what its data were changes the sum's
    distribution as one (1 / (2 noise_multiplier^2))-zCDP release does, for any two data sets: both
    updates lie within the clipping norm C, so they are at most 2 C apart, and the deviation of the
    noise is noise_multiplier times that.

    Assumptions: those of ``secagg`` (only the sum is opened), of ``SecretStream``, and that the
    honest clients are as many as `shares` says (``planning.terms``). A noise multiplier of
    0 adds none: then this is only the clipping, and the guarantee is whoever's who adds it.
    """

    clipping_norm: float
    noise_multiplier: float
    shares: int
    stream: SecretStream

    def factor(self, norm: float, parameters: int, scale: Scale) -> float:
        """What an update of this L2 norm is multiplied with, so that its rounded norm keeps to C.

        Raises ``ProtocolError`` if the grid is too coarse for so many numbers.
        """
        bound = _bound(self.clipping_norm, scale)
        rounding = math.sqrt(parameters)
        if rounding > _MOST_ROUNDING * bound:
            raise _unfit(f"a clipping norm of {self.clipping_norm:g} is too fine for the grid")
        if norm > _ENDLESS * self.clipping_norm:
            return 0.0  # its factor would be no float32; no update at all is within the norm, too
        # A float32 product errs by 2^-24 of each entry.
        room = (bound - rounding) * (1 - 2.0**-22) / 2.0**scale.bits
        return min(1.0, room / norm) if norm else 1.0

    def hide(self, signed: npt.NDArray[np.int32], scale: Scale) -> None:
        """Add this client's share to its update on the grid, int32, in place."""
        bound = _bound(self.clipping_norm, scale)
        squares = math.fsum(float(np.square(b, dtype=np.float64).sum()) for b in _blocks(signed))
        if not squares <= float(bound) ** 2:
            raise _unfit("an update was not clipped to its norm")
        deviation = math.ceil(2 * bound * self.noise_multiplier / math.sqrt(self.shares))
        if bound + TAIL * deviation > scale.largest:
            raise _unfit(f"a clipping norm of {self.clipping_norm:g} leaves no room for its noise")
        if not self.noise_multiplier:
            return
        if deviation < _LEAST_SHARE:
            raise _unfit(f"a clipping norm of {self.clipping_norm:g} is too fine for the grid")
        for block in _blocks(signed):
            noise = discrete_gaussian(len(block), Fraction(deviation**2), self.stream)
            block[:] = np.clip(noise + block, -scale.largest, scale.largest)


@dataclass(frozen=True)
class ClientPart:
    """What one client adds to a round's sum beside its update: clipping, noise, a noised count."""

    noise: UpdateNoise
    count_multiplier: float
    """Noise of the count of clients within the norm; infinite if nothing is counted."""
    distributed: bool

    def within(self, update: Sequence[npt.NDArray[np.float32]]) -> int:
        """Whether the update lies within the norm, in ``COUNT_STEPS``, with its share of noise."""
        inside = COUNT_STEPS * (l2_norm(list(update)) <= self.noise.clipping_norm)
        if not self.distributed:
            return inside
        return inside + count_noise(self.count_multiplier, self.noise.shares, self.noise.stream)


@dataclass(frozen=True)
class ServerNoise:
    """What a trusted server adds to a sum before anything else is done with it.

    Guarantee: as ``UpdateNoise``, but with Gaussian noise on the sum, rounded to a public grid
    afterwards, and against those who see models, not against the server. Assumptions: those of
    ``SecretStream`` and ``grid``.
    """

    clipping_norm: float
    update_multiplier: float
    count_multiplier: float
    stream: SecretStream

    def hide_mean(self, mean: npt.NDArray[np.float64], members: int) -> None:
        """Noise on entries of the mean of so many clients' updates, in place."""
        self._hide(mean, 2 * self.clipping_norm * self.update_multiplier / members)

    def hide_count(self, count: float) -> float:
        """The number of clients within the norm, with noise."""
        found = np.array([count])
        self._hide(found, self.count_multiplier)
        return float(found[0])

    def _hide(self, numbers: npt.NDArray[np.float64], deviation: float) -> None:
        numbers += self.stream.normal(len(numbers)) * deviation
        snap(numbers, grid_step(deviation))


def clipping_range(
    noise_multiplier: float, shares: int, parameters: int, scale: Scale
) -> tuple[float, float]:
    """Least and largest clipping norm that a grid has room for; none if the first is the larger."""
    step = 2.0**-scale.bits
    least = math.sqrt(parameters) / _MOST_ROUNDING + 1
    most = float(scale.largest)
    if noise_multiplier:
        share = 2 * noise_multiplier / math.sqrt(shares)
        least = max(least, _LEAST_SHARE / share + 1)
        most = (scale.largest - TAIL) / (1 + TAIL * share)
    return least * step, most * step


def count_noise(noise_multiplier: float, shares: int, stream: SecretStream) -> int:
    """A client's share of the noise of a count, in ``COUNT_STEPS``: one client changes it by one."""
    variance = (Fraction(noise_multiplier) * COUNT_STEPS) ** 2 / shares
    return int(discrete_gaussian(1, variance, stream)[0])


def l2_norm(arrays: list[npt.NDArray[np.float32]]) -> float:
    """Over all entries of all arrays together."""
    return math.sqrt(
        math.fsum(
            float(np.square(block, dtype=np.float64).sum())
            for array in arrays
            for block in _blocks(array.reshape(-1))
        )
    )


def _bound(clipping_norm: float, scale: Scale) -> int:
    """C on the grid, rounded down."""
    return math.floor(math.ldexp(clipping_norm, scale.bits))


def _blocks(array: npt.NDArray[_Number]) -> list[npt.NDArray[_Number]]:
    return [array[start : start + _BLOCK] for start in range(0, len(array), _BLOCK)]


def _unfit(text: str) -> ProtocolError:
    return ProtocolError("range", "this client", f"cannot be summed: {text}")
