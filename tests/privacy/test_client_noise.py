"""Client-level noise: what one client can change in a sum, and what hides that."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, chi2, norm

from umbel.errors import ProtocolError
from umbel.privacy.accounting.accountant import MechanismEvent, epsilon
from umbel.privacy.noise.client_noise import (
    COUNT_STEPS,
    UpdateNoise,
    clipping_range,
    count_noise,
    l2_norm,
    split_noise,
)
from umbel.privacy.noise.discrete import discrete_gaussian
from umbel.privacy.noise.scale import Scale
from umbel.privacy.randomness import SecretStream
from umbel.privacy.secagg.fixed_point import Contribution, Layout, decode, encode

MEMBERS, CLIP = 10, 8.0
SCALE = Scale(MEMBERS, CLIP)


def stream(byte=1):
    return SecretStream.from_key(bytes([byte]) * 32)


def vector(update, noise, byte=2):
    """A client's part of a sum on the grid, int64."""
    layout = Layout(sum(array.size for array in update), 0, 0)
    part = Contribution(update, [], [], 1, noise)
    words = encode(part, layout, SCALE, 1, stream(byte).words)
    return words[: layout.parameters].view("<i4").astype(np.int64)


def clipped(update, norm=1.0, byte=2):
    return vector(update, UpdateNoise(norm, 0.0, 1, stream()), byte)


def test_an_endless_update_is_none_at_all():
    """A refusal would tell that this client's training diverged."""
    update = np.full(2000, 3e38, np.float32)
    assert not clipped([update], norm=0.5).any()
    assert np.linalg.norm(clipped([update / 1e22], norm=0.5)) > 0


@given(
    st.integers(1, 400),
    st.floats(0.01, 4.0),
    st.floats(1e-3, 1e5),
    st.integers(0, 2**32 - 1),
    st.integers(0, 250),
)
@settings(max_examples=200, deadline=None)
def test_two_updates_are_never_further_apart_than_twice_the_norm(size, norm, length, seed, byte):
    generator = np.random.default_rng(seed)
    one = generator.normal(size=size).astype(np.float32)
    one *= np.float32(length / np.linalg.norm(one))
    other = -one if seed % 2 else generator.standard_cauchy(size=size).astype(np.float32)
    first, second = clipped([one], norm, byte), clipped([other], norm, byte + 1)
    bound = math.floor(norm * 2**SCALE.bits)
    assert math.isqrt(int((first**2).sum())) <= bound
    assert int(((first - second) ** 2).sum()) <= 4 * bound**2


def test_an_update_within_the_norm_stays_whole_and_a_longer_one_keeps_its_direction():
    update = np.linspace(-0.1, 0.1, 50, dtype=np.float32)
    grid = 2.0**SCALE.bits
    assert np.abs(clipped([update]) / grid - update).max() <= 1 / grid
    long = clipped([1000 * update]) / grid
    assert np.linalg.norm(long) == pytest.approx(1.0, rel=1e-4)
    assert long @ update == pytest.approx(np.linalg.norm(long) * np.linalg.norm(update), rel=1e-6)


def test_one_clip_spans_all_arrays():
    arrays = [np.full((3, 4), 5.0, np.float32), np.full(7, -2.0, np.float32)]
    assert l2_norm(arrays) == pytest.approx(math.sqrt(12 * 25 + 7 * 4))
    assert np.linalg.norm(clipped(arrays) / 2.0**SCALE.bits) == pytest.approx(1.0, rel=1e-4)


def test_as_many_shares_as_are_sure_to_come_make_the_noise_that_is_charged():
    multiplier, shares, size = 0.7, 6, 20_000
    zero = [np.zeros(size, np.float32)]
    parts = [vector(zero, UpdateNoise(1.0, multiplier, shares, stream(s))) for s in range(shares)]
    noise = np.sum(parts, axis=0) / 2.0**SCALE.bits
    wanted = (2 * multiplier) ** 2
    low, high = chi2.ppf([1e-6, 1 - 1e-6], size) * wanted / size
    assert low <= noise.var() <= high
    assert abs(noise.mean()) < 5 * math.sqrt(wanted / size)


def test_the_mean_of_a_cohort_is_right_on_average():
    size, multiplier = 4000, 0.2
    update = np.full(size, 0.5 / math.sqrt(size), np.float32)
    layout, parts = Layout(size, 0, 0), []
    for member in range(MEMBERS):
        noise = UpdateNoise(1.0, multiplier, MEMBERS, stream(member))
        part = Contribution([update], [], [], 1, noise)
        parts.append(encode(part, layout, SCALE, 1, stream(99 + member).words))
    total = np.sum(parts, axis=0, dtype=np.uint32)
    mean = decode(total, layout, SCALE, 1, MEMBERS).mean
    deviation = 2 * multiplier / MEMBERS
    assert abs(float((mean - update).sum())) < 5 * deviation * math.sqrt(size)


def empirical_epsilon(deviation, gap, delta, trials, byte):
    """A lower bound on epsilon, at 99 % confidence: tell two inputs `gap` apart by a threshold."""
    noise = np.asarray(discrete_gaussian(2 * trials, Fraction(round(deviation) ** 2), stream(byte)))
    low, high = noise[:trials], noise[trials:] + gap
    best = 0.0
    for threshold in np.linspace(-gap, 2 * gap, 25):
        hits, alarms = int((high > threshold).sum()), int((low > threshold).sum())
        power = beta.ppf(0.005, hits, trials - hits + 1) if hits else 0.0
        false = beta.ppf(0.995, alarms + 1, trials - alarms) if alarms < trials else 1.0
        if power > delta:
            best = max(best, math.log((power - delta) / false))
    return best


def test_an_attack_beats_noise_shared_among_all_and_not_ours():
    """Colluders leave out their share and others drop out: only `shares` clients' noise is left."""
    members, shares, multiplier, delta = 40, 4, 1.2, 1e-3
    claimed = epsilon([MechanismEvent(multiplier, 1.0, 1, "concentrated")], delta)
    bound = 2**SCALE.bits // 4
    whole = 2 * bound * multiplier
    ours = math.sqrt(shares) * math.ceil(whole / math.sqrt(shares))
    thin = math.sqrt(shares) * whole / math.sqrt(members)  # each adds 1 / members of the variance
    assert empirical_epsilon(thin, 2 * bound, delta, 20_000, 1) > claimed
    assert empirical_epsilon(ours, 2 * bound, delta, 20_000, 2) <= claimed
    part = vector([np.zeros(5000, np.float32)], UpdateNoise(0.25, multiplier, shares, stream()))
    assert part.std() * math.sqrt(shares) == pytest.approx(whole, rel=0.05)


@pytest.mark.parametrize(("norm", "words"), [(1e-5, "too fine"), (7.9, "no room for its noise")])
def test_a_norm_that_the_grid_has_no_room_for_is_refused(norm, words):
    update = [np.ones(1000, np.float32)]
    with pytest.raises(ProtocolError, match=words):
        vector(update, UpdateNoise(norm, 1.0, 4, stream()))


@pytest.mark.parametrize("multiplier", [0.0, 0.3, 4.0])
def test_the_range_of_norms_is_what_the_grid_takes(multiplier):
    update = [np.ones(1000, np.float32)]
    low, high = clipping_range(multiplier, 4, 1000, SCALE)
    for fits in (low, high, math.sqrt(low * high)):
        vector(update, UpdateNoise(fits, multiplier, 4, stream()))
    for unfit in (0.9 * low, 1.1 * high):
        with pytest.raises(ProtocolError):
            vector(update, UpdateNoise(unfit, multiplier, 4, stream()))


def test_a_count_beside_the_update_is_within_the_rounds_budget():
    update, count = split_noise(1.5, adaptive=True)
    apart = [MechanismEvent(z, 1.0, 10, "concentrated") for z in (update, count)]
    together = [MechanismEvent(1.5, 1.0, 10, "concentrated")]
    assert epsilon(apart, 1e-5) == pytest.approx(epsilon(together, 1e-5), rel=1e-9)
    assert split_noise(1.5, adaptive=False) == (1.5, math.inf)
    drawn = [count_noise(2.0, 5, stream(byte)) / COUNT_STEPS for byte in range(200)]
    assert np.std(drawn) == pytest.approx(2.0 / math.sqrt(5), rel=0.2)


def test_concentrated_noise_costs_no_less_than_the_gaussian_it_is_like():
    for multiplier in (0.5, 1.0, 4.0):
        claimed = epsilon([MechanismEvent(multiplier, 1.0, 1, "concentrated")], 1e-5)
        mu = 1 / multiplier
        delta = norm.cdf(mu / 2 - claimed / mu) - math.exp(claimed) * norm.cdf(
            -mu / 2 - claimed / mu
        )
        assert delta <= 1e-5
