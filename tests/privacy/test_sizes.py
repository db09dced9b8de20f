"""Published sizes: their noise is exactly what their epsilon says, and their floor costs nothing."""

import math
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.privacy.accounting.accountant import epsilon
from umbel.privacy.noise.discrete import _falls, two_sided_geometric
from umbel.privacy.noise.sizes import SIZE_EPSILON, SIZE_EVENT, SMALLEST_SIZE, published_size
from umbel.privacy.randomness import SecretStream, reproducible_stream

DRAWS = 20_000


class Words:
    """A stream of chosen 64-bit words."""

    def __init__(self, *words):
        self._words = list(words)

    def words(self, n):
        import numpy as np

        assert n == 2
        return np.array([self._words.pop(0)], dtype="<u8").view("<u4")


def test_noise_is_two_sided_geometric_with_the_ratio_that_epsilon_says():
    """Each value against its exact probability (1 - r) / (1 + r) * r^|x|, r = e^-0.1."""
    stream = SecretStream.from_key(bytes(range(32)))
    found = Counter(two_sided_geometric(10, stream) for _ in range(DRAWS))
    ratio = math.exp(-SIZE_EPSILON)
    chi = 0.0
    for value in range(-25, 26):
        expected = DRAWS * (1 - ratio) / (1 + ratio) * ratio ** abs(value)
        chi += (found[value] - expected) ** 2 / expected
    # 51 cells: mean 51, standard deviation 10.
    assert chi < 51 + 6 * 10.1
    assert abs(sum(n * v for v, n in found.items())) / DRAWS < 6 * 14.2 / math.sqrt(DRAWS)


@given(st.integers(1, 40), st.integers(1, 40))
@settings(deadline=None, max_examples=25)
def test_a_coin_falls_with_probability_exp_of_minus_its_ratio(part, whole):
    """By its first coins, exactly: the odd lengths of a run whose k-th coin has gamma / k."""
    part, whole = min(part, whole), max(part, whole)
    gamma = Fraction(part, whole)
    at_least, chance, term = Fraction(1), Fraction(0), Fraction(1)
    for k in range(1, 40):
        term *= gamma / k
        if k % 2:
            chance += at_least - term
        at_least = term
    assert float(chance) == pytest.approx(math.exp(-part / whole), abs=1e-15)
    # The very code walks this run; a word of 0 goes on, and 2 * whole - 1 ends it (not at once where
    # part is whole, for that coin always falls).
    if part < whole:
        assert _falls(part, whole, Words(whole - 1))
    assert not _falls(part, whole, Words(0, 2 * whole - 1))
    assert _falls(part, whole, Words(0, 0, 3 * whole - 1))


def test_an_event_says_what_the_noise_costs():
    assert epsilon([SIZE_EVENT], 1e-9) == pytest.approx(SIZE_EPSILON)
    assert SIZE_EVENT.noise_multiplier == 10


@given(st.integers(0, 400), st.integers(0, 2**32))
@settings(deadline=None, max_examples=60)
def test_the_floor_is_the_only_thing_that_is_done_to_a_noised_size(count, seed):
    noise = two_sided_geometric(10, reproducible_stream(seed, "size"))
    found = published_size(count, reproducible_stream(seed, "size"))
    assert found == max(SMALLEST_SIZE, count + noise)


def test_sizes_of_neighbours_differ_by_at_most_the_ratio_also_at_the_floor():
    """Exact distributions of what is published from n and n + 1 records, floor and all."""
    ratio = math.exp(-SIZE_EPSILON)

    def mass(count):
        one = {v: (1 - ratio) / (1 + ratio) * ratio ** abs(v - count) for v in range(-900, 1100)}
        floored = Counter()
        for value, p in one.items():
            floored[max(SMALLEST_SIZE, value)] += p
        return floored

    for count in (0, 1, 99, 100, 101):
        one, other = mass(count), mass(count + 1)
        for value in range(SMALLEST_SIZE, 300):
            assert abs(math.log(one[value] / other[value])) <= SIZE_EPSILON + 1e-9
