"""Each robust rule against its paper, written again in numpy, and what Byzantine vectors can do to it."""

import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.errors import StrategyError
from umbel.job import StrategySpec
from umbel.strategies import NAMES, build_strategy, sees
from umbel.strategies.robust import ROBUST
from umbel.strategies.robust.geometric_median import geometric_median
from umbel.strategies.robust.krum import scores, squared_distances


def stack(seed, n, d, scale=1.0):
    return (scale * np.random.default_rng(seed).normal(size=(n, d))).astype(np.float32)


def combined(name, vectors, f, **options):
    """What a rule of a fresh strategy makes of the vectors, with f of them Byzantine."""
    rule = ROBUST[name](attackers=f / len(vectors), **options)
    assert rule.byzantine(len(vectors)) == f
    return rule.combine(vectors, len(vectors))


def plain_scores(xs, f):
    n = len(xs)
    found = []
    for i in range(n):
        apart = sorted(float(((xs[i] - xs[j]) ** 2).sum()) for j in range(n) if j != i)
        found.append(sum(apart[: max(1, n - f - 2)]))
    return found


def plain_median(xs, f):
    return np.array([np.median(column) for column in xs.T])


def plain_trimmed(xs, f):
    return np.array([np.mean(sorted(column)[f : len(xs) - f]) for column in xs.T])


def plain_krum(xs, f):
    return xs[int(np.argmin(plain_scores(xs, f)))]


def plain_multi_krum(xs, f):
    best = sorted(range(len(xs)), key=plain_scores(xs, f).__getitem__)[: len(xs) - f]
    return np.mean([xs[i] for i in best], axis=0)


def plain_bulyan(xs, f):
    left, chosen = list(xs), []
    theta = len(xs) - 2 * f
    while len(chosen) < theta:
        xs, known = np.array(left), plain_scores(np.array(left), f)
        everything = [float(((xs - x) ** 2).sum()) for x in xs]
        best = min(range(len(left)), key=lambda i: (round(known[i], 9), everything[i]))
        chosen.append(left.pop(best))
    found = []
    for column in np.array(chosen).T:
        middle = np.median(column)
        nearest = sorted(column, key=lambda x: abs(x - middle))[: len(chosen) - 2 * f]
        found.append(np.mean(nearest))
    return np.array(found)


def plain_clipping(xs, f):
    v = np.zeros(xs.shape[1])
    for _ in range(3):
        apart = [float(np.linalg.norm(x - v)) for x in xs]
        tau = np.median(apart)
        v = v + sum((x - v) * min(1, tau / a) for x, a in zip(xs, apart, strict=True)) / len(xs)
    return v


def plain_bound(xs, f):
    norms = [float(np.linalg.norm(x)) for x in xs]
    bound = np.median(norms)
    return sum(x * min(1, bound / norm) for x, norm in zip(xs, norms, strict=True)) / len(xs)


PLAIN = {
    "median": plain_median,
    "trimmed-mean": plain_trimmed,
    "krum": plain_krum,
    "multi-krum": plain_multi_krum,
    "bulyan": plain_bulyan,
    "centred-clipping": plain_clipping,
    "norm-bound": plain_bound,
}


@st.composite
def problems(draw, name=None):
    """A rule, and vectors with as many Byzantine ones as it is said to hold against, or fewer."""
    rule = name or draw(st.sampled_from(sorted(ROBUST)))
    n = draw(st.integers(7, 15))
    f = draw(st.integers(0, ROBUST[rule].tolerates(n)))
    return rule, stack(draw(st.integers(0, 2**20)), n, draw(st.integers(1, 9))), f


@given(problems())
@settings(deadline=None, max_examples=150)
def test_a_rule_is_what_its_paper_says(problem):
    name, vectors, f = problem
    if name in PLAIN:
        expected = PLAIN[name](vectors.astype(np.float64), f)
        assert combined(name, vectors, f) == pytest.approx(expected, abs=1e-9)


@given(st.integers(0, 2**20), st.integers(3, 12), st.integers(1, 6))
@settings(deadline=None, max_examples=50)
def test_no_point_nearby_has_a_smaller_sum_of_distances_than_the_geometric_median(seed, n, d):
    vectors = stack(seed, n, d).astype(np.float64)

    def cost(point):
        return np.linalg.norm(vectors - point, axis=1).sum()

    found = geometric_median(vectors.astype(np.float32), 2000)
    rng = np.random.default_rng(seed)
    for size in (1e-3, 1e-2, 1e-1, 1.0):
        for _ in range(8):
            step = rng.normal(size=d)
            nearby = found + size * step / np.linalg.norm(step)
            assert cost(found) <= 1.001 * cost(nearby)
    assert all(cost(found) <= 1.001 * cost(vector) for vector in vectors)


@given(problems(), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=100)
def test_the_order_of_the_vectors_does_not_matter(problem, random):
    name, vectors, f = problem
    order = list(range(len(vectors)))
    random.shuffle(order)
    one, other = (combined(name, v, f) for v in (vectors, vectors[order]))
    assert one == pytest.approx(other, abs=1e-8)


@given(problems(), st.floats(-3, 3), st.floats(0.01, 100))
@settings(deadline=None, max_examples=100)
def test_a_rule_goes_along_with_shifts_and_scales(problem, shift, scale):
    """Centred clipping and the norm bound go by lengths from where they start, so by scales alone."""
    name, vectors, f = problem
    moves = name not in ("centred-clipping", "norm-bound")
    exact = vectors.astype(np.float64)
    other = scale * exact + (shift if moves else 0)
    expected = scale * combined(name, exact, f) + (shift if moves else 0)
    # A geometric median is found to a millionth of the distances.
    near = 1e-3 if name == "geometric-median" else 1e-6
    assert combined(name, other, f) == pytest.approx(expected, abs=near * (1 + scale))


# How many times as far as the honest vectors a result can be: n vectors of d numbers, f of them Byzantine.
FARTHEST = {
    # Each coordinate lies between good values.
    "median": lambda n, f, d: math.sqrt(d),
    "trimmed-mean": lambda n, f, d: math.sqrt(d),
    # Pillutla et al. 2022, after Lopuhaa and Rousseeuw 1991.
    "geometric-median": lambda n, f, d: 2 * (n - f) / (n - 2 * f),
    # Who is chosen is no farther from a good one than sqrt(n) times what two good ones are apart.
    "krum": lambda n, f, d: 1 + 2 * math.sqrt(n),
    "multi-krum": lambda n, f, d: 1 + 2 * math.sqrt(n),
    # Each value is no farther from the median than a good one is.
    "bulyan": lambda n, f, d: 3 * math.sqrt(d),
    # Each of three steps is as long as a good one's distance at most: 1, then 2, then 4.
    "centred-clipping": lambda n, f, d: 7,
    "norm-bound": lambda n, f, d: 1,
}


@given(problems(), st.sampled_from([1.0, 1e3, 1e6]), st.integers(0, 2**20))
@settings(deadline=None, max_examples=200)
def test_bad_vectors_however_large_keep_the_result_near_the_good_ones(problem, size, seed):
    name, vectors, f = problem
    n, d = vectors.shape
    rng = np.random.default_rng(seed)
    kind = rng.integers(3)
    lies = size * rng.normal(size=(f, d)) if kind else np.tile(size * rng.normal(size=d), (f, 1))
    spoiled = np.concatenate([vectors[: n - f], lies.astype(np.float32)])[rng.permutation(n)]
    found = combined(name, spoiled, f)
    assert np.isfinite(found).all()
    farthest = float(np.linalg.norm(vectors[: n - f], axis=1).max())
    assert np.linalg.norm(found) <= 1.001 * FARTHEST[name](n, f, d) * farthest + 1e-6


@pytest.mark.parametrize("name", sorted(ROBUST))
def test_a_mean_breaks_where_a_rule_holds(name, exchange, a_model, updates_of):
    """The reason for all of them, through the strategy: two of fifteen send what they like."""
    [updates] = updates_of(1, clients=15, weights=[1] * 15)
    wild = {n: np.full_like(array, 900.0) for n, array in a_model.items()}
    sent = [*updates[:13], (wild, 1), (wild, 1)]
    means, held = (
        exchange(build_strategy(StrategySpec(name=n, options=o), 15), a_model, [sent])[-1]
        for n, o in (("fedavg", {}), (name, {"attackers": 2 / 15}))
    )
    assert all(np.abs(means[n] - a_model[n]).max() > 100 for n in a_model)
    assert all(np.abs(held[n] - a_model[n]).max() < 1 for n in a_model)


@pytest.mark.parametrize("name", sorted(ROBUST))
def test_a_round_goes_on_from_the_state_of_the_last_one(name, exchange, a_model, updates_of):
    from umbel.run.checkpoint import restore_strategy, strategy_state

    rounds = updates_of(3, clients=9, weights=[1] * 9)
    whole, first, second = (
        build_strategy(StrategySpec(name=name, options={"attackers": 0.1}), 9) for _ in range(3)
    )
    expected = exchange(whole, a_model, rounds)[-1]
    [*_, model] = exchange(first, a_model, rounds[:2])
    restore_strategy(second, strategy_state(first))
    [found] = exchange(second, model, rounds[2:], first=3)
    assert all(np.array_equal(found[n], expected[n]) for n in a_model)


@pytest.mark.parametrize(
    ("name", "least"), [("median", 5), ("krum", 7), ("multi-krum", 7), ("bulyan", 11)]
)
def test_a_rule_with_too_few_vectors_says_how_many_bad_ones_it_holds_against(name, least):
    rule = ROBUST[name](attackers=0.1)
    assert rule.byzantine(20) == 2
    assert not rule.refusal(least, 20)
    words = f"2 of 20 clients may be Byzantine.* of {least - 1} vectors this rule holds against 1 at most"
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(rule.refusal(least - 1, 20))


def test_a_round_with_too_few_updates_is_not_made_up(exchange, a_model, updates_of):
    strategy = build_strategy(StrategySpec(name="krum", options={"attackers": 0.3}), 5)
    with pytest.raises(StrategyError, match="Round 1 cannot be made of 5 updates.*2 of 5 clients"):
        exchange(strategy, a_model, updates_of(1, clients=5))


@pytest.mark.parametrize("share", [0.07, 0.1, 0.14, 0.29])
def test_a_share_that_is_a_whole_number_of_clients_is_not_rounded_up(share):
    assert ROBUST["median"](attackers=share).byzantine(100) == round(100 * share)


@pytest.mark.parametrize("attackers", [-0.1, 0.5, math.nan])
def test_half_of_the_clients_and_more_cannot_be_bad(attackers):
    with pytest.raises(ValueError, match=r"\[0, 0\.5\)"):
        ROBUST["median"](attackers=attackers)


def test_distances_of_near_vectors_survive_a_huge_one():
    near = np.array([[1.0, 1.0], [1.0, 1.001], [1.0, 1.003], [1e15, -1e15]])
    found = squared_distances(near)
    assert found[0, 1] == pytest.approx(1e-6, rel=1e-6)
    assert np.argmin(scores(found, 0)) == 1


OWN = """
import numpy as np
from umbel.strategies import Rule


class Longest(Rule):
    sees = "GROUPS"

    def combine(self, updates, asked):
        assert (len(updates), asked) == (4, 4)
        return updates[np.argmax(np.linalg.norm(updates, axis=1))].astype(np.float64)

    def next_model(self, model, mean_update):
        return {name: w + mean_update[name] for name, w in model.items()}


class Sighted(Longest):
    sees = "INDIVIDUAL"
"""


def test_a_rule_of_ones_own_compares_too(tmp_path, monkeypatch, exchange, a_model, updates_of):
    (tmp_path / "own_robust.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_robust", raising=False)
    [updates] = updates_of(1, clients=4)
    longer = [({n: 3 * array for n, array in updates[2][0].items()}, 1)]
    sent = [*updates[:2], *longer, updates[3]]
    strategy = build_strategy(StrategySpec(name="own_robust:Longest"), 4)
    [model] = exchange(strategy, a_model, [sent], order=[3, 2, 1, 0])
    for name, array in a_model.items():
        assert model[name] == pytest.approx(array + sent[2][0][name], abs=1e-6)
    assert sees(StrategySpec(name="own_robust:Longest")) == "GROUPS"
    assert sees(StrategySpec(name="own_robust:Sighted")) == "INDIVIDUAL"
    sys.modules.pop("own_robust")


def test_every_robust_rule_has_a_name_of_its_own():
    assert set(ROBUST) <= set(NAMES)
    assert len(set(NAMES)) == len(NAMES)
