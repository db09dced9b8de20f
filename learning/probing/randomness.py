"""Whether a network draws random numbers while it runs: no generator that it may use must move."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

_AGAIN = 16


def draws_nothing(
    call: Callable[[], list[Tensor]], close: Callable[[Tensor, Tensor, str], None]
) -> None:
    """Let `close` complain unless `call` gives the same twice, and many times if it draws anything.

    Some models draw and then ignore what they drew (layer drop with probability 0).
    """
    before = _states()
    expected = call()
    times = _AGAIN if _states() != before else 1
    for _ in range(times):
        for found, wanted in zip(call(), expected, strict=True):
            close(
                found,
                wanted,
                "the same call in training mode gives different numbers the second time",
            )


def _states() -> tuple[object, ...]:
    legacy: Any = np.random.get_state(legacy=True)
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return (
        torch.get_rng_state().numpy().tobytes(),
        tuple(state.numpy().tobytes() for state in devices),
        (legacy[1].tobytes(), legacy[2]),
        random.getstate(),
    )
