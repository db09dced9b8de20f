"""A residual in each LoRA layer: a second pair of factors that only the server moves (``Rule.residual``).

It stands for what was put into the base: W + scaling (R_B R_A + B A). It wraps the frozen layer, so it reads
what that reads, before any dropout of the adapter. Saved, the layer is plain LoRA of a larger rank, with the
factors [B, R_B] and [A; R_A] and the same scaling.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError

_NAME = "default"
"""Of the only adapter, as PEFT calls it."""


class Moved(nn.Module):
    """A frozen layer with a residual. PEFT finds the layer itself under the usual name.

    The attributes give the tensors the names of ``wire.residual_names``.
    """

    def __init__(self, layer: nn.Module, scaling: float, shape: tuple[int, int], rank: int) -> None:
        """shape: m and n of the weight."""
        super().__init__()
        m, n = shape
        device = next(layer.parameters()).device
        self.base_layer, self._scaling = layer, scaling
        self.residual_A = nn.Linear(n, rank, bias=False, device=device)
        self.residual_B = nn.Linear(rank, m, bias=False, device=device)
        for factor in (self.residual_A, self.residual_B):
            nn.init.zeros_(factor.weight)
            factor.weight.requires_grad_(False)

    def forward(self, x: Tensor, *more: Any, **named: Any) -> Tensor:
        found: Tensor = self.base_layer(x, *more, **named)
        return found + self._scaling * self.residual_B(self.residual_A(x))

    @property
    def rank(self) -> int:
        """Columns up to the last that is not zero."""
        used = self.residual_B.weight.detach().abs().amax(0).nonzero()
        return int(used.max()) + 1 if len(used) else 0


def put_residuals(adapted: nn.Module, most: int) -> None:
    """Give every LoRA layer a residual of zeros of at most so many columns.

    Raises ``ModelError`` for layers that are not linear.
    """
    from transformers.pytorch_utils import Conv1D

    for name, layer in _layers(adapted):
        linear = isinstance(layer.get_base_layer(), (nn.Linear, Conv1D))
        if not linear or _NAME not in layer.lora_A:
            raise ModelError(
                f"{name} is not a linear layer, but a strategy that moves the base needs linear layers: "
                "set another model.lora.target"
            )
        a: Any = layer.lora_A[_NAME]
        b: Any = layer.lora_B[_NAME]
        m, n = b.out_features, a.in_features
        layer.base_layer = Moved(layer.base_layer, layer.scaling[_NAME], (m, n), min(most, m, n))


def residual_rank(adapted: nn.Module) -> int:
    """The largest rank of its layers' residuals; 0 if there are none."""
    return max((layer.base_layer.rank for layer in _moved(adapted)), default=0)


@contextlib.contextmanager
def as_one_adapter(adapted: Any) -> Iterator[None]:
    """An adapter with residuals as plain LoRA of the rank of both together; any other as it is."""
    layers, more = _moved(adapted), residual_rank(adapted)
    before = [(layer.base_layer, layer.lora_A[_NAME], layer.lora_B[_NAME]) for layer in layers]
    config = adapted.peft_config[_NAME] if layers else None
    rank, alpha = (config.r, config.lora_alpha) if config else (0, 0.0)
    try:
        for layer, (moved, a, b) in zip(layers, before, strict=True):
            layer.base_layer = moved.base_layer
            layer.lora_A[_NAME] = _linear(a.weight, moved.residual_A.weight[:more], 0, rank + more)
            layer.lora_B[_NAME] = _linear(
                b.weight, moved.residual_B.weight[:, :more], 1, rank + more
            )
        if config:
            config.r, config.lora_alpha = rank + more, alpha * (rank + more) / rank
        yield
    finally:
        for layer, (moved, a, b) in zip(layers, before, strict=True):
            layer.base_layer, layer.lora_A[_NAME], layer.lora_B[_NAME] = moved, a, b
        if config:
            config.r, config.lora_alpha = rank, alpha


@torch.no_grad()
def _linear(factor: Tensor, residual: Tensor, along: int, rank: int) -> nn.Linear:
    """A factor and its residual side by side, with zeros up to this rank."""
    both = torch.cat([factor, residual], along)
    missing = rank - both.shape[along]
    padded = nn.functional.pad(both, (0, missing) if along else (0, 0, 0, missing))
    made = nn.Linear(padded.shape[1], padded.shape[0], bias=False, device=padded.device)
    made.weight.copy_(padded)
    return made


def _layers(adapted: nn.Module) -> list[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return [(name, part) for name, part in adapted.named_modules() if isinstance(part, LoraLayer)]


def _moved(adapted: nn.Module) -> list[Any]:
    return [layer for _, layer in _layers(adapted) if isinstance(layer.base_layer, Moved)]
