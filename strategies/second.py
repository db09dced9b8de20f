"""The second sum of a round: what is declared of it, and that it is what can be added up.

Some means follow from two sums only: the server learns of the first one what to ask for in the second,
and each owner answers with what its update of this round comes to under that.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..wire.arrays import Arrays
from .contract import Channels, Rule, Shapes, has_personal

NOTHING_OF_ITS_OWN = (
    "an owner finds the update for a second sum by what all owners were sent, so give the rule no state, "
    "no personal tensors and no model of an owner's own (apart)"
)


def second_channels(rule: Rule, shapes: Shapes) -> Channels | None:
    """The channels of a rule's second sum, for what it trains; None with a rule of one sum.

    ``ValueError`` for what cannot be summed.
    """
    found = rule.second(shapes)
    if not found:
        return None
    names = [channel.name for channel in found]
    first = [channel.name for channel in rule.channels(shapes)]
    if len({*names, *first}) < len(names) + len(first):
        raise ValueError(f"two of its channels have the same name: {', '.join((*first, *names))}")
    if rule.local is None or rule.sees != "SUM":
        raise ValueError("a second sum needs a local half, and a rule of sums")
    if rule.apart or has_personal(type(rule)) or rule.local.state(shapes):
        raise ValueError(NOTHING_OF_ITS_OWN)
    return Channels(found, shapes, trip=2)


def checked_asked(rule: Rule, model: Arrays) -> Arrays:
    """What a rule sends for the second sum, of the part of the model that the round trains.

    ``ValueError`` for anything but what it declares.
    """
    found = rule.asked(model)
    declared = dict(rule.asks({name: array.shape for name, array in model.items()}))
    if {name: array.shape for name, array in found.items()} != declared:
        raise ValueError(f"{type(rule).__name__} asks with other arrays than it declares")
    return {name: np.ascontiguousarray(found[name], np.float32) for name in declared}


REACH = "reach-"
"""Before a channel's name, where its reach is told."""


def reaches_told(scales: Mapping[str, float]) -> dict[str, float]:
    """Reaches by channel, as they are told to the owners (``Channels.scaled``)."""
    return {f"{REACH}{channel}": float(reach) for channel, reach in scales.items()}
