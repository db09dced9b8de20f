"""The residual of a base model: a second pair of factors in each adapted layer, which only the server moves.

It stands for what a rule puts into the base: W + scaling (R_B R_A + B A), with R_B (m, k) and R_A (k, n).
It goes down with the model, no owner trains it, and it never goes up (``learning.lora_residual`` puts it into
the network). Its width k is bounded, so what does not fit is dropped, smallest singular values first: the
best approximation of that rank (Eckart and Young 1936).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ..wire.arrays import Arrays
from ..wire.residual_names import R_A, R_B, is_residual, names_beside
from .contract import Shapes
from .factors import factor_of

_NOTHING = 2.0**-26
"""Of the largest singular value: what is below is float32's rounding, and no rank."""

_NETWORK = "backbone."
"""Before a layer's name in the network, and not in an adapter's file."""


@dataclass(frozen=True)
class Folded:
    """A residual after something was added to it."""

    b: np.ndarray
    """(m, k) float64; columns beyond its rank are zero."""
    a: np.ndarray
    """(k, n) float64, with rows as b has columns."""
    rank: int
    dropped: float
    """Frobenius norm of what did not fit."""


def with_residual(shapes: Shapes, width: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a plain LoRA adapter's tensors, and of residuals at most so wide after them."""
    plain = without_residual(shapes)
    found = dict(plain)
    for b, shape in plain.items() if width else ():
        if factor_of(b) == "B" and ".lora_B." in b:
            m, n = shape[0], plain[b.replace(".lora_B.", ".lora_A.")][-1]
            of_b, of_a = names_beside(b)
            k = min(width, m, n)
            found |= {of_a: (k, n), of_b: (m, k)}
    return found


def without_residual(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in shapes.items() if not is_residual(name)}


def residual_in(model: Arrays) -> Arrays:
    """A model's residuals, by name; none with most strategies."""
    return {name: array for name, array in model.items() if is_residual(name)}


def pairs_of_residual(model: Arrays) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Of each layer its name, R_B (m, k) and R_A (k, n), float32."""
    for name, array in residual_in(model).items():
        layer = name.removesuffix(R_B)
        if layer != name:
            yield layer, array, model[layer + R_A]


def pairs_of_adapter(tensors: Arrays, rank: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The same from a plain adapter's tensors: what its factors have beyond this rank."""
    for name, array in tensors.items():
        layer, found, _ = name.partition(".lora_B.")
        if found:
            yield layer, array[:, rank:], tensors[name.replace(".lora_B.", ".lora_A.")][rank:]


def residual_digest(pairs: Iterable[tuple[str, np.ndarray, np.ndarray]]) -> str:
    """SHA-256 over each layer's name, and its float32 columns and rows up to the last that is not zero."""
    digest = hashlib.sha256()
    for layer, b, a in sorted(pairs, key=lambda pair: pair[0].removeprefix(_NETWORK)):
        used = np.flatnonzero(np.any(b != 0, axis=0))
        k = int(used[-1]) + 1 if len(used) else 0
        digest.update(f"{layer.removeprefix(_NETWORK)} {len(b)} {a.shape[1]} {k}\n".encode())
        for part in (b[:, :k], a[:k]):
            digest.update(np.ascontiguousarray(part, dtype="<f4").tobytes())
    return digest.hexdigest()


def fold(b: np.ndarray, a: np.ndarray, left: np.ndarray, right: np.ndarray) -> Folded:
    """b a + left right as one pair as wide as the first: b (m, k), a (k, n), left (m, s), right (s, n).

    By QR of both sides and an SVD of the core, so nothing of size m x n is ever made. Both factors get the
    root of each singular value, so that neither is rounded more coarsely than the other.
    """
    width = b.shape[1]
    left_q, left_r = np.linalg.qr(np.hstack([b, left]))
    right_q, right_r = np.linalg.qr(np.vstack([a, right]).T)
    u, s, v = np.linalg.svd(left_r @ right_r.T, full_matrices=False)
    rank = int((s[:width] > _NOTHING * s[0]).sum()) if s.size and s[0] > 0 else 0
    root = np.sqrt(s[:rank])
    folded_b, folded_a = np.zeros_like(b), np.zeros_like(a)
    folded_b[:, :rank] = left_q @ (u[:, :rank] * root)
    folded_a[:rank] = (v[:rank] * root[:, None]) @ right_q.T
    return Folded(folded_b, folded_a, rank, float(np.linalg.norm(s[rank:])))
