"""Renyi divergences of noisy steps, and the epsilon that they prove: the coarser of two proofs."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

# The bound for sampled steps holds for whole orders; for zCDP any order above 1 will do.
_WHOLE = np.array([*range(2, 33), 36, 40, 48, 56, 64, 80, 96, 128, 192, 256, 384, 512, 768, 1024.0])
_FINE = 1 + np.logspace(-4, 5, 2000)

Divergences = NDArray[np.float64]
"""A Renyi divergence for each of the whole orders; they add up over steps."""


@lru_cache(maxsize=4096)
def sampled_gaussian(sigma: float, rate: float) -> Divergences:
    """Of one Poisson-sampled Gaussian step (Mironov, Talwar, Zhang 2019, Section 3.3)."""
    if rate == 1:
        return concentrated(1 / (2 * sigma**2))
    k = np.arange(_WHOLE[-1] + 1)
    shared = k * (math.log(rate) - math.log1p(-rate)) + k * (k - 1) / (2 * sigma**2)
    found = []
    for order, choices in zip(_WHOLE, _choices(), strict=True):
        terms = choices + shared[: len(choices)] + order * math.log1p(-rate)
        top = terms.max()
        # The divergence cannot be negative; rounding can make it so.
        found.append(max(0.0, top + math.log(np.exp(terms - top).sum())) / (order - 1))
    return np.array(found)


@lru_cache(maxsize=1)
def _choices() -> tuple[Divergences, ...]:
    """log of the binomial coefficients of each whole order."""
    found = []
    for order in _WHOLE:
        k = np.arange(order + 1)
        found.append(gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1))
    return tuple(found)


def concentrated(rho: float) -> Divergences:
    """Of a rho-zCDP mechanism: rho times the order (Bun and Steinke 2016, Definition 1.1)."""
    return rho * _WHOLE


def epsilon(divergences: Divergences, delta: float) -> float:
    """What the divergences prove (Canonne, Kamath, Steinke 2020, Proposition 12)."""
    return _best(divergences, _WHOLE, delta)


def epsilon_zcdp(rho: float, delta: float) -> float:
    """What rho-zCDP proves by itself, over orders that are not whole too."""
    return _best(rho * _FINE, _FINE, delta) if rho else 0.0


def _best(divergences: Divergences, orders: Divergences, delta: float) -> float:
    proven = divergences + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)
    return max(0.0, float(proven.min()))
