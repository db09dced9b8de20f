"""What a round adds up of each client, as a strategy declares it: named channels in one vector."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..wire.arrays import Arrays

Shapes = Mapping[str, tuple[int, ...]]
Told = Mapping[str, object]
"""What the server tells the local half, by name: the same for every owner in a round."""

UPDATE = "update"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_FARTHEST = 2.0**20


def reach_for(farthest: float, least: float) -> float:
    """The power of two, from `least` (one itself) up, to which entries of up to `farthest` fit.

    At most the largest reach that a channel may have. What lies beyond is treated as in any channel: scaled
    down with its owner's vector and counted as clipped, or in a second sum refused by its owner.
    """
    if not farthest < _FARTHEST:
        return _FARTHEST
    # Server and owners compute it on machines that round the last bits differently.
    half, exponent = math.frexp(max(farthest * (1 - 2.0**-30), least))
    return math.ldexp(1.0, exponent - (half == 0.5))


@dataclass(frozen=True)
class Channel:
    """Tensors that a round adds up: the update, or something else of the strategy."""

    name: str
    shapes: Shapes
    reach: float = 1.0
    """How many times as large as an update's entries its own may be: a public scale, a power of two."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"the name of a channel has only a-z, 0-9 and -, but this one is {self.name!r}"
            )
        if isinstance(self.reach, bool) or not isinstance(self.reach, int | float):
            raise ValueError(f"channel {self.name}: reach = {self.reach!r} is not a number")
        object.__setattr__(self, "reach", float(self.reach))
        scaled = 1 / _FARTHEST <= self.reach <= _FARTHEST
        if not scaled or math.frexp(self.reach)[0] != 0.5:  # else scaling would round
            raise ValueError(f"channel {self.name}: reach = {self.reach!r} must be a power of two")

    @property
    def numbers(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())


_NO_UPDATE = Channel(UPDATE, {})


@dataclass(frozen=True)
class Channels:
    """All that one client adds to a round's sum, in this order, as one vector.

    The update's tensors have the model's own names there, those of another channel CHANNEL/NAME. Every
    number of the vector is of the update's magnitude: a channel that reaches farther is divided by its
    reach before it leaves, and the mean is multiplied again.
    """

    all: tuple[Channel, ...]
    trained: Shapes
    """What the round trains, in the model's order. The update's channel has these tensors, but for those in
    whose place another channel says something; a sum's clip is for an update of all of them."""
    trip: int = 1
    """1: the sum of updates; 2: a second sum, of other channels alone (``Rule.second``)."""

    @property
    def update(self) -> Channel:
        """Without any tensor if the sum adds up no update."""
        return next((channel for channel in self.all if channel.name == UPDATE), _NO_UPDATE)

    @property
    def further(self) -> tuple[Channel, ...]:
        return tuple(channel for channel in self.all if channel.name != UPDATE)

    @property
    def numbers(self) -> int:
        """Of the whole vector."""
        return sum(channel.numbers for channel in self.all)

    @property
    def parameters(self) -> int:
        """Numbers of a whole update, as the round trains it."""
        return sum(math.prod(shape) for shape in self.trained.values())

    def scaled(self, told: Told) -> Channels:
        """The same with the reaches that the server tells for a round (``Rule.scales``), if it tells any.

        ``ValueError`` for one that is no power of two, or below what is declared: entries beyond a reach
        are scaled down, so a small one would change what is added up.
        """
        found = []
        for channel in self.all:
            reach = told.get(f"reach-{channel.name}", channel.reach)
            if not isinstance(reach, float):
                raise ValueError(
                    f"the server tells reach {reach!r} for channel {channel.name}: not a number"
                )
            if reach < channel.reach:
                raise ValueError(
                    f"the server tells reach {reach!r} for channel {channel.name}, which is below the "
                    f"declared {channel.reach!r}"
                )
            found.append(replace(channel, reach=reach))
        return replace(self, all=tuple(found))

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """By the names that travel."""
        further = {f"{c.name}/{n}": s for c in self.further for n, s in c.shapes.items()}
        return {**self.update.shapes, **further}

    def vector(self, update: Arrays, further: Mapping[str, Arrays]) -> Arrays:
        """What leaves: float32, by the names that travel. ``ValueError`` for what is not declared.

        update: of all that the round trains. What its channel leaves out stays here.
        """
        if not self.further and not further:
            return update
        sent = self.update.shapes
        found = {n: array for n, array in update.items() if n in sent or n not in self.trained}
        for channel in self.further:
            for name, array in further.get(channel.name, {}).items():
                scaled = np.asarray(array, np.float32) / np.float32(channel.reach)
                found[f"{channel.name}/{name}"] = scaled
        if undeclared := sorted(further.keys() - {channel.name for channel in self.further}):
            raise ValueError(
                f"the local half fills {undeclared[0]!r}, which is not one of its channels"
            )
        if {name: array.shape for name, array in found.items()} != self.shapes:
            raise ValueError(
                "the local half fills its channels with other tensors than are declared"
            )
        return {name: found[name] for name in self.shapes}

    def means(
        self, names: Iterator[tuple[str, np.ndarray]]
    ) -> Iterator[tuple[str, str, np.ndarray]]:
        """Channel, tensor and mean (float64), in place of what travelled."""
        where = {f"{c.name}/{n}": (c, n) for c in self.further for n in c.shapes}
        for sent, mean in names:
            channel, name = where.get(sent, (self.update, sent))
            if channel.reach != 1.0:
                mean *= channel.reach
            yield channel.name, name, mean
