"""Fixed point: no sum overflows, nothing is lost but the rounding, and odd numbers are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from umbel.errors import ProtocolError
from umbel.privacy.randomness import SecretStream
from umbel.privacy.secagg.fixed_point import (
    Contribution,
    Layout,
    Scale,
    decode,
    encode,
    largest_magnitude,
)

SIGNIFICANCE = 1e-6
LARGEST_COHORT = 10_000


def never(n):
    """A dither that always rounds down."""
    return np.full(n, 2**32 - 1, dtype="<u4")


def always(n):
    """A dither that rounds up whatever is not whole."""
    return np.zeros(n, dtype="<u4")


def stream(seed: int = 0):
    return SecretStream.from_key(seed.to_bytes(32, "big")).words


def encoded(values, scale, *, weight=1, cap=1, dither=always):
    """The words of an update alone."""
    update = np.asarray(values, dtype=np.float32)
    part = Contribution([update], [], [], weight)
    return encode(part, Layout(update.size, 0, 0), scale, cap, dither)


def signed(words, parameters):
    return words[:parameters].view("<i4").astype(np.int64)


# No sum overflows.

members = st.one_of(st.integers(1, LARGEST_COHORT), st.just(65535))
clips = st.floats(1e-6, 1e6, allow_nan=False)


def try_scale(n: int, clip: float) -> Scale | None:
    """The scale, but for the few clips just below a power of two of the range, which are refused."""
    try:
        return Scale(n, clip)
    except ValueError:
        return None


@given(members, clips)
@settings(max_examples=300, deadline=None)
def test_every_accepted_scale_keeps_the_largest_sum_within_a_signed_word(n, clip):
    scale = try_scale(n, clip)
    if scale is not None:
        assert scale.largest == math.ceil(clip * 2.0**scale.bits)
        assert n * scale.largest < 2**31
        assert n * scale.largest * 4.01 + 4 * n > 2**31  # no more than a bit or two is wasted


@pytest.mark.parametrize("n", [3, 10, 1000, LARGEST_COHORT, 65535])
@pytest.mark.parametrize("clip", [0.125, 1.0, 8.0])
def test_a_whole_cohort_at_the_clip_sums_without_overflow(n, clip):
    scale = Scale(n, clip)
    words = encoded([clip, -clip, clip, 0.0], scale)
    top = round(math.ldexp(clip, scale.bits))
    assert signed(words, 4).tolist() == [top, -top, top, 0]
    total = (words.astype(np.uint64) * n).astype("<u4")  # n of them, modulo 2^32
    assert signed(total, 4).tolist() == [n * top, -n * top, n * top, 0]
    found = decode(total, Layout(4, 0, 0), scale, 1, n)
    assert found.mean.tolist() == [clip, -clip, clip, 0.0]


@given(
    st.integers(3, LARGEST_COHORT),
    st.floats(2.0**-10, 2.0**10, width=32),
    st.lists(st.floats(-(2.0**127), 2.0**127, width=32), min_size=1, max_size=20),
    st.integers(1, 100),
    st.sampled_from([never, always]),
)
@settings(max_examples=150, deadline=None)
def test_no_update_gives_a_word_beyond_the_largest(n, clip, values, weight, dither):
    """For clips that float32 holds."""
    scale = try_scale(n, clip)
    if scale is not None:
        words = encoded(values, scale, weight=weight, cap=100, dither=dither)
        assert np.abs(signed(words, len(values))).max() <= scale.largest


@pytest.mark.parametrize("clip", [0.1, 0.3, 1.1])
def test_no_scaled_update_gives_a_word_beyond_the_largest_for_clips_that_float32_rounds_up(clip):
    scale = Scale(3, clip)
    chance = np.random.default_rng(0)
    peaks = chance.uniform(2, 1e4, 2000).astype(np.float32)
    words = [encoded([peak, -peak], scale) for peak in peaks]
    assert max(np.abs(signed(each, 2)).max() for each in words) <= scale.largest


@pytest.mark.parametrize(("n", "clip"), [(3, 2.666666661699613), (5, 1.5999999955296516)])
def test_a_whole_cohort_scaled_down_to_a_clip_near_the_limit_sums_without_overflow(n, clip):
    scale = Scale(n, clip)
    for peak in np.random.default_rng(0).uniform(4, 1e4, 20).astype(np.float32):
        words = encoded([peak, -peak], scale)
        total = (words.astype(np.uint64) * n).astype("<u4")
        found = decode(total, Layout(2, 0, 0), scale, 1, n)
        assert np.allclose(found.mean, [clip, -clip])  # not the other way round


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan, math.inf])
def test_a_clip_that_is_no_bound_has_no_scale(clip):
    with pytest.raises(ValueError, match="clip"):
        Scale(10, clip)


@pytest.mark.parametrize("clip", [4.4e-308, 5e-324])
def test_a_clip_next_to_nothing_has_no_scale(clip):
    with pytest.raises(ValueError, match="clip"):
        Scale(10, clip)


@pytest.mark.parametrize("n", [0, -1, 65536])
def test_a_cohort_without_members_or_beyond_sixteen_bits_has_no_scale(n):
    with pytest.raises(ValueError, match="no fixed point"):
        Scale(n, 1.0)


# What no sum can hold is refused before it is masked.


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 70_000, 99_999])
def test_nan_and_infinity_are_refused_wherever_they_are(odd, place):
    update = np.zeros(100_000, dtype=np.float32)
    update[place] = odd
    with pytest.raises(ProtocolError, match="NaN or infinity") as refused:
        encoded(update, Scale(10, 1.0))
    assert refused.value.rule == "range"


@pytest.mark.parametrize("peak", [8.5, 1e3, 1e30, 3.4e38])
def test_an_update_beyond_the_clip_is_scaled_down_whole_so_its_direction_stays(peak):
    scale = Scale(10, 8.0)
    values = np.array([peak, -peak / 2, peak / 4, 0.0], dtype=np.float32)
    assert largest_magnitude([values]) == float(values[0])
    found = np.ldexp(signed(encoded(values, scale), 4).astype(float), -scale.bits)
    assert np.allclose(found, [8.0, -4.0, 2.0, 0.0], rtol=1e-6)


def test_an_update_at_the_clip_is_not_touched_and_an_empty_one_has_no_magnitude():
    scale = Scale(10, 8.0)
    whole = signed(encoded([8.0, -8.0, 1.0], scale), 3)
    assert whole.tolist() == [8 << scale.bits, -8 << scale.bits, 1 << scale.bits]
    assert largest_magnitude([np.zeros(0, np.float32)]) == 0.0
    assert signed(encoded([], scale), 0).tolist() == []


def contribution(**changed):
    named = {"update": [np.zeros(2, np.float32)], "integers": [1], "wides": [1.0], "weight": 1}
    return Contribution(**{**named, **changed})


@pytest.mark.parametrize(
    "changed",
    [
        {"weight": 0},
        {"weight": -1},
        {"weight": 6},
        {"integers": [1, 1]},
        {"integers": []},
        {"wides": []},
        {"update": [np.zeros(3, np.float32)]},
        {"update": []},
    ],
    ids=str,
)
def test_what_does_not_fit_a_sum_is_refused(changed):
    with pytest.raises(ProtocolError) as refused:
        encode(contribution(**changed), Layout(2, 1, 1), Scale(10, 1.0), 5, always)
    assert refused.value.rule == "range"


@pytest.mark.parametrize(
    ("number", "taken"),
    [(-0.5, 0.0), (2.0**48, 2.0**48 - 1), (math.inf, 2.0**48 - 1), (math.nan, 2.0**48 - 1)],
)
def test_a_number_out_of_range_is_taken_for_the_nearest_in_it(number, taken):
    """A refusal would tell the server of this client's own number."""
    layout, scale = Layout(2, 1, 1), Scale(10, 1.0)
    words = encode(contribution(wides=[number], weight=1), layout, scale, 5, always)
    assert decode(words, layout, scale, 5, 1).wides == [taken]


@pytest.mark.parametrize(("count", "taken"), [(-1, 0), (2**32, (2**32 - 1) // 10)])
def test_a_count_out_of_range_is_taken_for_the_nearest_in_it(count, taken):
    layout, scale = Layout(2, 1, 1), Scale(10, 1.0)
    words = encode(contribution(integers=[count], weight=1), layout, scale, 5, always)
    assert decode(words, layout, scale, 5, 1).integers == [taken]


def test_weights_at_the_cap_of_a_whole_cohort_do_not_wrap():
    for n in (3, 1000, LARGEST_COHORT):
        cap = (2**32 - 1) // n
        scale = Scale(n, 1.0)
        words = encoded([1.0], scale, weight=cap, cap=cap)
        total = (words.astype(np.uint64) * n).astype("<u4")
        found = decode(total, Layout(1, 0, 0), scale, cap, n)
        assert (found.weight, found.members) == (n * cap, n)
        assert found.mean.tolist() == [1.0]
        with pytest.raises(ProtocolError, match="overflow"):
            encoded([1.0], scale, weight=cap + 1, cap=cap + 1)


# What is lost.


@given(
    st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=50),
    st.integers(3, LARGEST_COHORT),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=100, deadline=None)
def test_an_entry_is_off_by_less_than_one_step_of_the_grid(values, n, dither):
    scale = Scale(n, 8.0)
    words = encoded(values, scale, dither=lambda k: np.full(k, dither, dtype="<u4"))
    exact = [math.ldexp(value, scale.bits) for value in np.asarray(values, np.float32).tolist()]
    assert all(abs(q - x) <= 1 for q, x in zip(signed(words, len(values)), exact, strict=True))


@pytest.mark.parametrize("fraction", [0.001, 0.25, 0.5, 0.9, -0.001, -0.3, -0.75])
def test_rounding_is_right_on_average(fraction):
    """(bits = 0 at clip 2^21 and 1000 members: an entry is its own place between two grid points.)"""
    scale = Scale(1000, 2.0**20)
    step = 2.0**-scale.bits
    n = 400_000
    values = np.full(n, np.float32(fraction * step))
    q = signed(encoded(values, scale, dither=stream(1)), n)
    low = math.floor(fraction)
    assert set(np.unique(q)) <= {low, low + 1}
    ups = int(np.count_nonzero(q == low + 1))
    assert stats.binomtest(ups, n, fraction - low).pvalue > SIGNIFICANCE


def test_rounding_of_real_updates_is_unbiased_and_its_errors_independent():
    n = 200_000
    scale = Scale(1000, 1000.0)
    values = np.random.default_rng(3).normal(0, 0.01, n).astype(np.float32)
    errors = []
    for seed in (1, 2):
        q = signed(encoded(values, scale, dither=stream(seed)), n)
        errors.append(q - np.ldexp(values.astype(np.float64), scale.bits))
    for error in errors:
        assert abs(error.mean()) < 5 * error.std() / math.sqrt(n)
    # Rounding to nearest would be off in the same direction twice; this is not, once the part that
    # the entry itself decides (its place between two grid points) is taken away.
    assert stats.pearsonr(errors[0] > 0, errors[1] > 0).pvalue < 1  # both are defined
    assert abs(np.mean(errors[0] + errors[1])) < 5 * errors[0].std() * 2 / math.sqrt(n)


# What is not.


@st.composite
def cohorts(draw):
    n = draw(st.integers(1, 12))
    layout = Layout(draw(st.integers(0, 40)), draw(st.integers(0, 4)), draw(st.integers(0, 3)))
    cap = draw(st.integers(1, 10**6))
    chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    most = (2**32 - 1) // n
    parts = [
        Contribution(
            [chance.uniform(-9, 9, layout.parameters).astype(np.float32)],
            [int(chance.integers(0, most, endpoint=True)) for _ in range(layout.integers)],
            [int(chance.integers(0, 2**49)) / 2**16 for _ in range(layout.wides)],
            int(chance.integers(1, cap, endpoint=True)),
        )
        for _ in range(n)
    ]
    return n, layout, cap, parts


@given(cohorts())
@settings(max_examples=80, deadline=None)
def test_the_sum_of_encoded_vectors_is_the_exact_sum_of_whole_numbers(case):
    n, layout, cap, parts = case
    scale = Scale(n, 8.0)
    vectors = [encode(part, layout, scale, cap, stream(i)) for i, part in enumerate(parts)]
    total = np.zeros(layout.length, dtype="<u4")
    for vector in vectors:
        total += vector
    found = decode(total, layout, scale, cap, n)
    weight = sum(part.weight for part in parts)
    exact = sum((signed(v, layout.parameters) for v in vectors), np.zeros(1, dtype=np.int64))
    mean = np.ldexp(exact.astype(np.float64), -scale.bits) * (cap / weight)
    assert np.array_equal(found.mean, mean if layout.parameters else np.zeros(0))
    assert found.integers == [sum(p.integers[i] for p in parts) for i in range(layout.integers)]
    assert found.wides == [sum(p.wides[i] for p in parts) for i in range(layout.wides)]
    assert (found.weight, found.members) == (weight, n)


@given(cohorts())
@settings(max_examples=40, deadline=None)
def test_the_mean_is_the_weighted_mean_of_the_clipped_updates(case):
    n, layout, cap, parts = case
    scale = Scale(n, 8.0)
    total = np.zeros(layout.length, dtype="<u4")
    wanted = np.zeros(layout.parameters)
    for i, part in enumerate(parts):
        total += encode(part, layout, scale, cap, stream(i))
        (update,) = part.update
        peak = float(np.abs(update).max(initial=0))
        wanted += part.weight * update.astype(np.float64) * min(1.0, 8.0 / peak if peak else 1.0)
    weight = sum(part.weight for part in parts)
    found = decode(total, layout, scale, cap, n)
    # A step of the grid each, and float32's rounding of the scaled entries.
    allowed = n * (2.0**-scale.bits + 8 * 2.0**-22) * cap / weight
    assert np.abs(found.mean - wanted / weight).max(initial=0) <= allowed


def test_the_largest_counts_and_wide_numbers_of_the_largest_cohort_are_exact():
    n = 65535
    scale, layout = Scale(n, 1.0), Layout(0, 1, 1)
    most = (2**32 - 1) // n
    wide = 2.0**48 - 1
    words = encode(Contribution([], [most], [wide], 1), layout, scale, 1, always)
    total = (words.astype(np.uint64) * n).astype("<u4")
    found = decode(total, layout, scale, 1, n)
    assert found.integers == [n * most]
    assert found.wides == [float(n * wide)]


# Garbage is seen.


@given(st.integers(0, 12), st.integers(1, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_any_change_of_one_word_of_the_sum_is_seen(place, change):
    layout, scale = Layout(4, 2, 1), Scale(3, 1.0)
    assert layout.length == 13
    part = Contribution([np.ones(4, np.float32)], [5, 6], [1.5], 1)
    total = (encode(part, layout, scale, 1, always).astype(np.uint64) * 3).astype("<u4")
    decode(total, layout, scale, 1, 3)
    total[place : place + 1] += np.uint32(change)
    with pytest.raises(ProtocolError) as refused:
        decode(total, layout, scale, 1, 3)
    assert refused.value.rule == "sum"


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_a_sum_that_is_still_masked_is_no_sum(seed):
    words = np.random.default_rng(seed).integers(0, 2**32, 20, dtype="<u4")
    with pytest.raises(ProtocolError) as refused:
        decode(words, Layout(17, 0, 0), Scale(4, 1.0), 1, 4)
    assert refused.value.rule == "sum"


@pytest.mark.parametrize("members", [2, 4, 0])
def test_a_sum_of_another_number_of_members_is_refused(members):
    scale = Scale(3, 1.0)
    total = (encoded([1.0], scale).astype(np.uint64) * 3).astype("<u4")
    with pytest.raises(ProtocolError) as refused:
        decode(total, Layout(1, 0, 0), scale, 1, members)
    assert refused.value.rule == "sum"


def test_a_sum_that_weighs_less_than_one_a_member_is_refused():
    scale = Scale(3, 1.0)
    total = (encoded([1.0], scale).astype(np.uint64) * 3).astype("<u4")
    total[-3] -= 1
    total[-1] -= 1
    with pytest.raises(ProtocolError, match="total weight of only 2"):
        decode(total, Layout(1, 0, 0), scale, 1, 3)
