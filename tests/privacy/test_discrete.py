"""Discrete Gaussian noise against its probabilities, computed without the sampler."""

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import chisquare

from umbel.privacy.noise.discrete import _Coins, discrete_gaussian
from umbel.privacy.randomness import SecretStream

KEY = bytes(range(32))


def probabilities(variance, most):
    """P(-most) .. P(most), in floating point."""
    xs = np.arange(-40 * most, 40 * most + 1)
    weights = np.exp(-(xs.astype(float) ** 2) / (2 * float(variance)))
    weights /= weights.sum()
    middle = 40 * most
    return weights[middle - most : middle + most + 1]


@pytest.mark.parametrize("variance", [Fraction(1, 4), Fraction(1), Fraction(10, 3), Fraction(40)])
def test_draws_have_the_probabilities_of_the_definition(variance):
    n, most = 20_000, max(2, math.ceil(3 * math.sqrt(variance)))
    drawn = np.array(discrete_gaussian(n, variance, SecretStream.from_key(KEY)))
    counts = np.array([(drawn == x).sum() for x in range(-most, most + 1)])
    expected = n * probabilities(variance, most)
    kept = expected > 5
    observed = np.append(counts[kept], n - counts[kept].sum())
    wanted = np.append(expected[kept], n - expected[kept].sum())
    enough = wanted > 5
    if not enough.all():
        observed = np.append(observed[enough], observed[~enough].sum() + 0)
        wanted = np.append(wanted[enough], wanted[~enough].sum())
    assert chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > 1e-4


def test_wide_noise_has_its_standard_deviation_and_no_mean():
    variance = Fraction(10**6)
    drawn = np.array(discrete_gaussian(4000, variance, SecretStream.from_key(KEY)), dtype=float)
    assert abs(drawn.mean()) < 5 * 1000 / math.sqrt(4000)
    assert drawn.std() == pytest.approx(1000, rel=0.06)


def test_the_sum_of_shares_is_distributed_like_one_draw():
    whole, shares = Fraction(36), 4
    stream = SecretStream.from_key(KEY)
    sums = np.array([sum(discrete_gaussian(shares, whole / shares, stream)) for _ in range(8000)])
    most = 15
    expected = 8000 * probabilities(whole, most)
    counts = np.array([(sums == x).sum() for x in range(-most, most + 1)])
    assert chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-4


def test_two_streams_draw_different_noise_and_one_key_the_same():
    def drawn(stream):
        return discrete_gaussian(20, Fraction(100), stream).tolist()

    assert drawn(SecretStream.from_key(KEY)) == drawn(SecretStream.from_key(KEY))
    assert drawn(SecretStream.from_os()) != drawn(SecretStream.from_os())


def test_no_noise_is_not_noise():
    with pytest.raises(ValueError, match="variance must be above 0"):
        discrete_gaussian(1, Fraction(0), SecretStream.from_os())


@pytest.mark.parametrize("variance", [Fraction(1, 4), Fraction(10, 3), Fraction(10**14)])
def test_coins_that_are_all_decided_exactly_fall_the_same(variance, monkeypatch):
    quick = discrete_gaussian(300, variance, SecretStream.from_key(KEY))
    monkeypatch.setattr("umbel.privacy.noise.discrete._WINDOW", 2.0)
    exact = discrete_gaussian(300, variance, SecretStream.from_key(KEY))
    assert quick.tolist() == exact.tolist()


@pytest.mark.parametrize("gamma", [Fraction(1), Fraction(1, 3), Fraction(0)])
def test_a_coin_on_the_edge_takes_more_bits_until_it_is_decided(gamma):
    """The first 64 places are those of exp(-gamma) itself: the next ones decide."""
    with localcontext(prec=200):
        chance = (-Decimal(gamma.numerator) / gamma.denominator).exp()
        first = min(int(chance * 2**64), 2**64 - 1)
        rest = chance * 2**64 - first
        coins = _Coins(Fraction(1), SecretStream.from_key(KEY))
        heads = sum(coins._is_below(first, gamma) for _ in range(2000))
    assert heads / 2000 == pytest.approx(float(rest), abs=0.06)


def test_noise_wider_than_words_is_refused():
    with pytest.raises(ValueError, match="variance must be below"):
        discrete_gaussian(1, Fraction(2**100), SecretStream.from_os())
