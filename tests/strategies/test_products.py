"""The mean of products from two sums, against the same in float64, and each rule on it against its paper."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.strategies import ours
from umbel.strategies.contract import UPDATE, checked_channels
from umbel.strategies.products import OVERSAMPLING, pairs_of, signs
from umbel.strategies.residual import fold, with_residual
from umbel.strategies.second import reaches_told
from umbel.wire.residual_names import is_residual, names_beside

from .mean_products import (
    PAPERS,
    A,
    B,
    adapter,
    changes_of,
    in_the_clear,
    masked,
    mean_products,
    owner,
    two_sums,
    with_any_adapters,
)


@pytest.mark.parametrize("name", PAPERS)
@with_any_adapters
def test_a_round_comes_to_what_the_paper_says(name, shapes, rank, weights, seed, data):
    generator = np.random.default_rng(seed)
    model = adapter(generator, rank, shapes)
    rule = ours(name)()
    rule.clients = len(weights)
    changes = changes_of(generator, model, len(weights))
    ranks = [data.draw(st.integers(0, rank)) for _ in weights]
    found, trained = two_sums(rule, model, changes, weights, ranks)
    means = {n: np.average([one[n].astype(float) for one in trained], 0, weights) for n in model}
    for pair in pairs_of({n: array.shape for n, array in model.items()}):
        mean = mean_products(trained, weights)[pair.b]
        wanted = PAPERS[name](mean, rank, *pair.factors(means))
        b, a = pair.factors(found)
        assert b @ a == pytest.approx(wanted, abs=1e-5 * max(1e-3, np.abs(mean).max()))
    assert found["head.weight"] == pytest.approx(means["head.weight"], abs=1e-6)


def moved_by(model):
    """What each layer's weight comes to beside the frozen one, float64."""
    found = {}
    for pair in pairs_of({n: array.shape for n, array in model.items() if not is_residual(n)}):
        b, a = pair.factors(model)
        left, right = (model[name].astype(float) for name in names_beside(pair.b))
        found[pair.b] = left @ right + b @ a
    return found


def with_zeros(model, width):
    """The model with residuals of zeros."""
    shapes = with_residual({name: array.shape for name, array in model.items()}, width)
    return {n: model.get(n, np.zeros(shape, "f4")) for n, shape in shapes.items()}


@pytest.mark.parametrize("name", ["flora", "fedex-lora"])
@with_any_adapters
def test_base_and_factors_move_as_the_paper_says(name, shapes, rank, weights, seed, data):
    """Wang et al. 2024: W + [w_1 B_1, ...] [A_1; ...]. Singhal et al. 2024: A and B are means, and W gets the
    mean product less their product. Both over three rounds, with a dense W."""
    generator = np.random.default_rng(seed)
    model = with_zeros(adapter(generator, rank, shapes, 0.0 if name == "flora" else 0.1), 9)
    rule = ours(name)(residual_rank=9)
    rule.clients = len(weights)
    dense = {b: np.zeros_like(product) for b, product in moved_by(model).items()}
    for _ in range(3):
        ranks = [data.draw(st.integers(0, rank)) for _ in weights]
        trains = {n: array for n, array in model.items() if not is_residual(n)}
        changes = changes_of(generator, trains, len(weights))
        found, trained = two_sums(rule, model, changes, weights, ranks)
        model = {n: array.astype("f4") for n, array in found.items()}
        means = {
            n: np.average([one[n].astype(float) for one in trained], 0, weights) for n in trains
        }
        for pair in pairs_of({n: array.shape for n, array in trains.items()}):
            b, a = pair.factors(model)
            each = [pair.factors(one) for one in trained]
            if name == "flora":
                stacked = np.hstack(
                    [w / sum(weights) * one for w, (one, _) in zip(weights, each, strict=True)]
                )
                dense[pair.b] += stacked @ np.vstack([one for _, one in each])
                assert not b.any()
                assert np.abs(a).max() <= pair.n**-0.5
                assert not np.array_equal(a, pair.factors(trains)[1])
                wanted = dense[pair.b]
            else:
                mean_b, mean_a = pair.factors(means)
                dense[pair.b] += mean_products(trained, weights)[pair.b] - mean_b @ mean_a
                assert (b, a) == (pytest.approx(mean_b, abs=1e-6), pytest.approx(mean_a, abs=1e-6))
                wanted = dense[pair.b] + mean_b @ mean_a
            size = max(1e-3, np.abs(wanted).max())
            assert moved_by(model)[pair.b] == pytest.approx(wanted, abs=1e-5 * size)
        assert rule.dropped <= 1e-6 * max(np.linalg.norm(one) for one in moved_by(model).values())


@given(
    st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.integers(1, 6), st.integers(0, 99)
)
def test_what_does_not_fit_into_a_residual_is_the_least_that_can_be(m, n, width, more, seed):
    """Eckart and Young 1936, and the norm of it is said."""
    generator, width = np.random.default_rng(seed), min(width, m, n)
    b, a = generator.normal(size=(m, width)), generator.normal(size=(width, n))
    left, right = generator.normal(size=(m, more)), generator.normal(size=(more, n))
    found, whole = fold(b, a, left, right), b @ a + left @ right
    u, s, v = np.linalg.svd(whole, full_matrices=False)
    assert found.b @ found.a == pytest.approx(u[:, :width] * s[:width] @ v[:width], abs=1e-6)
    assert found.dropped == pytest.approx(np.linalg.norm(s[width:]), abs=1e-6)
    assert (found.rank, found.b.shape, found.a.shape) == (width, b.shape, a.shape)


def test_nothing_put_into_a_residual_of_zeros_leaves_it():
    zeros = np.zeros((4, 3)), np.zeros((3, 5))
    found = fold(*zeros, np.zeros((4, 2)), np.ones((2, 5)))
    assert (found.rank, found.dropped, found.b.any(), found.a.any()) == (0, 0.0, False, False)


@pytest.mark.parametrize("cap", [0, -1, 2**16, 2.0, True, "8"])
@pytest.mark.parametrize("name", ["flora", "fedex-lora"])
def test_a_residual_of_another_rank_is_refused(name, cap):
    with pytest.raises(ValueError, match="residual_rank"):
        ours(name)(residual_rank=cap)


def seen_means(rule):
    """The mean products that a rule comes to in its next round, by layer."""
    found, combined = {}, type(rule).combined

    def listen(mean, b, a):
        found[mean.pair.b] = mean.left @ mean.right
        return combined(rule, mean, b, a)

    rule.combined = listen
    return found


@pytest.mark.parametrize("clip", [0.015625, 0.125, 0.5])
def test_the_mean_product_of_mixed_ranks_is_exact_through_secure_sums(clip):
    """The bar: 1e-6 against float64 in every round, with ranks 4, 8 and 16 at 8 owners, whose changes have a
    deviation of a sixth of the clip. The first round, whose B is zero, is the hardest."""
    generator = np.random.default_rng(7)
    model = adapter(generator, 16, [(160, 192), (192, 160)], 0.0)
    ranks, weights = [4, 8, 16, 4, 8, 16, 4, 8], [3, 1, 2, 3, 1, 1, 2, 3]
    rule = ours("flexlora")()
    rule.clients, rule.clip = 8, clip
    found = seen_means(rule)
    for _ in range(2):
        changes = changes_of(generator, model, 8, clip / 6)
        following, trained = two_sums(rule, model, changes, weights, ranks, masked(clip))
        for name, wanted in mean_products(trained, weights).items():
            assert np.linalg.norm(found[name] - wanted) <= 1e-6 * np.linalg.norm(wanted)
        model = {name: array.astype("f4") for name, array in following.items()}


@pytest.mark.parametrize("begun", [0.0, 0.1])
@pytest.mark.parametrize("clip", [0.015625, 0.125, 0.5])
def test_changes_that_are_half_the_clip_fit_into_both_reaches(begun, clip):
    """Less than half of the room is used, so no owner's vector is scaled down and no answer refused."""
    generator, used = np.random.default_rng(3), []
    model = adapter(generator, 16, [(160, 192), (192, 160)], begun)
    rule = ours("flexlora")()
    rule.clients, rule.clip = 8, clip

    def mean(vectors, weights):
        entries = (abs(a).max() for one in vectors for n, a in one.items() if "/" in n)
        used.append(max(entries) / clip)
        return in_the_clear(vectors, weights)

    halves = {n: np.full(array.shape, clip / 2, "f4") for n, array in model.items()}
    changes = [
        {n: a * generator.choice([-1, 1], a.shape).astype("f4") for n, a in halves.items()}
        for _ in range(8)
    ]
    two_sums(rule, model, changes, [1] * 8, [4, 8, 16, 16, 4, 8, 16, 16], mean)
    assert len(used) == 2
    assert max(used) < 0.5


def test_a_clip_that_is_far_too_large_rounds_the_product_coarsely():
    """As docs/strategies.md has it: a clip of 8 where the largest changes are some hundredths."""
    generator = np.random.default_rng(7)
    model = adapter(generator, 16, [(160, 192), (192, 160)], 0.0)
    rule = ours("flexlora")()
    rule.clients, rule.clip, seen = 8, 8.0, {}
    rule.combined = lambda mean, b, a: seen.update({mean.pair.b: mean}) or (b, a)
    changes = changes_of(generator, model, 8, 0.01)
    _, trained = two_sums(rule, model, changes, [1] * 8, [16] * 8, masked(8.0))
    for name, wanted in mean_products(trained, [1] * 8).items():
        error = np.linalg.norm(seen[name].left @ seen[name].right - wanted)
        assert 1e-3 < error / np.linalg.norm(wanted) < 2e-2


def test_a_sketch_that_is_too_narrow_is_not_exact():
    """So the width is needed: the test above would tell."""
    generator = np.random.default_rng(7)
    model = adapter(generator, 16, [(160, 192)], 0.0)
    rule = ours("flexlora")()
    rule.clients, seen = 2, {}
    rule.combined = lambda mean, b, a: seen.update({mean.pair.b: mean}) or (b, a)
    _, trained = two_sums(rule, model, changes_of(generator, model, 8), [1] * 8, [0] * 8)
    for name, wanted in mean_products(trained, [1] * 8).items():
        error = np.linalg.norm(seen[name].left @ seen[name].right - wanted)
        assert error > 0.1 * np.linalg.norm(wanted)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 8), st.integers(0, 6))
def test_a_sketch_is_as_wide_as_the_ranks_of_a_cohort_together_and_no_wider_than_the_layer(
    m, n, rank, clients
):
    shapes = {A.format(0): (rank, n), B.format(0): (m, rank)}
    [pair] = pairs_of(shapes)
    wanted = min(m, n, clients * rank + OVERSAMPLING) if clients else min(m, n)
    assert pair.width(clients) == wanted
    omega = signs(3, pair, wanted)
    assert omega.shape == (n, wanted)
    assert set(np.unique(omega)) <= ({-1.0, 1.0} if wanted < n else {0.0, 1.0})
    assert np.array_equal(omega, signs(3, pair, wanted))


SIGNS = [[1, -1, -1], [-1, 1, 1], [-1, -1, -1], [1, -1, -1], [1, 1, -1]]


def test_signs_are_the_same_on_every_machine_and_others_in_every_round():
    [pair] = pairs_of({A.format(0): (2, 5), B.format(0): (4, 2)})
    assert signs(1, pair, 3).astype(int).tolist() == SIGNS
    assert not np.array_equal(signs(1, pair, 3), signs(2, pair, 3))


@pytest.mark.parametrize(
    "spoil", [lambda q: q * 2, lambda q: q[:, [0] * q.shape[1]], np.zeros_like]
)
def test_a_question_without_orthonormal_columns_is_not_answered(spoil):
    generator = np.random.default_rng(1)
    model = adapter(generator, 2, [(6, 7)])
    rule = ours("flexlora")()
    rule.clients = 2
    half = owner(rule, model, 0, {})
    [pair] = pairs_of({name: array.shape for name, array in model.items()})
    q, _ = np.linalg.qr(generator.normal(size=(6, pair.width(2))))
    update = {name: np.zeros_like(array) for name, array in model.items()}
    half.second(update, {pair.b: q.astype("f4")})
    with pytest.raises(ValueError, match="orthonormal"):
        half.second(update, {pair.b: spoil(q).astype("f4")})


def test_reaches_that_are_told_are_powers_of_two_and_none_is_below_the_declared_one():
    rule = ours("flexlora")()
    shapes = {A.format(0): (2, 5), B.format(0): (4, 2)}
    channels = checked_channels(rule, shapes)
    sketches = channels.further[0]
    assert channels.scaled({"reach-sketches": 8.0}).further[0].reach == 8.0
    assert channels.scaled({}) == channels
    for reach in (sketches.reach / 2, 3.0, -8.0, float("nan"), "8", True):
        with pytest.raises(ValueError, match="reach"):
            channels.scaled({"reach-sketches": reach})


def one_sum(rule, model, changes, weights, ranks, mean):
    """The next model of a rule of one sum, and the owners' own models, with zeros beyond their ranks."""
    shapes = {name: array.shape for name, array in model.items()}
    reaches = reaches_told(rule.scales(model))
    channels, sent, trained = checked_channels(rule, shapes).scaled(reaches), [], []
    for rank, change in zip(ranks, changes, strict=True):
        half = owner(rule, model, rank, reaches)
        begun = half.begins(model)
        ends = half.begins({name: model[name] + change[name] for name in model})
        update = {name: ends[name] - begun[name] for name in model}
        trained.append({name: begun[name] + update[name] for name in model})
        sent.append(channels.vector(half.sends(update), half.further(update)))
    mean_update = {}
    for channel, name, array in channels.means(iter(mean(sent, weights).items())):
        if channel == UPDATE:
            mean_update[name] = array
        else:
            rule.hear(channel, name, array)
    return rule.next_model(model, mean_update), trained


@pytest.mark.parametrize("sums", ["clear", "masked"])
@given(
    st.lists(st.tuples(st.integers(2, 9), st.integers(2, 9)), min_size=1, max_size=3),
    st.lists(st.integers(1, 4), min_size=2, max_size=5),
    st.integers(0, 2**32 - 1),
)
def test_hetlora_weighs_padded_factors_by_the_norms_of_their_products(sums, shapes, ranks, seed):
    """Cho et al. 2024: theta = sum of s_k theta_k / sum of s_k, with s_k = ||B_k A_k||."""
    generator = np.random.default_rng(seed)
    model = adapter(generator, 4, shapes)
    rule = ours("hetlora")()
    rule.clip = 0.0625
    changes = changes_of(generator, model, len(ranks))
    mean = in_the_clear if sums == "clear" else masked(rule.clip)
    found, trained = one_sum(rule, model, changes, [1] * len(ranks), ranks, mean)
    norms = []
    for one in trained:
        pairs = pairs_of({name: array.shape for name, array in one.items()})
        products = [b @ a for b, a in (pair.factors(one) for pair in pairs)]
        norms.append(np.sqrt(sum((product**2).sum() for product in products)))
    for name in model:
        each = [one[name].astype(np.float64) for one in trained]
        wanted = np.average(each, 0, norms if "lora" in name else None)
        assert found[name] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("name", ["flexlora", "hetlora"])
@pytest.mark.parametrize("size", [0.0, 1e4, 1e15])
def test_every_model_has_reaches_that_channels_take(name, size):
    generator, rule = np.random.default_rng(2), ours(name)()
    rule.clip = 2.0**-10
    model = adapter(generator, 3, [(4, 5)], size)
    channels = checked_channels(rule, {n: array.shape for n, array in model.items()})
    found = channels.scaled(reaches_told(rule.scales(model)))
    assert all(channel.reach <= 2.0**20 for channel in found.all)
