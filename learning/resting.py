"""Trained tensors that rest for a while: in a step, or in a round (``Rule.trains``, ``LocalRule.trains``)."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Protocol

from torch import nn


class Trained(Protocol):
    """A network with tensors that travel."""

    def trained_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Their names, and themselves, in the model's own order."""
        ...


def active_parameters(network: Trained) -> list[tuple[str, nn.Parameter]]:
    """Of what travels, what has gradients now."""
    return [(name, p) for name, p in network.trained_parameters() if p.requires_grad]


@contextlib.contextmanager
def training_only(network: Trained, names: Collection[str] | None) -> Iterator[None]:
    """Of what has gradients now, these tensors alone have any for a while; None: all."""
    chosen = None if names is None else set(names)
    active = [] if chosen is None else active_parameters(network)
    resting = [p for name, p in active if chosen is not None and name not in chosen]
    try:
        for parameter in resting:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in resting:
            parameter.requires_grad_(True)
