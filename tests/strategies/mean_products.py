"""The mean of products from two sums, in the clear, masked, and in float64: what tests of products share."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from umbel.privacy.noise.scale import Scale
from umbel.privacy.randomness import reproducible_stream
from umbel.privacy.secagg.fixed_point import Contribution, Layout, decode, encode
from umbel.strategies.contract import UPDATE, checked_channels
from umbel.strategies.products import pairs_of
from umbel.strategies.second import checked_asked, reaches_told, second_channels
from umbel.wire.residual_names import is_residual

A, B = "layer.{}.lora_A.default.weight", "layer.{}.lora_B.default.weight"


def adapter(generator, rank, shapes, size=0.1):
    """LoRA factors of layers of these shapes, with a B that was trained, and a head."""
    model = {}
    for layer, (m, n) in enumerate(shapes):
        model[A.format(layer)] = generator.uniform(-1, 1, (rank, n)).astype("f4") / np.float32(
            n**0.5
        )
        model[B.format(layer)] = generator.normal(0, size, (m, rank)).astype("f4")
    return {**model, "head.weight": generator.normal(size=(2, 3)).astype("f4")}


def in_the_clear(vectors, weights):
    """The weighted mean of each tensor, float64."""
    return {
        name: np.average([vector[name].astype(np.float64) for vector in vectors], 0, weights)
        for name in vectors[0]
    }


def masked(clip):
    """The same by words of a secure sum."""

    def mean(vectors, weights):
        shapes = {name: array.shape for name, array in vectors[0].items()}
        layout = Layout(sum(array.size for array in vectors[0].values()), 0, 0)
        scale, cap = Scale(len(vectors), clip), max(weights)
        total = 0
        for place, (vector, weight) in enumerate(zip(vectors, weights, strict=True)):
            assert max(np.abs(array).max() for array in vector.values()) <= clip
            part = Contribution(list(vector.values()), [], [], weight)
            dither = reproducible_stream(place, "dither").words
            total = total + encode(part, layout, scale, cap, dither)
        flat, at, found = decode(total, layout, scale, cap, len(vectors)).mean, 0, {}
        for name, shape in shapes.items():
            size = int(np.prod(shape))
            # As a reply of the server to itself, a mean is float32.
            found[name] = flat[at : at + size].astype("f4").astype(float).reshape(shape)
            at += size
        return found

    return mean


def owner(rule, model, rank, reaches):
    half = rule.local({**rule.told(1), **reaches})
    half.rank, half.model = rank, model
    return half


def two_sums(rule, model, changes, weights, ranks, mean=in_the_clear):
    """The next model, and the owners' own models, of changes to what each began with.

    A residual in the model is the server's alone.
    """
    whole, model = model, {name: array for name, array in model.items() if not is_residual(name)}
    shapes = {name: array.shape for name, array in model.items()}
    rule.told(1)
    reaches = reaches_told(rule.scales(model))
    halves = [owner(rule, model, rank, reaches) for rank in ranks]
    begun = [half.begins(model) for half in halves]
    trained = []
    for half, start, change in zip(halves, begun, changes, strict=True):
        change = {name: array.copy() for name, array in change.items()}
        for name, array in change.items():
            if half.rank and name != "head.weight":
                (array[half.rank :] if "lora_A" in name else array[:, half.rank :])[...] = 0
        trained.append({name: start[name] + change[name] for name in model})
    updates = [
        {n: one[n] - start[n] for n in model} for one, start in zip(trained, begun, strict=True)
    ]
    first = checked_channels(rule, shapes).scaled(reaches)
    pairs = zip(halves, updates, strict=True)
    sent = [first.vector(half.sends(update), half.further(update)) for half, update in pairs]
    mean_update = {}
    for channel, name, array in first.means(iter(mean(sent, weights).items())):
        if channel == UPDATE:
            mean_update[name] = array
        else:
            rule.hear(channel, name, array)
    asked = checked_asked(rule, model)
    reaches = reaches_told(rule.scales(model, asked))
    second = second_channels(rule, shapes).scaled(reaches)
    pairs = zip(halves, updates, strict=True)
    sent = [second.vector({}, half.second(update, asked)) for half, update in pairs]
    for channel, name, array in second.means(iter(mean(sent, weights).items())):
        rule.hear(channel, name, array)
    return rule.next_model(whole, mean_update), trained


def mean_products(trained, weights):
    shapes = {name: array.shape for name, array in trained[0].items()}
    found = {}
    for pair in pairs_of(shapes):
        factors = [pair.factors(one) for one in trained]
        found[pair.b] = np.average([b @ a for b, a in factors], 0, weights)
    return found


def changes_of(generator, model, clients, size=0.01):
    return [
        {name: generator.normal(0, size, array.shape).astype("f4") for name, array in model.items()}
        for _ in range(clients)
    ]


def flexlora(mean, rank, b, a):
    """The mean product's leading singular vectors."""
    u, s, v = np.linalg.svd(mean, full_matrices=False)
    return u[:, :rank] * s[:rank] @ v[:rank]


def lora_fair(mean, rank, b, a):
    """The correction of B by steps of gradient descent: towards the mean product, and near B."""
    moved, gram = np.zeros_like(b), a @ a.T
    pace = 1 / (np.linalg.norm(gram, 2) + 0.01)
    for _ in range(20_000):
        step = (mean - (b + moved) @ a) @ a.T - 0.01 * moved
        if np.abs(step).max(initial=0.0) < 1e-12:
            break
        moved += pace * step
    return (b + moved) @ a


with_any_adapters = given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3),
    st.integers(1, 4),
    st.lists(st.integers(1, 5), min_size=1, max_size=5),
    st.integers(0, 2**32 - 1),
    st.data(),
)
"""Shapes of layers, a rank, the owners' weights, a seed, and further draws."""

PAPERS = {"flexlora": flexlora, "lora-fair": lora_fair}
