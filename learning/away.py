"""Trained tensors moved by fixed random amounts, for as long as a model is tried out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from .model import Learner

_SHIFT, _SHARE = 0.05, 0.1
"""How far entries move: by this if all are alike (heads at zero), else by this share of their spread."""
_AMOUNTS = 1_000_003
"""Number of amounts drawn. They are used cyclically, so it is a prime: a draw for each entry took a
quarter of a second for 22 million."""
_SPREAD_OF = 4096
"""Number of entries from which the spread of a tensor is computed."""


@contextlib.contextmanager
def away_from_start(learner: Learner, seed: int) -> Iterator[None]:
    """Move what is trained away from where it was loaded, and leave everything as it was before.

    At their start heads and adapters are zero, and so is every gradient: whatever is compared would be
    equal. The amounts follow from `seed` alone.
    """
    network = learner.network
    needed = sum(parameter.numel() for _, parameter in network.trained_parameters())
    drawn = np.random.default_rng(seed).standard_normal(min(needed, _AMOUNTS), np.float32)
    amounts = torch.from_numpy(drawn).to(network.device)
    before, training = network.arrays(), network.training
    network.load(learner.initial)
    with torch.no_grad():
        used = 0
        for _, parameter in network.trained_parameters():
            entries = parameter.flatten()  # a copy, if they do not lie side by side
            used = _move(entries, amounts, used)
            parameter.copy_(entries.view_as(parameter))
    try:
        with torch.random.fork_rng(_devices(network.device)):
            yield
    finally:
        network.load(before)
        network.train(training)


def _move(entries: Tensor, amounts: Tensor, used: int) -> int:
    """Add to all entries the amounts from place `used` on; return where the next tensor goes on."""
    spread = float(entries[:: len(entries) // _SPREAD_OF + 1].float().std(correction=0))
    done = 0
    while done < len(entries):
        some = amounts[used : used + len(entries) - done]
        entries[done : done + len(some)].add_(
            some.to(entries.dtype), alpha=spread * _SHARE or _SHIFT
        )
        done, used = done + len(some), (used + len(some)) % len(amounts)
    return used


def _devices(device: torch.device) -> list[int]:
    return [torch.cuda.current_device()] if device.type == "cuda" else []
