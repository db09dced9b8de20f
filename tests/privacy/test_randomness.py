import math
import os
import pickle
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.privacy.randomness import SecretStream, poisson_sample

KEY = bytes(range(32))


def stream() -> SecretStream:
    return SecretStream.from_key(KEY)


def test_one_key_gives_the_same_numbers_and_another_key_others():
    assert stream().normal(1001).tobytes() == stream().normal(1001).tobytes()
    assert not np.array_equal(stream().normal(1001), SecretStream.from_key(bytes(32)).normal(1001))


def test_the_operating_system_gives_every_stream_a_key_of_its_own():
    assert not np.array_equal(SecretStream.from_os().normal(64), SecretStream.from_os().normal(64))


def test_a_stream_never_repeats_itself():
    source = stream()
    assert len(np.unique(np.concatenate([source.uniform(5000) for _ in range(4)]))) == 20_000


def test_the_keystream_is_aes_256_in_counter_mode():
    # AES-256 of a zero block under a zero key, from the known-answer tests of NIST.
    first = bytes.fromhex("dc95c078a2408989ad48a21492842087")[:8]
    expected = (int.from_bytes(first, "little") >> 11) / 2**53
    assert SecretStream.from_key(bytes(32)).uniform(1)[0] == expected


def test_uniforms_are_uniform():
    values = stream().uniform(200_000)
    assert values.dtype == np.float64
    assert values.min() >= 0
    assert values.max() < 1
    counts = np.histogram(values, bins=100, range=(0, 1))[0]
    assert ((counts - 2000) ** 2 / 2000).sum() < 160  # chi-square, 99 degrees, p < 1e-4


def test_normals_follow_the_normal_distribution():
    n = 200_000
    values = np.sort(stream().normal(n))
    cumulative = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in values])
    distance = np.abs(cumulative - (np.arange(n) + 0.5) / n).max()
    assert distance < 2.2 / math.sqrt(n)  # Kolmogorov and Smirnov, p about 1e-4


def test_normals_are_independent_of_their_neighbours_and_of_their_pair():
    values = stream().normal(1 << 15)
    half = len(values) // 2
    for first, second in ((values[1:], values[:-1]), (values[:half], values[half:])):
        for power in (1, 2):
            assert abs(np.corrcoef(first**power, second**power)[0, 1]) < 0.03


def test_a_uniform_of_zero_gives_a_finite_normal(monkeypatch):
    source = stream()
    monkeypatch.setattr(source, "uniform", lambda n: np.zeros(n))
    assert np.isfinite(source.normal(4)).all()
    monkeypatch.setattr(source, "uniform", lambda n: np.full(n, 1 - 2.0**-53))
    assert np.isfinite(source.normal(4)).all()
    assert np.abs(source.normal(4)).max() > 8


@given(n=st.integers(0, 70_000))
@settings(max_examples=20, deadline=None)
def test_as_many_normals_come_as_were_asked_for(n):
    values = stream().normal(n)
    assert values.shape == (n,)
    assert np.isfinite(values).all()


def test_noise_for_a_small_adapter_takes_milliseconds():
    source = stream()
    times = []
    for _ in range(20):
        start = time.thread_time()
        source.normal(74_000)
        times.append(time.thread_time() - start)
    assert min(times) < 0.01


def test_a_stream_can_be_neither_pickled_nor_used_after_a_fork():
    source = stream()
    with pytest.raises(TypeError):
        pickle.dumps(source)
    child = os.fork()
    if child == 0:
        try:
            source.normal(2)
        except RuntimeError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.parametrize("key", [b"", bytes(16), bytes(33)])
def test_a_key_of_another_length_is_refused(key):
    with pytest.raises(ValueError, match="32 bytes"):
        SecretStream.from_key(key)


def test_each_record_is_drawn_independently_at_the_rate():
    source = stream()
    draws = np.zeros((2000, 50))
    for row in draws:
        row[poisson_sample(50, 0.2, source)] = 1
    assert np.abs(draws.mean(axis=0) - 0.2).max() < 5 * math.sqrt(0.16 / 2000)
    # The size of a sample is binomial; a sampler of fixed size would have no variance.
    assert draws.sum(axis=1).var() == pytest.approx(50 * 0.16, rel=0.15)


def test_rates_of_zero_and_one_draw_nobody_and_everybody():
    assert poisson_sample(100, 0.0, stream()).tolist() == []
    drawn = poisson_sample(100, 1.0, stream())
    assert drawn.tolist() == list(range(100))
    assert drawn.dtype == np.int64
    assert poisson_sample(0, 0.5, stream()).tolist() == []


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan])
def test_a_rate_that_is_no_probability_is_refused(rate):
    with pytest.raises(ValueError, match="between 0 and 1"):
        poisson_sample(10, rate, stream())
