"""LA-LoRA: local steps take turns with the two factors, and gradients go through a low-pass filter."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from .averaging import FedAvg
from .contract import LocalRule, Told, told_number
from .factors import factor_of, without

if TYPE_CHECKING:
    from torch import Tensor

_SMOOTHING = "smoothing"


class TurnsAndFilter(LocalRule):
    """Even steps of the job train B, odd ones A, each with a filtered gradient.

    Which factor a step trains follows from its number, so a step of DP-SGD clips each example's gradient of
    that factor (and of a head) alone, and adds its noise there: the whole norm is for what moves. To mask
    a step that was clipped over both would leave the other one's part of the norm unused. The filter reads
    noised gradients, so it is post-processing. A head's gradient is not filtered: its rows are classes.
    """

    def __init__(self, told: Told) -> None:
        super().__init__(told)
        self._strength = told_number(told, _SMOOTHING)

    def trains(self, step: int, names: Collection[str]) -> Collection[str]:
        return without("B" if step % 2 else "A", names)

    def correct(self, name: str, gradient: Tensor, weight: Tensor, start: Tensor) -> None:
        if self._strength and factor_of(name):
            gradient.copy_(smoothed(gradient, self._strength))


def smoothed(gradient: Tensor, strength: float) -> Tensor:
    """A gradient without its high frequencies: x with (1 - strength * L) x = gradient.

    L is the Laplacian over rows and columns, whose ends meet, so a component that oscillates k times over n
    rows and l times over m columns is divided by 1 + strength * (4 - 2 cos(2 pi k / n) - 2 cos(2 pi l / m)),
    and the mean stays. gradient: any float tensor of at least one dimension; further ones are columns.
    """
    import torch

    table = gradient.reshape(gradient.shape[0], -1)
    rows, columns = table.shape
    damped = 1 + strength * (
        _waves(rows, gradient).unsqueeze(1) + _waves(columns, gradient)[: columns // 2 + 1]
    )
    found = torch.fft.irfft2(torch.fft.rfft2(table) / damped, s=(rows, columns))
    return found.reshape(gradient.shape)


def _waves(count: int, like: Tensor) -> Tensor:
    import torch

    turns = torch.arange(count, dtype=like.dtype, device=like.device) * (2 * math.pi / count)
    return 2 - 2 * torch.cos(turns)


class LaLora(FedAvg):
    """LA-LoRA (arXiv 2602.19926): each local step trains B or A, by turns, on low-pass filtered gradients.

    With one factor at rest a step's noise enters the product once. The paper has a fixed low-pass filter over
    the entries of a gradient; the one here is the Laplacian smoothing of its authors' program for language
    models (github.com/junkangLiu0/LA-LORA), with the same strength by default. Both factors are averaged.
    """

    local = TurnsAndFilter
    fits = ("lora",)
    when = "LoRA with several local steps under much noise (epsilon of 1 or 2)."

    def __init__(self, smoothing: float = 1.0, learning_rate: float = 1.0) -> None:
        super().__init__(learning_rate)
        if not 0 <= smoothing < math.inf:
            raise ValueError(f"smoothing = {smoothing} must be 0 or more")
        self._smoothing = smoothing

    def told(self, round_: int) -> Mapping[str, float]:
        return {_SMOOTHING: self._smoothing}
