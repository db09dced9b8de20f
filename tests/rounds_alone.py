"""Rounds of a strategy without a network, and small models and updates for them."""

import sys
import types

import pytest


@pytest.fixture(scope="session")
def exchange():
    """Rounds of a strategy without a network: updates and weights in, models out."""
    import numpy as np
    from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

    from umbel.flower import empty_run, stamp, take_server_identity
    from umbel.wire.arrays import to_array_record, to_arrays
    from umbel.wire.requests import only_arrays

    class Nodes:
        """What a strategy asks of a grid when it configures a round."""

        def __init__(self, count):
            self.run = empty_run(1)
            self.count = count

        def get_node_ids(self):
            return range(2, 2 + self.count)

    def play(strategy, model, rounds, order=None, first=1):
        take_server_identity(1)
        models = []
        for number, updates in enumerate(rounds, start=first):
            requests = list(
                strategy.configure_train(
                    number, to_array_record(model), ConfigRecord(), Nodes(len(updates))
                )
            )
            replies = []
            for request, (update, weight) in zip(requests, updates, strict=True):
                stamp(request)
                sent = to_arrays(only_arrays(request.content))
                assert all(np.array_equal(sent[name], model[name]) for name in model)
                metrics = MetricRecord({"num-examples": weight})
                content = RecordDict({"arrays": to_array_record(update), "metrics": metrics})
                replies.append(Message(content, reply_to=request))
            if order is not None:
                replies = [replies[place] for place in order]
            record, _ = strategy.aggregate_train(number, iter(replies))
            model = to_arrays(record, like={name: array.shape for name, array in model.items()})
            models.append(model)
        return models

    return play


@pytest.fixture
def in_a_module(monkeypatch):
    """Puts a class where a job's ``module:Class`` finds it, and says under which name."""

    def put(kind):
        module = types.ModuleType("somebodys_own")
        module.Kind = kind
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return f"{module.__name__}:Kind"

    return put


@pytest.fixture(scope="session")
def a_model():
    """Three tensors as a model, one of them a single number."""
    import numpy as np

    generator = np.random.default_rng(0)
    return {
        "base.weight": generator.normal(size=(3, 4)).astype(np.float32),
        "base.bias": generator.normal(size=(4,)).astype(np.float32),
        "base.scale": np.array(generator.normal(), np.float32),
    }


@pytest.fixture(scope="session")
def updates_of(a_model):
    """`clients` updates with weights, for each of `rounds`."""

    import numpy as np

    def draw(rounds, clients=3, weights=(1, 1, 1, 1, 1), seed=1):
        generator = np.random.default_rng(seed)
        return [
            [
                (
                    {
                        name: np.asarray(generator.normal(0, 0.1, array.shape), np.float32)
                        for name, array in a_model.items()
                    },
                    weights[client],
                )
                for client in range(clients)
            ]
            for _ in range(rounds)
        ]

    return draw
