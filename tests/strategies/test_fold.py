import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as drawn_arrays

from umbel.errors import MessageError
from umbel.strategies.fold import LARGEST, FixedPointSum

SHAPE = (3, 2)
entries = st.floats(-LARGEST, LARGEST, width=32)
tensors = st.fixed_dictionaries(
    {
        "a": drawn_arrays(np.float32, SHAPE, elements=entries),
        "b": drawn_arrays(np.float32, 5, elements=entries),
    }
)
clients = st.lists(st.tuples(tensors, st.integers(1, 100_000)), min_size=1, max_size=6)


def mean(updates, total_weight):
    total = FixedPointSum(total_weight)
    for update, weight in updates:
        total.add(update, weight)
    return total.mean()


@given(clients, st.data())
@settings(max_examples=60, deadline=None)
def test_the_mean_is_the_same_bit_for_bit_in_every_order(updates, data):
    total_weight = sum(weight for _, weight in updates)
    shuffled = data.draw(st.permutations(updates))
    one, other = mean(updates, total_weight), mean(shuffled, total_weight)
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


@given(clients, st.integers(0, 1_000_000))
@settings(max_examples=60, deadline=None)
def test_the_mean_is_the_weighted_mean_to_a_millionth(updates, unused_weight):
    total_weight = sum(weight for _, weight in updates)
    found = mean(updates, total_weight + unused_weight)
    for name in ("a", "b"):
        exact = sum(u[name].astype(np.float64) * w for u, w in updates) / total_weight
        scale = max(float(np.abs(u[name]).max()) for u, _ in updates)
        assert np.abs(found[name] - exact).max() <= 1e-6 * max(scale, 1e-3)


@given(st.integers(1, 10**9), st.integers(1, 50))
@settings(max_examples=50, deadline=None)
def test_a_whole_round_of_the_largest_updates_does_not_overflow(weight, count):
    total = FixedPointSum(weight * count)
    largest = {"a": np.array([LARGEST, -LARGEST], np.float32)}
    for _ in range(count):
        total.add(largest, weight)
    assert total.mean()["a"].tolist() == [LARGEST, -LARGEST]


def test_an_ordinary_update_keeps_every_bit_of_its_float32():
    update = {"a": (np.random.default_rng(0).normal(size=1000) * 1e-3).astype(np.float32)}
    assert np.array_equal(mean([(update, 1)], 4)["a"].astype(np.float32), update["a"])


@pytest.mark.parametrize("entry", [np.nan, np.inf, -np.inf, 1025.0, -2048.0, 1e30])
def test_an_entry_beyond_the_range_is_refused_and_leaves_the_sum_as_it_was(entry):
    total = FixedPointSum(3)
    total.add({"a": np.ones(2, np.float32), "b": np.ones(2, np.float32)}, 1)
    wrong = {"a": np.ones(2, np.float32), "b": np.array([0.5, entry], np.float32)}
    with pytest.raises(MessageError, match="'b' is not finite or beyond 1024"):
        total.add(wrong, 1)
    assert total.weight == 1
    assert {name: array.tolist() for name, array in total.mean().items()} == {
        "a": [1, 1],
        "b": [1, 1],
    }


@pytest.mark.parametrize("weight", [0, -1, 3])
def test_a_weight_beyond_the_plan_is_refused(weight):
    total = FixedPointSum(3)
    total.add({"a": np.ones(2, np.float32)}, 1)
    with pytest.raises(MessageError, match="weight"):
        total.add({"a": np.ones(2, np.float32)}, weight)
    assert total.weight == 1


def test_an_update_with_other_arrays_is_refused():
    total = FixedPointSum(3)
    total.add({"a": np.ones(2, np.float32)}, 1)
    with pytest.raises(MessageError, match="other arrays"):
        total.add({"b": np.ones(2, np.float32)}, 1)


def test_there_is_no_mean_of_nothing():
    with pytest.raises(MessageError, match="no update"):
        FixedPointSum(3).mean()


def test_an_empty_tensor_is_a_tensor():
    assert mean([({"a": np.zeros((0, 3), np.float32)}, 1)], 1)["a"].shape == (0, 3)
