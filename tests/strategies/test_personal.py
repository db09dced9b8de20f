"""Strategies with personal parts, against their papers' algorithms written down in NumPy."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.client.policy import Policy
from umbel.errors import MessageError, StrategyError
from umbel.job import StrategySpec
from umbel.planning.refusals import job_refusals
from umbel.strategies import (
    build_strategy,
    channels_of,
    keeps_state,
    local_half,
    personal_of,
    state_of,
    trains_apart,
)
from umbel.strategies.named import apart_half

A, B, HEAD = "layer.lora_A.default.weight", "layer.lora_B.default.weight", "head.weight"
SHAPES = {A: (2, 3), B: (4, 2), HEAD: (5,)}
PERSONAL = {"fedsa-lora": {B, HEAD}, "local-head": {HEAD}, "fedrep": {HEAD}, "ditto": set()}
RATES = [0.2, 0.1, 0.15]
SIZE = 6 + 8 + 5


def parts(flat):
    return {A: flat[:6].reshape(2, 3), B: flat[6:14].reshape(4, 2), HEAD: flat[14:]}


def flat(arrays):
    return np.concatenate([np.asarray(arrays[name]).reshape(-1) for name in SHAPES])


class Losses:
    """Quadratic losses of N owners, so that all parts of a model depend on each other."""

    def __init__(self, seed, clients):
        draw = np.random.default_rng(seed)
        roots = draw.normal(size=(clients, SIZE, SIZE)) / 5
        self._matrix = np.einsum("kij,klj->kil", roots, roots)
        self._middle = draw.normal(size=(clients, SIZE))

    def gradient(self, client, w):
        return self._matrix[client] @ (w - self._middle[client])


def chosen(names):
    return np.concatenate([np.full(np.prod(s), name in names) for name, s in SHAPES.items()])


def parted(losses, cohorts, clients, head_steps, personal):
    """FedPer (Arivazhagan et al., Alg. 1), FedSA-LoRA, and FedRep (Collins et al., Alg. 1)."""
    mine = chosen(personal)
    w, own = np.zeros(SIZE), np.zeros((clients, SIZE))
    for cohort in cohorts:
        found = []
        for i in cohort:
            y = np.where(mine, own[i], w)
            for k, eta in enumerate(RATES):
                moves = np.ones(SIZE, bool) if not head_steps else mine == (k < head_steps)
                y = y - eta * np.where(moves, losses.gradient(i, y), 0)
            own[i] = np.where(mine, y, 0)
            found.append(y)
        w = np.where(mine, 0, np.mean(found, axis=0))
    return w, own


def ditto(losses, cohorts, clients, pull):
    """Li et al. 2021, Alg. 1: FedAvg of w; v_k <- v_k - eta (grad F_k(v_k) + lambda (v_k - w))."""
    w, v = np.zeros(SIZE), np.zeros((clients, SIZE))
    for cohort in cohorts:
        found = []
        for i in cohort:
            y = w.copy()
            for eta in RATES:
                y = y - eta * losses.gradient(i, y)
                v[i] = v[i] - eta * (losses.gradient(i, v[i]) + pull * (v[i] - w))
            found.append(y)
        w = np.mean(found, axis=0)
    return w, v


def steps_of(half, names, start, gradient):
    """A round's steps of these tensors by a local half, if there is one; how far they moved."""
    weights = {name: torch.tensor(np.array(start[name])) for name in SHAPES}
    origin = {name: tensor.clone() for name, tensor in weights.items()}
    for k, eta in enumerate(RATES):
        step = parts(gradient(flat(weights)).astype(np.float32))
        for name in half.trains(len(RATES) * 4 + k, names) if half else names:
            moved = torch.tensor(step[name])
            if half:
                half.correct(name, moved, weights[name], origin[name])
            weights[name].sub_(moved, alpha=eta)
    return {name: (weights[name] - origin[name]).numpy() for name in names}


def ours(spec, losses, cohorts, clients):
    """The same federation by the declarations and both halves of a strategy."""
    rule = build_strategy(spec, clients).inner
    personal = set(personal_of(spec, SHAPES))
    shared = {name: shape for name, shape in SHAPES.items() if name not in personal}
    model = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    states = [
        {name: np.zeros(shape, np.float32) for name, shape in state_of(spec, SHAPES).items()}
        for _ in range(clients)
    ]
    apart = trains_apart(spec)
    for r, cohort in enumerate(cohorts, 1):
        updates = []
        sent = channels_of(spec, shared, r).shapes
        assert not sent.keys() & personal
        for i in cohort:
            half, own = local_half(spec, rule.told(r), "", []), states[i]
            if half:
                half.steps = len(RATES)
            start = {**model, **{name: own[name] for name in personal}}
            update = steps_of(half, list(SHAPES), start, lambda y, i=i: losses.gradient(i, y))
            updates.append({name: update[name] for name in sent})
            states[i] = {name: own[name] + update[name] for name in personal}
            if apart:
                second = apart_half(spec, rule.told(r), [])
                second.shared = model
                begin = {name: own[f"apart/{name}"] for name in SHAPES}
                moved = steps_of(second, list(SHAPES), begin, lambda y, i=i: losses.gradient(i, y))
                states[i] = {f"apart/{name}": begin[name] + moved[name] for name in SHAPES}
        mean = {n: np.mean([u[n].astype(np.float64) for u in updates], axis=0) for n in sent}
        following = {n: rule.next_model({n: model[n]}, {n: mean[n]})[n] for n in sent}
        model |= {name: array.astype(np.float32) for name, array in following.items()}
    zero = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    kept = [flat({**zero, **{n.removeprefix("apart/"): a for n, a in s.items()}}) for s in states]
    return flat(model), np.array(kept)


@pytest.mark.parametrize("name", PERSONAL)
@given(seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=15, deadline=None)
def test_declarations_and_both_halves_together_are_the_papers_algorithm(name, seed, data):
    clients = data.draw(st.integers(1, 4))
    some = st.lists(st.integers(0, clients - 1), min_size=1, max_size=clients, unique=True)
    cohorts = data.draw(st.lists(some, min_size=1, max_size=4))
    losses, options = Losses(seed, clients), {}
    if name == "ditto":
        pull = data.draw(st.sampled_from([0.0, 0.1, 2.0]))
        options, (w, own) = {"pull": pull}, ditto(losses, cohorts, clients, pull)
    else:
        head = data.draw(st.integers(1, len(RATES) - 1)) if name == "fedrep" else 0
        options = {"head_steps": head} if head else {}
        w, own = parted(losses, cohorts, clients, head, PERSONAL[name])
    model, kept = ours(StrategySpec(name=name, options=options), losses, cohorts, clients)
    assert model == pytest.approx(w, abs=2e-4, rel=2e-4)
    assert kept == pytest.approx(own, abs=2e-4, rel=2e-4)


@pytest.mark.parametrize(("name", "personal"), PERSONAL.items())
def test_what_travels_and_what_stays_is_known_from_the_models_shapes(name, personal):
    spec = StrategySpec(name=name)
    assert set(personal_of(spec, SHAPES)) == personal
    assert set(channels_of(spec, SHAPES, 1).shapes) == SHAPES.keys() - personal
    assert keeps_state(spec)
    stays = {f"apart/{n}" for n in SHAPES} if name == "ditto" else personal
    assert set(state_of(spec, SHAPES)) == stays


LORA = {"model": {"adapter": "lora"}}


@pytest.mark.parametrize(("name", "sections", "words"), [
    ("fedsa-lora", {"evaluation": {"keep": "best"}}, 'evaluation.keep = "last".*fedavg'),
    ("local-head", {"evaluation": {"patience": 2}}, "no evaluation.patience"),
    ("fedrep", {"training": {"local_steps": 1}}, "leaves none for the shared body.*local-head"),
    ("fedrep", {"encryption": {"confirm": False}}, "encryption.confirm = true"),
    ("ditto", {"encryption": {"confirm": False}}, "encryption.confirm = true"),
])  # fmt: skip
def test_a_job_that_cannot_be_right_is_refused_by_plan_and_policy(name, sections, words, job_of):
    job = job_of(strategy={"name": name}, **LORA, **sections)
    assert re.search(words, " ".join(job_refusals(job)))
    assert re.search(words, " ".join(Policy.simulated(job).reasons(job)))
    for unit in ("example", "client", "none"):
        private = {"unit": unit} if unit != "client" else {"unit": unit, "delta": 0.1}
        right = job_of(strategy={"name": name}, privacy=private, **LORA)
        assert not job_refusals(right)


@pytest.mark.parametrize(("name", "option", "bad", "told"), [
    ("ditto", "pull", -1.0, "ditto-lambda"),
    ("ditto", "pull", float("nan"), "ditto-lambda"),
    ("fedrep", "head_steps", 0, "head-steps"),
])  # fmt: skip
def test_numbers_that_mean_nothing_are_refused_by_both_halves(name, option, bad, told):
    spec = StrategySpec(name=name).model_copy(update={"options": {option: bad}})
    with pytest.raises(StrategyError, match=option):
        build_strategy(spec, 4)
    with pytest.raises(MessageError, match=told):
        (apart_half if name == "ditto" else lambda s, t, a: local_half(s, t, "", a))(
            spec, {told: bad}, []
        )
