"""Strategies by name: ours, Flower's, anybody's."""

import sys

import numpy as np
import pytest

from umbel.errors import StrategyError
from umbel.job import StrategySpec
from umbel.strategies import build_strategy
from umbel.strategies.foreign import ForeignStrategy

FLOWERS = {
    "FedAvg": {},
    "FedAvgM": {"server_momentum": 0.9},
    "FedAdam": {"eta": 0.05},
    "FedAdagrad": {"eta": 0.05},
    "FedYogi": {"eta": 0.05},
    "FedMedian": {},
    "FedProx": {"proximal_mu": 0.1},
    "FedTrimmedAvg": {"beta": 0.25},
    "Krum": {"num_malicious_nodes": 1},
    "MultiKrum": {"num_malicious_nodes": 1, "num_nodes_to_select": 2},
    "Bulyan": {"num_malicious_nodes": 0},
}

OWN = """
from flwr.serverapp.strategy import FedAvg
from umbel.strategies import Rule


class Half(Rule):
    def next_model(self, model, mean_update):
        return {name: w + 0.5 * mean_update[name] for name, w in model.items()}


class FlowersOwn(FedAvg):
    pass


class NoStrategy:
    pass
"""


def build(name, total_weight=100, **options):
    return build_strategy(StrategySpec(name=name, options=options), total_weight)


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "my_strategies.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_strategies"
    sys.modules.pop("my_strategies", None)


@pytest.mark.parametrize("name", FLOWERS)
def test_flowers_own_strategies_make_the_next_model_from_updates(
    name, exchange, a_model, updates_of
):
    strategy = build(name, **FLOWERS[name])
    assert strategy.sees == "GROUPS"
    models = exchange(strategy, a_model, updates_of(3, clients=5))
    for model in models:
        assert {array.dtype for array in model.values()} == {np.dtype(np.float32)}
        assert all(np.isfinite(array).all() for array in model.values())
    assert any(not np.array_equal(models[0][n], models[1][n]) for n in a_model)


def test_flowers_fedavg_and_ours_agree(exchange, a_model, updates_of):
    rounds = updates_of(3, weights=(3, 1, 6))
    ours, flowers = (exchange(build(name), a_model, rounds)[-1] for name in ("fedavg", "FedAvg"))
    for name in a_model:
        assert ours[name] == pytest.approx(flowers[name], abs=1e-6)


def test_the_median_of_five_ignores_a_wild_client(exchange, a_model, updates_of):
    [updates] = updates_of(1, clients=5)
    wild = {name: np.full_like(array, 900.0) for name, array in a_model.items()}
    [model] = exchange(build("FedMedian"), a_model, [[*updates[:4], (wild, 1)]])
    assert all(np.abs(model[name] - a_model[name]).max() < 1 for name in a_model)


@pytest.mark.parametrize("name", ["FedAvg", "FedAdam", "FedTrimmedAvg", "Krum"])
def test_the_order_of_the_replies_changes_no_bit_of_flowers_strategies(
    name, exchange, a_model, updates_of
):
    rounds = updates_of(2, clients=5)
    one, other = (
        exchange(build(name, **FLOWERS[name]), a_model, rounds, order=order)[-1]
        for order in ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1])
    )
    assert all(one[tensor].tobytes() == other[tensor].tobytes() for tensor in a_model)


def test_a_strategy_of_ones_own_is_found_by_module_and_class(own, exchange, a_model, updates_of):
    rounds = updates_of(2)
    half = exchange(build(f"{own}:Half"), a_model, rounds)[-1]
    expected = exchange(build("fedavg", learning_rate=0.5), a_model, rounds)[-1]
    assert all(np.array_equal(half[name], expected[name]) for name in a_model)
    assert isinstance(build(f"{own}:FlowersOwn"), ForeignStrategy)


def test_a_strategy_of_ones_own_gets_the_plans_weights_too(own, exchange, a_model, updates_of):
    large = 2**21
    rounds = updates_of(1, weights=(large, large, large))
    [model] = exchange(build(f"{own}:Half", total_weight=3 * large), a_model, rounds)
    assert all(np.isfinite(array).all() for array in model.values())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fedavgg", "Umbel's own: fedavg, fedavgm"),
        ("FedMedium", "FedMedian"),
        ("Grid", "is not a strategy"),
        ("Result", "is not a strategy"),
        ("no_such_module:Class", "No module named"),
        ("json:JSONDecoder", "is not a strategy"),
        ("json:Nothing", "is not a strategy"),
        ("umbel.strategies:Rule", "abstract"),
    ],
)
def test_a_name_that_is_no_strategy_is_refused_with_those_that_are(name, words):
    with pytest.raises(StrategyError, match=words):
        build(name)


@pytest.mark.parametrize("name", ["NoStrategy", "Missing"])
def test_a_class_that_is_no_strategy_is_refused(own, name):
    with pytest.raises(StrategyError, match="is not a strategy"):
        build(f"{own}:{name}")


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("fedavg", "learning_rate"),
        ("fedadam", "beta_1"),
        ("FedAdam", "eta"),
        ("FedMedian", "weighted_by_key"),
    ],
)
def test_an_unknown_option_is_refused_with_those_that_are_known(name, known):
    with pytest.raises(StrategyError, match=f"does not know 'beta3'; it knows: .*{known}"):
        build(name, beta3=0.1)


def test_a_strategy_that_fails_is_named_with_its_round(exchange, a_model, updates_of):
    with pytest.raises(StrategyError, match="Bulyan cannot make a model from 3 updates in round 1"):
        exchange(build("Bulyan", num_malicious_nodes=1), a_model, updates_of(1))


@pytest.mark.parametrize(
    ("option", "field"),
    [
        ("fraction_train", r"cohort\.size"),
        ("min_train_nodes", r"cohort\.minimum"),
        ("min_available_nodes", r"cohort\.minimum"),
        ("fraction_evaluate", r"evaluation\.every"),
        ("min_evaluate_nodes", r"evaluation\.every"),
    ],
)
def test_who_takes_part_is_the_jobs_to_say_and_not_the_strategys(option, field):
    """Flower would ask fewer than the round needs, or wait for nodes for ever."""
    with pytest.raises(StrategyError, match=f"{option}.*{field}"):
        build("FedAvg", **{option: 1})
