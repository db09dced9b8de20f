"""Shamir's secret sharing (Shamir 1979) over the prime field of 2^256 - 189, with error decoding.

Guarantee: fewer than `threshold` shares of a secret tell nothing about it, whatever is computed
from them. Assumes coefficients from the operating system's generator. The running time of Python's
integers depends on their values, so an attacker on the same machine may learn from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

P = 2**256 - 189
SHARE_BYTES = 32


def random_element(entropy: Callable[[int], bytes]) -> int:
    """A uniform element of the field."""
    while (value := int.from_bytes(entropy(SHARE_BYTES), "big")) >= P:
        pass
    return value


def share(
    secret: int, threshold: int, points: Sequence[int], entropy: Callable[[int], bytes]
) -> list[int]:
    """Shares of a secret below P at distinct `points` (not 0); any `threshold` of them give it back."""
    if not 0 <= secret < P:
        raise ValueError("A secret must be an element of the field.")
    if not 1 <= threshold <= len(points):
        raise ValueError(f"A threshold of {threshold} does not fit {len(points)} shares.")
    coefficients = [random_element(entropy) for _ in range(threshold - 1)]

    def at(x: int) -> int:
        value = 0
        for coefficient in coefficients:
            value = (value + coefficient) * x % P
        return (value + secret) % P

    return [at(x) for x in points]


@lru_cache(maxsize=64)
def _lagrange_at_zero(points: tuple[int, ...]) -> tuple[int, ...]:
    """Weights of the values at `points` in the interpolated value at 0; one set serves all secrets."""
    weights = []
    for x in points:
        top = bottom = 1
        for other in points:
            if other != x:
                top = top * other % P
                bottom = bottom * (other - x) % P
        weights.append(top * pow(bottom, -1, P) % P)
    return tuple(weights)


def combine(shares: Mapping[int, int]) -> int:
    """The secret from shares by point; exactly `threshold` of them, all of them right."""
    weights = _lagrange_at_zero(tuple(shares))
    return sum(w * y for w, y in zip(weights, shares.values(), strict=True)) % P


def decode(shares: Mapping[int, int], threshold: int) -> tuple[int, list[int]] | None:
    """The secret and the points of wrong shares, if at most (shares - threshold) / 2 are wrong.

    Gao's decoder of Reed-Solomon codes (Gao 2003, Algorithm 1): the extended Euclidean algorithm on
    the polynomial through all shares. None if no polynomial of degree < threshold is near enough.
    """
    points, values = list(shares), list(shares.values())
    if len(points) < threshold:
        return None
    everywhere_zero = [1]
    for x in points:
        everywhere_zero = _multiply(everywhere_zero, [-x % P, 1])
    a, b = everywhere_zero, _interpolate(points, values, everywhere_zero)
    u, v = [0], [1]
    while 2 * (len(b) - 1) >= len(points) + threshold and b != [0]:
        quotient, remainder = _divide(a, b)
        a, b = b, remainder
        u, v = v, _subtract(u, _multiply(quotient, v))
    polynomial, remainder = _divide(b, v)
    if remainder != [0] or len(polynomial) > threshold:
        return None
    wrong = [x for x, y in shares.items() if _evaluate(polynomial, x) != y]
    if 2 * len(wrong) > len(points) - threshold:
        return None
    return polynomial[0], wrong


def _trim(polynomial: list[int]) -> list[int]:
    while len(polynomial) > 1 and polynomial[-1] == 0:
        polynomial.pop()
    return polynomial


def _multiply(a: Sequence[int], b: Sequence[int]) -> list[int]:
    product = [0] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        if x:
            for j, y in enumerate(b):
                product[i + j] = (product[i + j] + x * y) % P
    return _trim(product)


def _subtract(a: Sequence[int], b: Sequence[int]) -> list[int]:
    longest = max(len(a), len(b))
    padded = [list(p) + [0] * (longest - len(p)) for p in (a, b)]
    return _trim([(x - y) % P for x, y in zip(*padded, strict=True)])


def _divide(a: Sequence[int], b: Sequence[int]) -> tuple[list[int], list[int]]:
    remainder, quotient = list(a), [0] * max(1, len(a) - len(b) + 1)
    inverse = pow(b[-1], -1, P)
    for shift in range(len(a) - len(b), -1, -1):
        factor = remainder[shift + len(b) - 1] * inverse % P
        quotient[shift] = factor
        if factor:
            for j, y in enumerate(b):
                remainder[shift + j] = (remainder[shift + j] - factor * y) % P
    return _trim(quotient), _trim(remainder)


def _evaluate(polynomial: Sequence[int], x: int) -> int:
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * x + coefficient) % P
    return value


def _interpolate(points: list[int], values: list[int], zero_at_all: list[int]) -> list[int]:
    """The polynomial through all points, from the one that is zero at all of them."""
    total = [0]
    for x, y in zip(points, values, strict=True):
        others, _ = _divide(zero_at_all, [-x % P, 1])
        weight = y * pow(_evaluate(others, x), -1, P) % P
        total = _subtract(total, [-weight * c % P for c in others])
    return total
