"""Rules that train some of the tensors in a round, each against its paper written plainly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.errors import StrategyError
from umbel.job import StrategySpec
from umbel.strategies import Rule, build_strategy, channels_of, channels_over, trained_over
from umbel.strategies.contract import trained_shapes
from umbel.strategies.factors import factor_of

A, B = "layer.{}.lora_A.default.weight", "layer.{}.lora_B.default.weight"


def adapter(layers, rank, width, generator):
    """LoRA factors of some layers, and a head: A drawn, B at zero."""
    model = {}
    for layer in range(layers):
        model[A.format(layer)] = generator.normal(size=(rank, width)).astype("f4")
        model[B.format(layer)] = np.zeros((width + 1, rank), np.float32)
    return {**model, "mean_head.weight": generator.normal(size=(2, width)).astype("f4")}


def ffa_lora(model, updates_of, rounds):
    """Sun et al. 2024: each client trains B_k from B, with A as it is; B is the mean of the B_k."""
    trained = [name for name in model if "lora_A" not in name]
    for _ in range(rounds):
        locals_ = updates_of(model, trained)
        model = {**model, **{n: np.mean([local[n] for local in locals_], 0) for n in trained}}
    return model


def rolora(model, updates_of, rounds):
    """Chen et al. 2025, Alg. 1: in odd rounds B_k is trained and averaged, in even ones A_k."""
    for number in range(1, rounds + 1):
        rests = "lora_A" if number % 2 == 1 else "lora_B"
        trained = [name for name in model if rests not in name]
        locals_ = updates_of(model, trained)
        model = {**model, **{n: np.mean([local[n] for local in locals_], 0) for n in trained}}
    return model


@pytest.mark.parametrize(("name", "paper"), [("ffa-lora", ffa_lora), ("rolora", rolora)])
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_rounds_come_to_what_the_paper_says(exchange, name, paper, layers, rank, clients, seed):
    rounds = 4
    generator = np.random.default_rng(seed)
    model = adapter(layers, rank, 5, generator)
    drawn = {
        (client, number, tensor): generator.normal(0, 0.1, array.shape).astype("f4")
        for client in range(clients)
        for number in range(rounds)
        for tensor, array in model.items()
    }
    count = iter(range(rounds))

    def updates_of(model, trained):
        number = next(count)
        return [
            {n: model[n].astype(np.float64) + drawn[client, number, n] for n in trained}
            for client in range(clients)
        ]

    expected = paper(model, updates_of, rounds)
    spec = StrategySpec(name=name)
    shapes = {tensor: array.shape for tensor, array in model.items()}
    sent = [
        [
            ({n: drawn[client, number, n] for n in channels.update.shapes}, 1)
            for client in range(clients)
        ]
        for number in range(rounds)
        for channels in [channels_of(spec, shapes, number + 1)]
    ]
    found = exchange(build_strategy(spec, clients), model, sent)[-1]
    assert found.keys() == model.keys()
    for tensor, array in expected.items():
        np.testing.assert_allclose(found[tensor], array, atol=1e-6)
    for tensor in model.keys() - trained_over(spec, shapes, rounds):
        assert found[tensor].tobytes() == model[tensor].tobytes()


@given(st.integers(1, 40))
def test_the_rounds_of_a_job_are_counted_by_what_they_train(rounds):
    shapes = {
        name: array.shape for name, array in adapter(2, 3, 5, np.random.default_rng(0)).items()
    }
    for name in ("fedavg", "ffa-lora", "rolora"):
        spec = StrategySpec(name=name)
        many = channels_over(spec, shapes, rounds)
        assert sum(count for _, count in many) == rounds
        each = [channels_of(spec, shapes, number + 1) for number in range(rounds)]
        for channels, count in many:
            assert sum(one == channels for one in each) == count
    ffa = trained_over(StrategySpec(name="ffa-lora"), shapes, rounds)
    assert {factor_of(name) for name in ffa} == {"B", None}


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_between_fixed_factors_the_mean_of_the_products_is_the_product_of_the_mean(
    exchange, layers, rank, clients, seed
):
    """Singhal et al. 2025: B R_k A, of which R alone is averaged."""
    generator = np.random.default_rng(seed)
    model = {
        f"layer.{n}.lora_B.default.core.weight": np.zeros((rank, rank), "f4") for n in range(layers)
    }
    fixed = {
        "layer.0.lora_A.default.weight": generator.normal(size=(rank, 5)),
        "layer.0.lora_B.default.out.weight": generator.normal(size=(6, rank)),
    }
    spec = StrategySpec(name="fed-sb")
    everything = {n: a.shape for n, a in (model | fixed).items()}
    assert trained_over(spec, everything, 3) == model.keys()
    sent = [
        ({n: generator.normal(size=(rank, rank)).astype("f4") for n in model}, 1)
        for _ in range(clients)
    ]
    [found] = exchange(build_strategy(spec, clients), model, [sent])
    first, second = fixed.values()
    for name in model:
        products = [second @ update[name].astype(np.float64) @ first for update, _ in sent]
        np.testing.assert_allclose(second @ found[name] @ first, np.mean(products, 0), atol=1e-4)


def own(trains):
    kind = type("Own", (Rule,), {"trains": trains, "next_model": lambda self, model, mean: model})
    return kind()


@pytest.mark.parametrize(
    ("trained", "words"),
    [((), "trains nothing in round 3"), (("a", "c"), "trains 'c', which the model does not have")],
)
def test_a_round_trains_some_of_the_models_tensors(trained, words):
    with pytest.raises(ValueError, match=words):
        trained_shapes(own(lambda self, round_, shapes: trained), 3, {"a": (1,), "b": (2,)})


def test_what_a_round_trains_stands_in_the_models_order():
    found = trained_shapes(
        own(lambda self, r, shapes: {"c", "a"}), 1, {"c": (3,), "b": (2,), "a": (1,)}
    )
    assert list(found.items()) == [("c", (3,)), ("a", (1,))]


def test_what_a_declaration_raises_is_said_with_the_strategys_name(monkeypatch):
    from umbel.strategies.rolora import RoLora

    monkeypatch.setattr(RoLora, "trains", lambda self, round_, shapes: ())
    with pytest.raises(StrategyError, match=r"'rolora'.*nothing in round 2"):
        channels_of(StrategySpec(name="rolora"), {"a": (1,)}, 2)
