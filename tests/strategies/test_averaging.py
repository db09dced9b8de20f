"""Each rule against the formula of its paper, written here once more in plain numpy."""

import numpy as np
import pytest

from umbel.errors import StrategyError
from umbel.job import StrategySpec
from umbel.strategies import NAMES, build_strategy

WEIGHTS = (3, 1, 6)


def build(name, **options):
    return build_strategy(StrategySpec(name=name, options=options), total_weight=sum(WEIGHTS))


def mean_of(updates, name):
    total = sum(weight for _, weight in updates)
    return sum(update[name].astype(np.float64) * weight for update, weight in updates) / total


def assert_follows(models, model, rounds, step):
    """`step(name, w, d, state)` gives the next tensor from the last and the mean update."""
    states = {name: {} for name in model}
    current = {name: array.astype(np.float64) for name, array in model.items()}
    for found, updates in zip(models, rounds, strict=True):
        for name in model:
            current[name] = step(name, current[name], mean_of(updates, name), states[name])
            assert found[name].dtype == np.float32
            assert found[name] == pytest.approx(current[name], abs=2e-6)
        # What travels is float32, so the next round starts from that.
        current = {name: array.astype(np.float64) for name, array in found.items()}


def test_fedavg_is_the_textbook_mean_of_the_local_models(exchange, a_model, updates_of):
    rounds = updates_of(3, weights=WEIGHTS)
    models = exchange(build("fedavg"), a_model, rounds)
    model = a_model
    for found, updates in zip(models, rounds, strict=True):
        for name, array in model.items():
            local = [
                (array.astype(np.float64) + update[name]) * weight for update, weight in updates
            ]
            assert found[name] == pytest.approx(sum(local) / sum(WEIGHTS), abs=1e-6)
        model = found


def test_a_server_learning_rate_scales_the_mean_update(exchange, a_model, updates_of):
    rounds = updates_of(2, weights=WEIGHTS)
    models = exchange(build("fedavg", learning_rate=0.5), a_model, rounds)
    assert_follows(models, a_model, rounds, lambda name, w, d, state: w + 0.5 * d)


def test_fedavgm_keeps_a_velocity(exchange, a_model, updates_of):
    def step(name, w, d, state):
        state["v"] = 0.7 * state.get("v", 0) + d
        return w + 0.5 * state["v"]

    rounds = updates_of(5, weights=WEIGHTS)
    models = exchange(build("fedavgm", momentum=0.7, learning_rate=0.5), a_model, rounds)
    assert_follows(models, a_model, rounds, step)


SECOND_MOMENT = {
    "fedadam": lambda v, d: 0.95 * v + 0.05 * d**2,
    "fedyogi": lambda v, d: v - 0.05 * d**2 * np.sign(v - d**2),
    "fedadagrad": lambda v, d: v + d**2,
}


@pytest.mark.parametrize("name", SECOND_MOMENT)
def test_adaptive_rules_follow_algorithm_2_of_reddi(name, exchange, a_model, updates_of):
    def step(tensor, w, d, state):
        state["m"] = 0.8 * state.get("m", 0) + 0.2 * d
        state["v"] = SECOND_MOMENT[name](state.get("v", 0.01**2), d)
        return w + 0.05 * state["m"] / (np.sqrt(state["v"]) + 0.01)

    rounds = updates_of(6, weights=WEIGHTS)
    strategy = build(name, learning_rate=0.05, beta_1=0.8, beta_2=0.95, tau=0.01)
    assert_follows(exchange(strategy, a_model, rounds), a_model, rounds, step)


def test_fedprox_averages_and_tells_clients_how_hard_to_pull(exchange, a_model, updates_of):
    from flwr.app import ConfigRecord

    from umbel.wire.arrays import to_array_record

    rounds = updates_of(2, weights=WEIGHTS)
    strategy = build("fedprox", proximal_mu=0.25)
    models = exchange(strategy, a_model, rounds)
    assert_follows(models, a_model, rounds, lambda name, w, d, state: w + d)

    class Nodes:
        def get_node_ids(self):
            return [2, 3]

    config = ConfigRecord()
    requests = strategy.configure_train(1, to_array_record(a_model), config, Nodes())
    assert [message.content.config_records["config"]["proximal-mu"] for message in requests] == [
        0.25
    ] * 2


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_replies_changes_no_bit(name, exchange, a_model, updates_of):
    rounds = updates_of(3, clients=7, weights=[1] * 7)
    models = [
        exchange(build(name), a_model, rounds, order=order)[-1]
        for order in (range(7), [2, 5, 0, 1, 6, 4, 3])
    ]
    assert all(models[0][name].tobytes() == models[1][name].tobytes() for name in a_model)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fedavg", {"learning_rate": 0}),
        ("fedavg", {"learning_rate": "fast"}),
        ("fedavgm", {"momentum": 1.0}),
        ("fedprox", {"proximal_mu": -1}),
        ("fedadam", {"tau": 0}),
        ("fedadam", {"beta_1": 1.0}),
    ],
)
def test_options_that_cannot_work_are_refused(name, options):
    with pytest.raises(StrategyError, match=f"strategy.options of {name}"):
        build(name, **options)
