"""What one sum of few owners says of each: it has fewer equations than unknowns."""

import numpy as np
import pytest

from umbel.strategies.catalogue import ours
from umbel.strategies.contract import checked_channels
from umbel.strategies.hetlora import WeightedFactors

A, B = "layer.lora_A.default.weight", "layer.lora_B.default.weight"
M, N, RANK = 64, 48, 4


@pytest.fixture
def model():
    generator = np.random.default_rng(1)
    a, b = generator.normal(size=(RANK, N)) / 7, 0.05 * generator.normal(size=(M, RANK))
    return {A: a.astype("f4"), B: b.astype("f4")}


@pytest.fixture
def updates(model):
    generator = np.random.default_rng(2)
    return [
        {n: generator.normal(0, size, a.shape).astype("f4") for n, a in model.items()}
        for size in (0.02, 0.03)
    ]


def taken_apart(update_of, model, updates):
    """The factors of one of two owners, from sums alone: by that s which fits their norm.

    With D = X_1 + X_2, E = s_1 X_1 + s_2 X_2 and t = s_1 + s_2 known, X_1 = (E - s_2 D) / (s_1 - s_2).
    """
    owner = WeightedFactors({})
    owner.model = model
    sent = [update_of(owner, update) for update in updates]
    d = {n: sum(one.get(n, 0 * w).astype(float) for one in sent) + 2 * w for n, w in model.items()}
    further = [owner.further(update) for update in updates]
    e = {n: sum(one["weighted-factors"][n].astype(float) for one in further) for n in model}
    t = float(sum(one["norms"]["product"][0] for one in further))

    def split(s):
        return {n: (e[n] - (t - s) * d[n]) / (2 * s - t) for n in d}

    def off(s):
        one = split(s)
        return abs(np.linalg.norm(one[B] @ one[A]) - s) / t

    return split(min(np.linspace(0.5005, 0.999, 20_000) * t, key=off))


def nearest(update_of, model, updates):
    """How near that comes to the change of B of some owner, over its size."""
    found = taken_apart(update_of, model, updates)[B] - model[B]
    return min(np.linalg.norm(found - u[B]) / np.linalg.norm(u[B]) for u in updates)


def of_hetlora(owner, update):
    """What leaves of the update beside the other channels."""
    channels = checked_channels(ours("hetlora")(), {n: array.shape for n, array in update.items()})
    sent = channels.vector(owner.sends(update), owner.further(update))
    return {name: sent[name] for name in channels.update.shapes}


def test_factors_and_weighted_factors_together_would_give_each_of_two_owners_away(model, updates):
    assert nearest(lambda owner, update: update, model, updates) < 0.01


def test_weighted_factors_alone_do_not(model, updates):
    assert nearest(of_hetlora, model, updates) > 1
    half = WeightedFactors({})
    half.model = model
    sent = of_hetlora(half, {**updates[0], "head.weight": np.ones(3, "f4")})
    assert {name: array.all() for name, array in sent.items()} == {"head.weight": True}
