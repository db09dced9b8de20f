"""The names of a residual's tensors beside those of a LoRA adapter, in the network and in all that travels.

A residual is a second pair of factors in an adapted layer: R_B (m, k), R_A (k, n) (``strategies.residual``).
"""

from __future__ import annotations

R_A = ".base_layer.residual_A.weight"
"""After the name of its layer."""
R_B = ".base_layer.residual_B.weight"


def is_residual(name: str) -> bool:
    """Whether a tensor is of what only the server moves (``Rule.residual``)."""
    return name.endswith((R_A, R_B))


def names_beside(b: str) -> tuple[str, str]:
    """The names of R_B and R_A in the layer of this factor B."""
    layer, _, _ = b.partition(".lora_B.")
    return layer + R_B, layer + R_A
