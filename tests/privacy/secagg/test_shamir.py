"""Secret sharing: what shares give back, what they hide, and which wrong ones are found."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.privacy.secagg import shamir
from umbel.privacy.secagg.shamir import P

secrets = st.one_of(st.sampled_from([0, 1, P - 1, 2**255, 2**128]), st.integers(0, P - 1))


def lagrange(shares: dict[int, int], at: int) -> int:
    """The interpolated value at any point, from the textbook formula and Fermat's inverse."""
    total = 0
    for x, y in shares.items():
        term = y
        for other in shares:
            if other != x:
                term = term * (at - other) * pow(x - other, P - 2, P) % P
        total += term
    return total % P


@st.composite
def dealt(draw, most=12):
    """A secret, a threshold, and shares at random points."""
    n = draw(st.integers(1, most))
    points = draw(st.lists(st.integers(1, 10_000), min_size=n, max_size=n, unique=True))
    threshold = draw(st.integers(1, n))
    secret = draw(secrets)
    values = shamir.share(secret, threshold, points, os.urandom)
    return secret, threshold, dict(zip(points, values, strict=True))


@given(dealt(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_any_threshold_of_shares_gives_back_the_secret(deal, chance):
    secret, threshold, shares = deal
    chosen = dict(chance.sample(sorted(shares.items()), threshold))
    assert shamir.combine(chosen) == secret == lagrange(chosen, 0)


@given(dealt(), secrets)
@settings(max_examples=40, deadline=None)
def test_one_share_fewer_than_the_threshold_fits_every_secret(deal, candidate):
    """For every candidate there is a polynomial of the right degree through the shares that are seen."""
    _, threshold, shares = deal
    seen = dict(list(shares.items())[: threshold - 1])
    witness = {0: candidate, **seen}  # threshold points: one polynomial of degree threshold - 1
    assert all(lagrange(witness, x) == y for x, y in seen.items())
    other = max(shares) + 1
    completed = {**seen, other: lagrange(witness, other)}
    assert shamir.combine(completed) == candidate


def test_shares_beyond_the_secret_are_uniform_whatever_the_secret_is():
    """Threshold 2: one share is its point times a uniform coefficient; its top bits are even."""
    counts = [0] * 16
    for _ in range(8000):
        (value,) = shamir.share(0, 2, [3, 4], os.urandom)[:1]
        counts[value >> 252] += 1
    statistic = sum((count - 500) ** 2 / 500 for count in counts)
    assert statistic < 60  # chi-square with 15 degrees: beyond it by chance once in 2 million


@given(dealt(most=14), st.data())
@settings(max_examples=60, deadline=None)
def test_wrong_shares_are_named_up_to_half_of_the_shares_to_spare(deal, data):
    secret, threshold, shares = deal
    errors = data.draw(st.integers(0, (len(shares) - threshold) // 2))
    wrong = data.draw(st.permutations(sorted(shares)))[:errors]
    received = dict(shares)
    for x in wrong:
        received[x] = (received[x] + data.draw(st.integers(1, P - 1))) % P
    found = shamir.decode(received, threshold)
    assert found is not None
    assert found[0] == secret
    assert sorted(found[1]) == sorted(wrong)


@pytest.mark.parametrize(("n", "threshold"), [(3, 2), (5, 3), (6, 4), (9, 5), (10, 4), (31, 17)])
def test_more_wrong_shares_than_that_give_nothing_rather_than_another_secret(n, threshold):
    chance = random.Random(n)
    for _ in range(10):
        values = shamir.share(chance.randrange(P), threshold, range(1, n + 1), os.urandom)
        shares = dict(enumerate(values, start=1))
        for x in chance.sample(range(1, n + 1), (n - threshold) // 2 + 1):
            shares[x] = chance.randrange(P)
        assert shamir.decode(shares, threshold) is None


def test_colluders_beyond_the_bound_are_believed_so_the_secret_must_be_checked_against_its_hash():
    """Shares of another polynomial, as many as make it the nearest: the decoder cannot know."""
    right = shamir.share(7, 3, range(1, 8), os.urandom)
    other = shamir.share(8, 3, range(1, 8), os.urandom)
    mixed = dict(enumerate([*other[:5], *right[5:]], start=1))
    assert shamir.decode(mixed, 3) == (8, [6, 7])


def test_fewer_shares_than_the_threshold_are_not_decoded():
    values = shamir.share(5, 4, range(1, 8), os.urandom)
    assert shamir.decode(dict(enumerate(values[:3], start=1)), 4) is None
    assert shamir.decode({}, 1) is None


@pytest.mark.parametrize("secret", [0, 1, P - 1])
def test_the_zero_polynomial_and_its_neighbours_are_decoded_around_too(secret):
    shares = dict.fromkeys(range(1, 8), secret)  # the constant polynomial is one of degree 0
    assert shamir.decode(shares, 3) == (secret, [])
    assert shamir.decode({**shares, 2: 9, 5: 11}, 3) == (secret, [2, 5])


def test_a_hundred_shares_are_decoded_around_every_error_that_can_be():
    chance = random.Random(100)
    values = shamir.share(123456789, 56, range(1, 101), os.urandom)
    shares = dict(enumerate(values, start=1))
    wrong = sorted(chance.sample(range(1, 101), 22))
    for x in wrong:
        shares[x] ^= 1
    assert shamir.decode(shares, 56) == (123456789, wrong)


@pytest.mark.parametrize("secret", [-1, P, 2**256 - 1, 2**256])
def test_what_is_no_element_of_the_field_is_not_shared(secret):
    with pytest.raises(ValueError, match="element of the field"):
        shamir.share(secret, 1, [1], os.urandom)


@pytest.mark.parametrize("threshold", [-1, 0, 4])
def test_a_threshold_that_the_shares_cannot_meet_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold"):
        shamir.share(1, threshold, [1, 2, 3], os.urandom)


def test_random_elements_are_drawn_again_where_they_are_beyond_the_field():
    draws = iter([b"\xff" * 32, P.to_bytes(32, "big"), (P - 1).to_bytes(32, "big")])
    assert shamir.random_element(lambda n: next(draws)) == P - 1


def test_the_field_is_of_prime_order():
    chance = random.Random(1)
    odd, twos = P - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in [2, 3, 5, *(chance.randrange(2, P - 1) for _ in range(30))]:  # Miller and Rabin
        x = pow(base, odd, P)
        chain = [pow(x, 2**k, P) for k in range(twos)]
        assert x == 1 or P - 1 in chain
