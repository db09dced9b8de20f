import os

import numpy as np
import pytest

from umbel.errors import CheckpointError, RunFolderError
from umbel.job import StrategySpec
from umbel.run.checkpoint import Checkpoint, load_latest, restore_strategy, save, strategy_state
from umbel.strategies import build_strategy

MODEL = {
    "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a/slash.bias": np.array([0.5, -0.25], np.float32),
    "scale": np.array(1.5, np.float32),
}
SHAPES = {name: array.shape for name, array in MODEL.items()}

STRATEGIES = {
    "fedavg": {},
    "fedavgm": {},
    "fedadam": {"learning_rate": 0.05},
    "fedyogi": {"learning_rate": 0.05},
    "fedadagrad": {"learning_rate": 0.05},
    "FedAdam": {"eta": 0.05},
    "FedYogi": {"eta": 0.05},
    "FedAdagrad": {"eta": 0.05},
    "FedAvgM": {"server_momentum": 0.9},
    "FedMedian": {},
    "FedProx": {"proximal_mu": 0.1},
}


def checkpoint(round_, **state):
    arrays = {name: np.asarray(array + np.float32(round_)) for name, array in MODEL.items()}
    return Checkpoint(round_, arrays, state)


def names(folder):
    return sorted(path.name[:11] for path in folder.iterdir())


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    state = {
        "_m": {"b.weight": np.array([[1e-300, 2.0]]), "a/slash.bias": np.array([3.0], np.float32)},
        "_learning_rate": 0.1,
        "count": 7,
        "flag": True,
    }
    save(tmp_path, checkpoint(4, **state))
    found = load_latest(tmp_path, SHAPES)
    assert found.round == 4
    assert list(found.arrays) == list(MODEL)
    for name, array in checkpoint(4).arrays.items():
        assert found.arrays[name].dtype == np.float32
        assert np.array_equal(found.arrays[name], array)
    assert {key: found.strategy[key] for key in ("_learning_rate", "count", "flag")} == {
        "_learning_rate": 0.1,
        "count": 7,
        "flag": True,
    }
    for name, array in state["_m"].items():
        assert found.strategy["_m"][name].dtype == array.dtype
        assert np.array_equal(found.strategy["_m"][name], array)


def test_only_the_newest_three_are_kept(tmp_path):
    for round_ in range(6):
        save(tmp_path, checkpoint(round_))
    assert names(tmp_path) == ["round-00003", "round-00004", "round-00005"]


@pytest.mark.parametrize("keep", [0, 1, 0.5, 0.99])
def test_one_cut_short_is_passed_over_for_the_one_before(tmp_path, keep):
    for round_ in (1, 2):
        last = save(tmp_path, checkpoint(round_))
    os.truncate(last, int(last.stat().st_size * keep) if keep != 1 else last.stat().st_size - 1)
    assert load_latest(tmp_path, SHAPES).round == 1


def test_one_with_a_flipped_bit_is_passed_over_for_the_one_before(tmp_path):
    for round_ in (1, 2):
        last = save(tmp_path, checkpoint(round_))
    content = bytearray(last.read_bytes())
    content[-1] ^= 1
    last.write_bytes(content)
    assert load_latest(tmp_path, SHAPES).round == 1


def test_what_a_crash_left_half_written_is_no_checkpoint(tmp_path):
    good = save(tmp_path, checkpoint(1))
    partial = tmp_path / f".{good.name.replace('00001', '00002')}.partial"
    partial.write_bytes(good.read_bytes()[:50])
    assert load_latest(tmp_path, SHAPES).round == 1


def test_without_a_whole_one_there_is_an_error_that_names_the_damaged(tmp_path):
    paths = [save(tmp_path, checkpoint(round_)) for round_ in (1, 2)]
    for path in paths:
        os.truncate(path, 100)
    with pytest.raises(
        CheckpointError, match=r"no whole checkpoint .*round-00002.*round-00001.* damaged"
    ):
        load_latest(tmp_path, SHAPES)


@pytest.mark.parametrize("folder", ["", "missing"])
def test_an_empty_or_missing_folder_has_no_checkpoint(tmp_path, folder):
    with pytest.raises(CheckpointError, match="Start a new run"):
        load_latest(tmp_path / folder, SHAPES)


def test_the_checkpoint_of_another_model_is_refused(tmp_path):
    save(tmp_path, checkpoint(1))
    with pytest.raises(CheckpointError, match="another model"):
        load_latest(tmp_path, {**SHAPES, "b.weight": (3, 2)})


def test_a_folder_that_cannot_be_written_is_a_clear_error_and_leaves_the_old_ones(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be written"):
        save(tmp_path / "file" / "checkpoints", checkpoint(1))


@pytest.mark.parametrize("stop", [1, 3])
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_run_that_goes_on_from_a_checkpoint_equals_one_that_never_stopped(
    name, stop, exchange, a_model, updates_of, tmp_path
):
    rounds = updates_of(6)

    def strategy():
        return build_strategy(StrategySpec(name=name, options=STRATEGIES[name]), total_weight=3)

    whole = exchange(strategy(), a_model, rounds)
    first = strategy()
    models = exchange(first, a_model, rounds[:stop])
    save(tmp_path, Checkpoint(stop, models[-1], strategy_state(first)))
    again, second = load_latest(tmp_path, {n: a.shape for n, a in a_model.items()}), strategy()
    restore_strategy(second, again.strategy)
    models = exchange(second, again.arrays, rounds[stop:], first=stop + 1)
    for found, expected in zip(models, whole[stop:], strict=True):
        assert all(found[name].tobytes() == expected[name].tobytes() for name in expected)
