"""The public grid that hides the lowest bits of noised numbers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.privacy.noise.client_noise import ServerNoise
from umbel.privacy.noise.grid import grid_step, snap
from umbel.privacy.randomness import SecretStream

deviations = st.floats(1e-9, 1e9)


@given(deviation=deviations)
def test_a_step_is_a_power_of_two_about_a_thousandth_of_the_noise(deviation):
    step = grid_step(deviation)
    assert math.frexp(step)[0] == 0.5
    assert deviation / 2**11 < step <= deviation / 2**10


@given(deviation=deviations, values=st.lists(st.floats(-30, 30), min_size=1))
def test_rounding_is_to_the_nearest_multiple_and_says_nothing_more_the_second_time(
    deviation, values
):
    step = grid_step(deviation)
    exact = np.array(values) * deviation
    found = exact.copy()
    snap(found, step)
    assert np.array_equal(found / step, np.rint(found / step))
    assert np.abs(found - exact).max() <= step / 2
    again = found.copy()
    snap(again, step)
    assert np.array_equal(again, found)


def test_without_noise_nothing_is_rounded():
    values = np.array([1.23456789])
    snap(values, grid_step(0.0))
    assert values[0] == 1.23456789


def test_neighbours_are_told_apart_by_their_last_bits_only_without_the_grid():
    """The attack: of sum + noise, how many zeros the binary form ends with depends on the sum."""

    def endings(value, step):
        noised = SecretStream.from_key(bytes(32)).normal(4000) + value
        snap(noised, step)
        return np.array([(abs(x) % 1).as_integer_ratio()[1].bit_length() for x in noised])

    bare = [endings(value, 0.0).mean() for value in (0.0, 1024.0)]
    hidden = [endings(value, grid_step(1.0)).max() for value in (0.0, 1024.0)]
    assert abs(bare[0] - bare[1]) > 5
    assert max(hidden) <= 12  # no finer than the grid, whatever was summed


@pytest.mark.parametrize("members", [1, 7])
def test_the_noise_of_a_trusted_server_is_rounded_to_its_grid(members):
    noise = ServerNoise(0.5, 1.5, 4.0, SecretStream.from_key(bytes(32)))
    mean = np.full(1000, 0.123456789)
    noise.hide_mean(mean, members)
    deviation = 2 * 0.5 * 1.5 / members
    assert np.array_equal(mean / grid_step(deviation), np.rint(mean / grid_step(deviation)))
    assert mean.std() == pytest.approx(deviation, rel=0.1)
    count = noise.hide_count(12.0)
    assert (count / grid_step(4.0)).is_integer()
