"""Strategies whose owners keep a state, against their papers' algorithms written down in NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.job import StrategySpec
from umbel.job.rate import rates_of_round
from umbel.strategies import build_strategy, keeps_state, local_half, state_of

SHAPES = {"a.weight": (2, 3), "b": (4,)}
SIZE = 10
RATES = [0.3, 0.1, 0.05]


class Losses:
    """Quadratic losses of N owners, and gradients of them with noise that is drawn beforehand."""

    def __init__(self, seed, clients, rounds):
        draw = np.random.default_rng(seed)
        roots = draw.normal(size=(clients, SIZE, SIZE)) / 4
        self._matrix = np.einsum("kij,klj->kil", roots, roots)
        self._middle = draw.normal(size=(clients, SIZE))
        self._noise = draw.normal(size=(rounds, clients, len(RATES), SIZE)) / 10

    def gradient(self, round_, client, step, w):
        pulled = self._matrix[client] @ (w - self._middle[client])
        return pulled + self._noise[round_, client, step]


def parts(flat):
    return {"a.weight": flat[:6].reshape(2, 3), "b": flat[6:]}


def flat(arrays):
    return np.concatenate([np.asarray(arrays[name]).reshape(-1) for name in SHAPES])


def scaffold(losses, cohorts, clients, rate):
    """Karimireddy et al. 2020, Algorithm 1, option II."""
    x, c = np.zeros(SIZE), np.zeros(SIZE)
    c_i = np.zeros((clients, SIZE))
    for r, cohort in enumerate(cohorts):
        delta_y, delta_c = [], []
        for i in cohort:
            y = x.copy()
            for k, eta in enumerate(RATES):
                y = y - eta * (losses.gradient(r, i, k, y) - c_i[i] + c)
            plus = c_i[i] - c + (x - y) / sum(RATES)
            delta_y.append(y - x)
            delta_c.append(plus - c_i[i])
            c_i[i] = plus
        x = x + rate / len(cohort) * sum(delta_y)
        c = c + sum(delta_c) / clients
    return x, c_i


def feddyn(losses, cohorts, clients, alpha):
    """Acar et al. 2021, Algorithm 1, its inner problem by as many steps."""
    theta, h = np.zeros(SIZE), np.zeros(SIZE)
    gradient_of = np.zeros((clients, SIZE))
    for r, cohort in enumerate(cohorts):
        found = []
        for i in cohort:
            mine = theta.copy()
            for k, eta in enumerate(RATES):
                step = losses.gradient(r, i, k, mine) - gradient_of[i] + alpha * (mine - theta)
                mine = mine - eta * step
            gradient_of[i] = gradient_of[i] - alpha * (mine - theta)
            found.append(mine)
        h = h - alpha / clients * sum(mine - theta for mine in found)
        theta = sum(found) / len(cohort) - h / alpha
    return theta, gradient_of


def ours(spec, losses, cohorts, clients):
    """The same federation by both halves of the strategy."""
    rule = build_strategy(spec, clients).inner
    model = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    states = [dict(model) for _ in range(clients)]
    for r, cohort in enumerate(cohorts):
        updates = []
        for i in cohort:
            half = local_half(spec, rule.told(r + 1), "", [])
            half.own, half.rates = states[i], sum(RATES)
            half.heard = rule.sent(model)
            weights = {name: torch.tensor(array) for name, array in model.items()}
            start = {name: tensor.clone() for name, tensor in weights.items()}
            for k, eta in enumerate(RATES):
                step = parts(losses.gradient(r, i, k, flat(weights)).astype(np.float32))
                for name, tensor in weights.items():
                    gradient = torch.tensor(step[name])
                    half.correct(name, gradient, tensor, start[name])
                    tensor.sub_(gradient, alpha=eta)
            updates.append({n: (w - start[n]).numpy() for n, w in weights.items()})
            states[i] = half.next_state(updates[-1])
            assert all(array.dtype == np.float32 for array in states[i].values())
        rule.summed(len(cohort) / clients, sum(RATES))
        mean = {n: np.mean([u[n].astype(np.float64) for u in updates], axis=0) for n in SHAPES}
        # As the one adapter calls it: some tensors at a time.
        model = {
            n: rule.next_model({n: model[n]}, {n: mean[n]})[n].astype(np.float32) for n in SHAPES
        }
    return rule, flat(model), np.array([flat(state) for state in states])


REFERENCES = {
    "scaffold": (scaffold, {"learning_rate": 0.8}, 0.8),
    "feddyn": (feddyn, {"alpha": 0.1}, 0.1),
}


@pytest.mark.parametrize("name", REFERENCES)
@given(seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=25, deadline=None)
def test_both_halves_together_are_the_papers_algorithm(name, seed, data):
    reference, options, number = REFERENCES[name]
    clients = data.draw(st.integers(1, 4))
    some = st.lists(st.integers(0, clients - 1), min_size=1, max_size=clients, unique=True)
    cohorts = data.draw(st.lists(some, min_size=1, max_size=4))
    losses = Losses(seed, clients, len(cohorts))
    spec = StrategySpec(name=name, options=options)
    model, states = reference(losses, cohorts, clients, number)
    rule, found, kept = ours(spec, losses, cohorts, clients)
    assert found == pytest.approx(model, abs=2e-4, rel=2e-4)
    assert kept == pytest.approx(states, abs=2e-4, rel=2e-4)
    common = rule._c if name == "scaffold" else rule._h
    assert flat(common) == pytest.approx(kept.mean(axis=0), abs=2e-4, rel=2e-4)


@pytest.mark.parametrize("name", REFERENCES)
def test_what_owners_keep_is_known_from_the_models_shapes(name):
    spec = StrategySpec(name=name)
    assert keeps_state(spec)
    assert state_of(spec, SHAPES) == SHAPES
    assert not keeps_state(StrategySpec(name="fedprox"))
    assert not state_of(StrategySpec(name="FedAvg"), SHAPES)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_rates_of_all_rounds_together_are_those_of_the_job(schedule, job_of):
    training = {"schedule": schedule, "warmup": 0.4, "rounds": 5, "local_steps": 3}
    spec = job_of(training=training).training
    from umbel.job.rate import learning_rate

    steps = sum(learning_rate(step, 15, spec) for step in range(15))
    assert sum(rates_of_round(round_, spec) for round_ in range(1, 6)) == pytest.approx(steps)


@pytest.mark.parametrize("alpha", [0, -0.1, float("inf"), float("nan")])
def test_a_pull_that_cannot_work_is_refused(alpha):
    from umbel.errors import MessageError, StrategyError

    spec = StrategySpec(name="feddyn").model_copy(update={"options": {"alpha": alpha}})
    with pytest.raises(StrategyError, match="alpha"):
        build_strategy(spec, 4)
    with pytest.raises(MessageError, match="dynamic-alpha"):
        local_half(spec, {"dynamic-alpha": alpha}, "", [])


SGD = {"optimizer": "sgd", "learning_rate": 0.1}


@pytest.mark.parametrize(("name", "sections", "words"), [
    ("scaffold", {}, "set training.optimizer = \"sgd\".*feddyn"),
    ("scaffold", {"training": {**SGD, "momentum": 0.9}}, "without momentum"),
    ("scaffold", {"training": {**SGD, "weight_decay": 0.1}}, "weight_decay"),
    ("scaffold", {"training": SGD, "privacy": {"unit": "client"}}, "before that is clipped.*fedprox"),
    ("feddyn", {"privacy": {"unit": "client"}}, "before that is clipped.*fedprox"),
    ("feddyn", {"encryption": {"confirm": False}}, "encryption.confirm = true"),
])  # fmt: skip
def test_a_job_that_cannot_be_right_is_refused_by_plan_and_policy(name, sections, words, job_of):
    import re

    from umbel.client.policy import Policy
    from umbel.planning.refusals import job_refusals

    job = job_of(strategy={"name": name}, **sections)
    assert re.search(words, " ".join(job_refusals(job)))
    assert re.search(words, " ".join(Policy.simulated(job).reasons(job)))
    right = job_of(strategy={"name": name}, training=SGD)
    assert not job_refusals(right)
