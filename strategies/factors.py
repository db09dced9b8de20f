"""The factors of LoRA adapters by the names that PEFT gives their tensors: delta W = scaling * B A."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Literal

import numpy as np

from .channels import Shapes

Factor = Literal["A", "B"]
_CORE = re.compile(r"\.lora_B\.[^.]+\.core\.weight$")
_FACTOR = re.compile(r"\.lora_(?:embedding_)?([AB])(?:\.|$)")


def factor_of(name: str) -> Factor | None:
    """Which factor a tensor is; None of a head's, and of any other that is trained whole."""
    found = _FACTOR.search(name)
    return None if found is None else "A" if found[1] == "A" else "B"


def without(factor: Factor, names: Iterable[str]) -> list[str]:
    """All tensors but this factor's."""
    return [name for name in names if factor_of(name) != factor]


def without_factors(shapes: Shapes) -> Shapes:
    """Of these tensors, those that are no factors, such as a head's."""
    return {name: shape for name, shape in shapes.items() if factor_of(name) is None}


def but_shared(factors: str, names: Collection[str]) -> list[str]:
    """All tensors but these factors', if there are any of those: a model without them shares everything."""
    others = [name for name in names if (factor_of(name) or "-") not in factors]
    return others if len(others) < len(names) else []


def is_core(name: str) -> bool:
    """Whether a tensor stands between two fixed factors (``Rule.core``)."""
    return bool(_CORE.search(name))


def squared_norm(b: np.ndarray, a: np.ndarray) -> float:
    """||b a||^2 (Frobenius) of b (m, r) and a (r, n): of Gram matrices, so no m x n product is made."""
    return float(((b.T @ b) * (a @ a.T)).sum())
