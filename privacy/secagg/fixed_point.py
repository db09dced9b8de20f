"""One client's numbers as words modulo 2^32, and the sum of such words as numbers again.

A vector holds, in this order (see ``Layout``): the entries of the update in fixed point, whole
counts, wide numbers (each in four limbs of 16 bits), the weight, a one that counts the members, and
a check word, the sum of all words before it. Every part is additive, so the sum of vectors is read
by the same layout. No part can overflow while n members keep to their limits, and no member of ours
can break them: what does not fit is refused before it is masked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...errors import ProtocolError
from ..noise.client_noise import UpdateNoise, l2_norm
from ..noise.scale import Scale
from .encoding import Encoded
from .masks import Words, new_words

Floats32 = npt.NDArray[np.float32]
Floats64 = npt.NDArray[np.float64]
Dither = Callable[[int], npt.NDArray[np.uint32]]
"""Gives n independent uniform words."""

_BLOCK = 1 << 16
_LIMBS = 4
_LIMB_BITS = 16
WIDE_BITS = 16
"""Binary places of a wide number: resolution 2^-16, range 2^48."""
_TRAILER = 3
_WIDEST = 2.0 ** (_LIMBS * _LIMB_BITS - WIDE_BITS) - 1


@dataclass(frozen=True)
class Layout(Encoded):
    """How many numbers of which kind a vector holds."""

    parameters: int
    integers: int
    wides: int

    @property
    def length(self) -> int:
        """Words of a vector."""
        return self.parameters + self.integers + _LIMBS * self.wides + _TRAILER


@dataclass(frozen=True)
class Contribution:
    """What one client adds to a sum."""

    update: Sequence[Floats32]
    """Arrays of the update, in the model's order; empty if only counts are summed."""
    integers: Sequence[int]
    wides: Sequence[float]
    """Numbers from 0 to 2^48."""
    weight: int
    noise: UpdateNoise | None = None
    """Clips the update's norm and adds noise; None if only entries are limited."""
    first: float | None = None
    """In a round of two sums: a magnitude that both are scaled by, at least the largest of what this client
    adds to the first. Entries of the second that are then beyond the clip are refused."""


@dataclass(frozen=True)
class Total:
    """What the sum of a cohort says."""

    words: Words
    """Of the update, uint32[parameters]: the sum on the grid. A mean beside it would be twice as large."""
    step: float
    """The value in the mean of one step of the grid."""
    integers: list[int]
    wides: list[float]
    weight: int
    members: int

    def part(self, start: int, size: int) -> Floats64:
        """(size,) float64: entries of the weighted mean of the updates."""
        words = self.words[start : start + size].view("<i4")
        return np.multiply(words, self.step, dtype=np.float64)

    @property
    def mean(self) -> Floats64:
        """(parameters,) float64: the weighted mean of the updates."""
        return self.part(0, len(self.words))


def largest_magnitude(update: Sequence[Floats32]) -> float:
    """The largest |entry| of an update; raises ``ProtocolError`` if one is NaN or infinite."""
    peak = 0.0
    for array in update:
        if array.size:
            low, high = float(array.min()), float(array.max())
            if not (math.isfinite(low) and math.isfinite(high)):
                raise ProtocolError("range", "this client", "an update holds NaN or infinity")
            peak = max(peak, -low, high)
    return peak


def encode(
    part: Contribution, layout: Layout, scale: Scale, weight_cap: int, dither: Dither
) -> Words:
    """The vector of one client, uint32[layout.length]. Raises ``ProtocolError`` for what is no sum's.

    An update beyond the clip is scaled down as a whole, so its direction stays; the caller counts
    it. What goes into a second sum is scaled by the factor of the first (`first`), and by no other:
    two sums of the same clients by other factors are a pencil, whose eigenvalues tell the clients apart.

    Counts and wide numbers beyond their range are taken for the nearest one in it: a refusal
    would tell the server of this client's own. Weighted by weight / weight_cap, so that no weight
    makes an entry larger.
    """
    _require(0 < part.weight <= weight_cap, f"a weight of {part.weight} is above {weight_cap}")
    _require(
        scale.members * weight_cap < 2**32, f"{scale.members} weights of {weight_cap} overflow"
    )
    _require(sum(a.size for a in part.update) == layout.parameters, "the update's length")
    _require(len(part.integers) == layout.integers, "the number of counts")
    _require(len(part.wides) == layout.wides, "the number of wide numbers")
    words = new_words(layout.length)
    peak = largest_magnitude(part.update)
    scaled_by = peak if part.first is None else part.first
    factor = min(1.0, scale.clip / scaled_by if scaled_by else 1.0)
    _require(
        part.first is None or peak * factor <= scale.clip, "entries of a second sum beyond the clip"
    )
    factor *= part.weight / weight_cap
    if part.noise:
        _require(part.weight == weight_cap, "a noised update must not have a weight of its own")
        factor = part.noise.factor(l2_norm(list(part.update)), layout.parameters, scale)
    at = 0
    for array in part.update:
        _quantise(array.reshape(-1), factor, scale, dither, words[at : at + array.size])
        at += array.size
    if part.noise:
        part.noise.hide(words[:at].view("<i4"), scale)
    if part.integers:
        counts = np.array(part.integers, dtype=np.float64).clip(0, scale.most)
        words[at : at + layout.integers] = counts.astype(np.uint32)
        at += layout.integers
    for number in part.wides:
        # The order of the two makes NaN the largest number.
        wide = round(math.ldexp(max(min(_WIDEST, number), 0.0), WIDE_BITS))
        for limb in range(_LIMBS):
            words[at] = (wide >> (_LIMB_BITS * limb)) & (2**_LIMB_BITS - 1)
            at += 1
    words[at], words[at + 1] = part.weight, 1
    words[-1] = _check_word(words)
    return words


def decode(words: Words, layout: Layout, scale: Scale, weight_cap: int, members: int) -> Total:
    """The numbers in the sum of `members` vectors.

    Guarantee: every number is one that `members` vectors of ``encode`` can add up to, so no mean is
    beyond the clip, but for ``members`` steps of the grid, whatever words members sent. Within that bound a
    member that does not encode has its way: it alone may take an entry of the mean anywhere.

    Raises ``ProtocolError`` (rule "sum") for any other: the check word or the count of members is not
    right, because somebody masked under another manifest, or a vector is none.
    """
    if words[-1] != _check_word(words) or words[-2] != members:
        raise ProtocolError(
            "sum",
            "the cohort",
            "the check word or the member count of the opened sum is wrong: a member used "
            "another manifest or sent a malformed vector",
        )
    weight = int(words[-3])
    if weight < members:
        raise ProtocolError(
            "sum", "the cohort", f"{members} members have a total weight of only {weight}"
        )
    if weight > members * weight_cap:
        raise _impossible(
            f"{members} members have a total weight of {weight}", members * weight_cap
        )
    largest, most = (
        _largest(words[: layout.parameters]),
        scale.farthest(weight, weight_cap, members),
    )
    if largest > most:
        raise _impossible(f"an entry of the update is {largest} steps of the grid", most)
    step = math.ldexp(weight_cap / weight, -scale.bits)
    at = layout.parameters + layout.integers
    integers = words[layout.parameters : at].tolist()
    wides = []
    for _ in range(layout.wides):
        limbs = words[at : at + _LIMBS].tolist()
        if max(limbs) > members * (2**_LIMB_BITS - 1):
            raise _impossible(f"a limb is {max(limbs)}", members * (2**_LIMB_BITS - 1))
        total = sum(limb << (_LIMB_BITS * place) for place, limb in enumerate(limbs))
        wides.append(math.ldexp(total, -WIDE_BITS))
        at += _LIMBS
    return Total(words[: layout.parameters], step, integers, wides, weight, members)


def _largest(words: Words) -> int:
    """The largest magnitude of a sum's entries, 0 of none."""
    if not words.size:
        return 0
    signed = words.view("<i4")
    return max(-int(signed.min()), int(signed.max()))


def _impossible(found: str, most: int) -> ProtocolError:
    return ProtocolError(
        "sum",
        "the cohort",
        f"in the opened sum {found}, but its members can reach at most {most}: one of them sent words "
        "that are not those of an update",
    )


def _quantise(values: Floats32, factor: float, scale: Scale, dither: Dither, out: Words) -> None:
    """Stochastic rounding of values x factor to the grid, as two's complement words."""
    # A power of two rounds nothing, so factor and grid can be one product, and clipped after it.
    multiplier = np.float32(factor) * np.float32(2.0**scale.bits)
    limit = scale.limit * np.float32(2.0**scale.bits)
    signed = out.view("<i4")
    exact, low, chance = (np.empty(_BLOCK, np.float32) for _ in range(3))
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK]
        n = len(block)
        np.multiply(block, multiplier, out=exact[:n])
        if factor != 1.0:
            np.clip(exact[:n], -limit, limit, out=exact[:n])  # the factor's product is rounded
        np.floor(exact[:n], out=low[:n])
        np.subtract(exact[:n], low[:n], out=exact[:n])
        # 24 bits of dither are exact in float32, like the fraction that they are held against.
        np.multiply(
            dither(n) >> np.uint32(8), np.float32(2.0**-24), out=chance[:n], dtype=np.float32
        )
        target = signed[start : start + n]
        np.copyto(target, low[:n], casting="unsafe")
        np.add(target, chance[:n] < exact[:n], out=target, casting="unsafe")


def _check_word(words: Words) -> np.uint32:
    return words[:-1].sum(dtype=np.uint32)


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ProtocolError("range", "this client", f"cannot be summed: {what}")
