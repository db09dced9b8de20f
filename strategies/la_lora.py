"""LA-LoRA: local steps take turns with the two factors, and gradients go through a low-pass filter."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from .averaging import FedAvg
from .contract import LocalRule, Told
from .factors import without

if TYPE_CHECKING:
    from torch import Tensor

_KEPT = "low-pass"


class TurnsAndFilter(LocalRule):
    """Even steps of the job train B, odd ones A, each with a filtered gradient.

    Which factor a step trains follows from its number, so a step of DP-SGD clips each example's gradient of
    that factor (and of a head) alone, and adds its noise there: the whole norm is for what moves. To mask
    a step that was clipped over both would leave the other one's part of the norm unused. The filter reads
    noised gradients, so it is post-processing.
    """

    def __init__(self, told: Told) -> None:
        super().__init__(told)
        kept = told.get(_KEPT)
        if not isinstance(kept, int | float) or not 0 <= kept < 1:
            raise ValueError(f"{_KEPT} = {kept!r} must lie in [0, 1)")
        self._kept = float(kept)
        self._smooth: dict[str, Tensor] = {}
        self._steps: dict[str, int] = {}

    def trains(self, step: int, names: Collection[str]) -> Collection[str]:
        return without("B" if step % 2 else "A", names)

    def correct(self, name: str, gradient: Tensor, weight: Tensor, start: Tensor) -> None:
        if not self._kept:
            return
        if name not in self._smooth:
            self._smooth[name], self._steps[name] = gradient.clone().zero_(), 0
        self._steps[name] += 1
        smooth = self._smooth[name].mul_(self._kept).add_(gradient, alpha=1 - self._kept)
        gradient.copy_(smooth / (1 - self._kept ** self._steps[name]))


class LaLora(FedAvg):
    """LA-LoRA (arXiv 2602.19926): each local step trains B or A, by turns, on low-pass filtered gradients.

    With one factor at rest a step's noise enters the product once. The filter is of first order,
    s <- k s + (1 - k) g, divided by 1 - k^t as it begins at zero; it begins again in each round, because
    nothing stays with an owner. Both factors are averaged.
    """

    local = TurnsAndFilter
    fits = ("lora",)
    when = "LoRA with several local steps under much noise (epsilon of 1 or 2)."

    def __init__(self, low_pass: float = 0.9, learning_rate: float = 1.0) -> None:
        super().__init__(learning_rate)
        if not 0 <= low_pass < 1:
            raise ValueError(f"low_pass = {low_pass} must lie in [0, 1)")
        self._low_pass = low_pass

    def told(self, round_: int) -> Mapping[str, float]:
        return {_KEPT: self._low_pass}
