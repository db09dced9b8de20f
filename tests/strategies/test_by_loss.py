"""q-FedAvg and AFL against their papers' algorithms written down in NumPy, and in simulations."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.client.policy import Policy
from umbel.errors import StrategyError
from umbel.job import StrategySpec
from umbel.planning.refusals import job_refusals
from umbel.simulations.engine import Options, simulate
from umbel.strategies import build_strategy, channels_of, local_half

SHAPES = {"a.weight": (2, 3), "b": (4,)}
RATES, STEPS = 0.3, 3


def parts(flat):
    return {"a.weight": flat[:6].reshape(2, 3).astype("f4"), "b": flat[6:].astype("f4")}


def flat(arrays):
    return np.concatenate([np.asarray(arrays[name]).reshape(-1) for name in SHAPES])


def q_fedavg(w, losses, moves, memory, q):
    """Li et al. 2020, Alg. 2, with Delta w_k = L (w - w_k) and L = 1 / learning rate."""
    lipschitz = STEPS / RATES
    deltas = [f**q * lipschitz * -d for f, d in zip(losses, moves, strict=True)]
    h = [
        q * f ** (q - 1) * np.sum((lipschitz * d) ** 2) + lipschitz * f**q
        for f, d in zip(losses, moves, strict=True)
    ]
    return w - np.sum(deltas, axis=0) / np.sum(h), memory


def afl(w, losses, moves, lambdas, gamma):
    """Mohri et al. 2019, Alg. 1, the step in lambda by exponentiated gradient; lambdas sum to 1."""
    w = w + np.sum([share * d for share, d in zip(lambdas, moves, strict=True)], axis=0)
    grown = lambdas * np.exp(gamma * np.array(losses))
    return w, grown / grown.sum()


@pytest.mark.parametrize(("name", "reference", "option"), [
    ("q-fedavg", q_fedavg, "q"), ("afl", afl, "gamma"),
])  # fmt: skip
@given(
    seed=st.integers(0, 2**32), clients=st.integers(1, 5), number=st.sampled_from([0.05, 0.5, 2.0])
)
@settings(max_examples=20, deadline=None)
def test_both_halves_and_one_sum_are_the_papers_algorithm(
    name, reference, option, seed, clients, number
):
    draw = np.random.default_rng(seed)
    spec = StrategySpec(name=name, options={option: number})
    rule, channels = build_strategy(spec, clients).inner, channels_of(spec, SHAPES, 1)
    model, w = {n: np.zeros(s, "f4") for n, s in SHAPES.items()}, np.zeros(10)
    memory = np.full(clients, 1 / clients)
    states = [{"log-lambda": np.zeros(1, "f4"), "known": np.zeros(1, "f4")}] * clients
    for round_ in (1, 2, 3):
        losses = draw.uniform(0.1, 2.0, clients)
        moves = draw.normal(size=(clients, 10)) / 10
        vectors = []
        for k in range(clients):
            half = local_half(spec, rule.told(round_), "", [])
            half.loss, half.rates, half.steps = losses[k], RATES, STEPS
            half.own, half.heard = states[k], rule.sent(model)
            update = parts(moves[k])
            vectors.append(channels.vector(half.sends(update), half.further(update)))
            if name == "afl":
                states[k] = half.next_state(update)
        mean = {n: np.mean([v[n].astype("f8") for v in vectors], axis=0) for n in vectors[0]}
        found = {}
        for channel, tensor, array in channels.means(iter(mean.items())):
            if channel == "update":
                found[tensor] = array
            else:
                rule.hear(channel, tensor, array)
        model = {n: rule.next_model({n: model[n]}, {n: found[n]})[n].astype("f4") for n in SHAPES}
        w, memory = reference(w, losses, moves, memory, number)
        assert flat(model) == pytest.approx(w, abs=1e-4, rel=1e-3)


def test_with_q_zero_it_is_fedavg(open_job_of, tmp_path):
    def digest(name, **options):
        job = open_job_of(
            strategy={"name": name, "options": options, "weighting": "equal"},
            training={"optimizer": "sgd", "learning_rate": 0.5},
            privacy={"unit": "none"},
            model={"adapter": "head"},
        )
        return simulate(job, Options(tmp_path / f"{name}{options}", workers=1, reproducible=True))

    plain, zero = digest("fedavg"), digest("q-fedavg", q=0.0)
    results = [run.read_json("result.json")["client_metrics"] for run in (plain, zero)]
    for name, figures in results[0].items():
        assert figures["loss"] == pytest.approx(results[1][name]["loss"], abs=1e-5)


@pytest.mark.parametrize("mode", ["none", "secure-sum"])
@pytest.mark.parametrize(("name", "options"), [("q-fedavg", {"q": 5.0}), ("afl", {"gamma": 5.0})])
def test_losses_weigh_what_is_summed_under_encryption_and_without(
    name, options, mode, job_of, tmp_path
):
    def worst(strategy, **given):
        job = job_of(
            strategy={"name": strategy, "options": given, "weighting": "equal"},
            training={"optimizer": "sgd", "learning_rate": 0.3, "rounds": 6},
            privacy={"unit": "none"},
            model={"adapter": "head"},
            encryption={"mode": mode},
            simulation={"encryption_required": False},
        )
        path = tmp_path / f"{strategy}-{mode}"
        run = simulate(job, Options(path, workers=1, reproducible=True))
        assert not [e for e in run.read_events() if e.get("failed")]
        found = run.read_json("result.json")["client_metrics"]
        return max(figures["loss"] for figures in found.values())

    assert worst(name, **options) < worst("fedavg") - 0.1


def test_an_owner_without_a_state_enters_with_the_mean_weight():
    """With a log-lambda of 0 an owner that joins late, or lost its state, would never count again."""
    spec = StrategySpec(name="afl", options={"gamma": 0.5})
    half = local_half(spec, {"afl-gamma": 0.5}, "", [])
    half.loss, half.heard = 2.0, {"offset": np.array([30.0], "f4")}
    half.own = {"log-lambda": np.zeros(1, "f4"), "known": np.zeros(1, "f4")}
    assert half.weight() == 1.0
    following = half.next_state({})
    assert following["log-lambda"] == [31.0]
    half.own = following
    assert half.weight() == pytest.approx(np.exp(1.0))


@pytest.mark.parametrize("clip", [0.5, 4.0])
@pytest.mark.parametrize("q", [0.1, 1.0, 3.0])
def test_a_released_loss_weighs_as_the_same_loss_does_without_privacy(q, clip):
    """Weights are divided by one number for all, and the sums' quotient is what the model moves by."""
    draw, told = np.random.default_rng(7), {"q": q}
    moves, losses = draw.normal(size=(3, 10)), draw.uniform(0.1, 1, 3) * clip

    def quotient(largest):
        total, normaliser = np.zeros(10), 0.0
        for loss, move in zip(losses, moves, strict=True):
            half = local_half(StrategySpec(name="q-fedavg"), told, "", [])
            half.loss, half.loss_clip, half.rates, half.steps = loss, largest, RATES, STEPS
            update = parts(move)
            assert largest == 1.0 or half.weight() <= 1.0
            total += flat(half.sends(update))
            normaliser += float(half.further(update)["normaliser"]["share"][0])
        return total / normaliser

    assert quotient(clip) == pytest.approx(quotient(1.0), rel=1e-4)


@pytest.mark.parametrize("name", ["q-fedavg", "afl"])
def test_weights_by_loss_are_refused_where_noise_would_be_as_large_as_the_loss(name, job_of):
    job = job_of(strategy={"name": name}, privacy={"unit": "client", "delta": 0.001})
    words = "as large as its loss.*fedavg"
    assert re.search(words, " ".join(job_refusals(job)))
    assert re.search(words, " ".join(Policy.simulated(job).reasons(job)))
    for unit in ("none", "example"):
        assert not job_refusals(job_of(strategy={"name": name}, privacy={"unit": unit}))


@pytest.mark.parametrize(("name", "bad"), [("q-fedavg", {"q": -1.0}), ("afl", {"gamma": 0.0})])
def test_numbers_that_mean_nothing_are_refused(name, bad):
    with pytest.raises(StrategyError, match=next(iter(bad))):
        build_strategy(StrategySpec(name=name, options=bad), 2)
