"""Two sums of the same owners by different factors would show each owner's own product: they have the same.

Let E = sum of e_k P_k and D = sum of d_k P_k, of owners' changes P_k of a product. Sketched and projected
both are small matrices, and the eigenvalues of the pencil (D, E) are the d_k / e_k, each as often as P_k has
ranks; their eigenvectors take the sums apart. Where all d_k = e_k there is one, and nothing to take apart.
"""

import numpy as np
import pytest

from umbel.client.second import farthest_of
from umbel.errors import ProtocolError
from umbel.learning.trainer import Outcome
from umbel.privacy.noise.scale import Scale
from umbel.privacy.randomness import reproducible_stream
from umbel.privacy.secagg.fixed_point import Contribution, Layout, decode, encode
from umbel.strategies import ours
from umbel.strategies.contract import checked_channels
from umbel.strategies.products import PROJECTION, SKETCH, pairs_of, signs
from umbel.strategies.second import REACH, reaches_told, second_channels

A, B = "layer.lora_A.default.weight", "layer.lora_B.default.weight"
M, N, RANK, OWNERS = 64, 48, 4, 3
SHAPES = {A: (RANK, N), B: (M, RANK)}
[PAIR] = pairs_of(SHAPES)
LEAST = {f"{REACH}{PROJECTION}": 2.0**-4}


@pytest.fixture(scope="module")
def model():
    a = np.random.default_rng(1).normal(size=SHAPES[A]) / 7
    return {A: a.astype("f4"), B: np.zeros(SHAPES[B], "f4")}


@pytest.fixture(scope="module")
def updates():
    """Of each owner, and one that is larger than the next."""
    generator = np.random.default_rng(2)
    sizes = (0.01 * (1 + owner) for owner in range(OWNERS))
    return [
        {name: generator.normal(0, size, shape).astype("f4") for name, shape in SHAPES.items()}
        for size in sizes
    ]


class Sums:
    """Both sums of a round, in the words of secure aggregation. together: the second has the first one's
    factors, as Umbel's owners see to."""

    def __init__(self, name, model, updates, clip, *, together, told=None):
        rule = ours(name)()
        rule.clients, rule.clip = OWNERS, clip
        told1 = {**rule.told(1), **reaches_told(rule.scales(model))}
        halves = [rule.local(told1) for _ in updates]
        for half in halves:
            half.model = model
        first = checked_channels(rule, SHAPES).scaled(told1)
        pairs = list(zip(halves, updates, strict=True))
        vectors = [first.vector(half.sends(update), half.further(update)) for half, update in pairs]
        outcomes = [Outcome(v, 0.0, finished=u) for v, u in zip(vectors, updates, strict=True)]
        self.peaks = [farthest_of(outcome) for outcome in outcomes]
        self.sketch = summed(first, vectors, clip, self.peaks)[SKETCH, B]
        self.q = np.linalg.qr(self.sketch)[0].astype("f4")
        if told is None:
            told = reaches_told(rule.scales(model, {B: self.q}))
        second = second_channels(rule, SHAPES).scaled(told)
        answers = [second.vector({}, half.second(update, {B: self.q})) for half, update in pairs]
        firsts = self.peaks if together else [None] * OWNERS
        self.projection = summed(second, answers, clip, firsts)[PROJECTION, A]

    def taken_apart(self):
        """Each owner's part, as far as the pencil shows it."""
        q = self.q.astype(float)
        e, d = q.T @ self.sketch, self.projection @ signs(1, PAIR, PAIR.width(OWNERS))
        u, s, v = np.linalg.svd(e)
        many = OWNERS * RANK
        u, inverse = u[:, :many], v[:many].T @ np.diag(1 / s[:many]) @ u[:, :many].T
        found, vectors = np.linalg.eig(u.T @ d @ inverse @ u)
        order = np.argsort(found.real)
        vectors = vectors[:, order]
        back = np.linalg.inv(vectors)
        for owner in range(OWNERS):
            own = slice(owner * RANK, (owner + 1) * RANK)
            factor = found[order][own].mean().real
            part = (u @ vectors[:, own] @ back[own] @ u.T @ self.projection).real
            yield q @ part / factor


def summed(channels, vectors, clip, firsts):
    """The means times the owners, by channel and tensor, of words that were added up."""
    layout, scale, total = Layout(channels.numbers, 0, 0), Scale(OWNERS, clip), 0
    for owner, (vector, first) in enumerate(zip(vectors, firsts, strict=True)):
        part = Contribution(list(vector.values()), [], [], 1, first=first)
        total = total + encode(part, layout, scale, 1, reproducible_stream(owner, "dither").words)
    flat, at, found = decode(total, layout, scale, 1, OWNERS).mean * OWNERS, 0, {}
    for name, shape in channels.shapes.items():
        size = int(np.prod(shape))
        found[name] = flat[at : at + size].reshape(shape)
        at += size
    return {(c, name): mean for c, name, mean in channels.means(iter(found.items()))}


def nearest(sums, model, updates, clip):
    """Of each owner, how near some part that was taken apart comes to its own change of the product, in the
    direction: 0 for the very same."""
    found = list(sums.taken_apart())
    for update in updates:
        b, a = PAIR.factors({name: model[name] + update[name] for name in model})
        own = (b @ a) / np.linalg.norm(b @ a)
        yield min(1 - abs(np.sum(part / np.linalg.norm(part) * own)) for part in found)


@pytest.mark.parametrize("name", ["flexlora", "lora-fair"])
def test_factors_of_their_own_in_the_second_sum_would_give_owners_away(name, model, updates):
    """So the two tests below can tell: with the least reach that a channel declares."""
    sums = Sums(name, model, updates, 0.25, together=False, told=LEAST)
    assert max(nearest(sums, model, updates, 0.25)) < 1e-3


@pytest.mark.parametrize("name", ["flexlora", "lora-fair"])
def test_an_answer_beyond_the_clip_is_refused_and_not_scaled(name, model, updates):
    with pytest.raises(ProtocolError, match="beyond the clip"):
        Sums(name, model, updates, 0.25, together=True, told=LEAST)


@pytest.mark.parametrize(("together", "found"), [(False, True), (True, False)])
def test_owners_that_are_scaled_down_are_scaled_in_both_sums_or_give_themselves_away(
    model, updates, together, found
):
    """Updates beyond the clip in the first sum, with the reaches of an honest server."""
    clip = 2.0**-7
    sums = Sums("flexlora", model, updates, clip, together=together)
    assert min(sums.peaks) > clip
    shown = list(nearest(sums, model, updates, clip))
    if found:
        assert max(shown) < 1e-3
    else:
        assert min(shown) > 0.1
