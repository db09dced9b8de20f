"""Dropout has no place under example-level privacy.

Masks go by place in the batch, so one record more or less gives all others other masks, and the
clipped sum moves by far more than one clipped gradient. The masks would have to be as secret as the
noise for that not to matter, and torch draws them from 32 bits of a seed.
"""

from __future__ import annotations

from torch import nn


def remove_dropout(network: nn.Module) -> None:
    """Set every probability of dropping something to 0, wherever a model keeps it.

    In dropout layers, in the numbers that attention layers hand on, and in configurations that are
    read while a model runs; and the jitter of routers, which goes by places in the batch as well.
    """
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        _remove_from(module)
        if hasattr(module, "config"):
            _remove_from(module.config)


def _remove_from(owner: object) -> None:
    for name, value in list(vars(owner).items()):
        random = any(word in name.lower() for word in ("drop", "jitter"))
        if random and isinstance(value, float) and value:
            setattr(owner, name, 0.0)
