"""A LoRA adapter whose factors are made of the frozen weights, with a small core between them.

delta W = B R A, with B and A the leading singular vectors of W: only R is trained (``Rule.core``). A layer
of PEFT's takes part unchanged, for its second factor is a module that takes R and then B. Saved, the layer
is plain LoRA with the factors (B R, A) and a scaling of 1.

B and A never travel. They are computed in float64, with a sign that does not depend on the library, and
rounded to a grid of 2^-14, so that machines that round differently come to the same factors; if they
do not, the digests differ and nobody is averaged (``shaping.other_fixed``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from .quantization import weight_of

_GRID = 2.0**14
_NAME = "default"
"""Of the only adapter, as PEFT calls it."""


class Cored(nn.Module):
    """R and then B, in the place of a LoRA layer's second factor."""

    def __init__(self, out: Tensor) -> None:
        """out: B (m, r)."""
        super().__init__()
        rows, rank = out.shape
        self.core = nn.Linear(rank, rank, bias=False, device=out.device)
        self.out = nn.Linear(rank, rows, bias=False, device=out.device)
        nn.init.zeros_(self.core.weight)
        with torch.no_grad():
            self.out.weight.copy_(out)

    @property
    def weight(self) -> Tensor:
        """B R (m, r), as plain LoRA has it. PEFT asks a factor for its weight, too."""
        return self.out.weight @ self.core.weight

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(self.core(x))
        return found


def put_cores(adapted: nn.Module) -> None:
    """Give every LoRA layer factors of its own frozen weight, and a core of zeros between them.

    Raises ``ModelError`` for layers that are not linear, and for a rank beyond a layer's.
    """
    for name, layer in _layers(adapted):
        base: Any = layer.get_base_layer()
        weight = weight_of(base) if hasattr(base, "weight") else None
        if weight is None or weight.dim() != 2 or _NAME not in layer.lora_A:
            raise ModelError(
                f"{name} is not a linear layer, but fed-sb needs linear layers: set another "
                "model.lora.target"
            )
        matrix = weight.T if getattr(layer, "fan_in_fan_out", False) else weight
        rank = layer.lora_A[_NAME].weight.shape[0]
        if rank > min(matrix.shape):
            raise ModelError(
                f"model.lora.rank = {rank} is more than {name} has ({min(matrix.shape)}): lower it"
            )
        left, right = leading(matrix, rank)
        with torch.no_grad():
            layer.lora_A[_NAME].weight.copy_(right)
        layer.lora_B[_NAME] = Cored(left.to(weight.device))


def leading(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """B (m, r) and A (r, n), float32, of the largest `rank` singular values of `matrix` (m, n)."""
    left, _, right = torch.linalg.svd(matrix.cpu().double(), full_matrices=False)
    left, right = left[:, :rank], right[:rank]
    largest = right.gather(1, right.abs().argmax(dim=1, keepdim=True))
    signs = torch.where(largest < 0, -1.0, 1.0)  # a pair of vectors is unique but for its sign
    left, right = left * signs.T, right * signs
    return tuple((torch.round(f * _GRID) / _GRID).float() for f in (left, right))  # type: ignore[return-value]


@contextlib.contextmanager
def as_plain(adapted: nn.Module, core: bool) -> Iterator[None]:
    """An adapter with cores as plain LoRA, with B R in the place of the second factor."""
    found = [layer for _, layer in _layers(adapted)] if core else []
    cored = [layer.lora_B[_NAME] for layer in found]
    try:
        for layer, own in zip(found, cored, strict=True):
            rows, rank = own.weight.shape
            plain = nn.Linear(rank, rows, bias=False, device=own.out.weight.device)
            with torch.no_grad():
                plain.weight.copy_(own.weight)
            layer.lora_B[_NAME] = plain
        yield
    finally:
        for layer, own in zip(found, cored, strict=True):
            layer.lora_B[_NAME] = own


def _layers(adapted: nn.Module) -> list[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return [(name, part) for name, part in adapted.named_modules() if isinstance(part, LoraLayer)]
