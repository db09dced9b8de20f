"""From an attacker's correct guesses to a lower bound on epsilon (Steinke, Nasr, Jagielski 2023).

"Privacy Auditing with One (1) Training Run": each of m canaries is put into the training data with
probability 1/2, independently. Anyone who sees what the training releases may guess, for as many of
them as he likes, whether they were in. An (epsilon, delta)-differentially private training keeps
him from guessing much better than randomised response does (Theorem 5.2).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

_MOST = 30.0
_PRECISION = 1e-3


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Most that the chance of `correct` or more right guesses of `guesses` can be.

    It holds for every attacker against every training that is (epsilon, delta)-differentially
    private under adding or removing one example. Theorem 5.2, with r = `guesses`, v = `correct`
    and W a Binomial(r, e^epsilon / (1 + e^epsilon)):

        P[W >= v] + 2 m delta max_i P[v - i <= W < v] / i

    The number of guesses must not depend on which canaries were in.
    """
    if not 0 <= correct <= guesses <= canaries:
        raise ValueError(f"0 <= {correct} <= {guesses} <= {canaries} does not hold")
    chances = _binomial(guesses, epsilon)
    enough = float(chances[correct:].sum())
    if correct == 0:
        return 1.0
    below = np.cumsum(chances[correct - 1 :: -1]) / np.arange(1, correct + 1)
    return min(1.0, enough + 2 * canaries * delta * float(below.max()))


def epsilon_lower_bound(
    canaries: int, guesses: int, correct: int, delta: float, confidence: float = 0.95
) -> float:
    """The largest epsilon (to 0.001, rounded down) that so many right guesses refute.

    If the training is (epsilon, delta)-differentially private, the result is at most that
    epsilon with probability `confidence`, over the coins and the training's own randomness.
    """
    allowed = 1 - confidence
    if p_value(canaries, guesses, correct, 0.0, delta) >= allowed:
        return 0.0
    low, high = 0.0, _MOST
    while high - low > _PRECISION:
        middle = (low + high) / 2
        if p_value(canaries, guesses, correct, middle, delta) < allowed:
            low = middle
        else:
            high = middle
    return low


def _binomial(n: int, epsilon: float) -> npt.NDArray[np.float64]:
    """(n + 1,) probabilities of Binomial(n, 1 / (1 + exp(-epsilon)))."""
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    hits = np.arange(n + 1)
    log_right = -math.log1p(math.exp(-epsilon))
    log_wrong = log_right - epsilon
    logs = log_factorials[n] - log_factorials - log_factorials[::-1]
    return np.exp(logs + hits * log_right + (n - hits) * log_wrong)
