"""What robust rules have in common: how many vectors may be Byzantine, and arithmetic on a stack of them.

Notation of the papers: n vectors x_1, ..., x_n in R^d, of which at most f are Byzantine: what their
senders like.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar

import numpy as np

from ..averaging import FedAvg

_COLUMNS = 2**16
"""Entries of each vector that are in float64 at a time: the whole stack would be twice as large."""


def byzantine_of(share: float, clients: int) -> int:
    """How many of these clients a share means: rounded up to whole ones, as a worst case is counted."""
    # A share that is a decimal fraction comes out a little above a whole number: 0.07 of 100.
    return math.ceil(share * clients - 1e-9)


class Compared(FedAvg):
    """w <- w + learning_rate * (what a rule makes of the vectors in place of their mean).

    Every vector counts once, no matter whose it is. ``attackers`` is the share of clients that may be
    Byzantine, rounded up; each of them may spoil a vector of its own, so f is as many.

    Guarantee: with at most f Byzantine vectors of n, n as ``refusal`` asks, what is added is bounded by the
    honest ones, as the rule's paper says. Assumption: honest vectors are alike. A rule that compares cannot
    tell a client with unusual data from one that lies.
    """

    sees: ClassVar = "GROUPS"
    when = "Clients that may send what they like; the plan says against how many it holds."
    needs: ClassVar[str] = "n >= 2 f + 1"
    """Of the n vectors for f Byzantine ones, as in the paper."""

    def __init__(self, attackers: float = 0.1, learning_rate: float = 1.0) -> None:
        super().__init__(learning_rate)
        if not 0 <= attackers < 0.5:
            raise ValueError(
                f"attackers = {attackers} must lie in [0, 0.5): a share of the clients"
            )
        self._attackers = attackers

    @classmethod
    def tolerates(cls, vectors: int) -> int:
        """The largest f for so many vectors; below 0 if there are too few for any."""
        return (vectors - 1) // 2

    def byzantine(self, asked: int) -> int:
        """f, if this many clients are asked."""
        return byzantine_of(self._attackers, asked)

    def refusal(self, vectors: int, asked: int) -> str:
        byzantine, most = self.byzantine(asked), self.tolerates(vectors)
        if byzantine <= most:
            return ""
        tolerated = f"holds against {most} at most" if most > 0 else "holds against none"
        return (
            f"strategy.options.attackers = {self._attackers:g} means that {byzantine} of {asked} clients may "
            f"be Byzantine, each in a vector of its own, and of {vectors} vectors this rule {tolerated} "
            f"({self.needs}): lower it, ask more clients (or form more groups), or choose another rule: "
            '"median" tolerates the most'
        )

    @abstractmethod
    def combine(self, updates: np.ndarray, asked: int) -> np.ndarray: ...


def columns(vectors: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Some columns of the stack at a time, float64."""
    for start in range(0, vectors.shape[1], _COLUMNS):
        part = slice(start, start + _COLUMNS)
        yield part, vectors[:, part].astype(np.float64)


def by_columns(vectors: np.ndarray, rule: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A rule that treats every coordinate by itself; float64[d]."""
    found = np.zeros(vectors.shape[1])
    for part, block in columns(vectors):
        found[part] = rule(block)
    return found


def distances(vectors: np.ndarray, center: np.ndarray) -> np.ndarray:
    """L2 distance of each vector from `center`; float64[n]."""
    squared = np.zeros(len(vectors))
    for part, block in columns(vectors):
        block -= center[part]
        squared += np.einsum("kd,kd->k", block, block)
    return np.sqrt(squared)


def weighted_sum(vectors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """sum_k weights_k x_k; float64[d]."""
    return by_columns(vectors, lambda block: np.einsum("k,kd->d", weights, block))
