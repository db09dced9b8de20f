"""The exact mean of products B_k A_k, from two sums (a randomized range finder, Halko et al. 2011, Alg. 4.1).

The mean of the A_k times the mean of the B_k is not the mean of the products, and no sum of factors is.
So the first sum is of sketches: each owner sends B_k (A_k Omega), with signs Omega (n x s) that everybody
knows. The mean Y (m x s) spans the columns of the mean product D, and Q = qr(Y). The second sum is of
Q^T B_k A_k (s x n), and D = Q Q^T D. That is exact if s is at least the sum of the ranks, or min(m, n);
the 12 that are added keep rounding from being magnified (ibid., sec. 4.2). What travels is the difference
to what the model that was sent comes to, which all know: it is of an update's magnitude.

Guarantee: encrypted, both sums are linear functions of one sum, of f_k w_k times the change of owner k's
product, over one set of owners, up to rounding to the grid. f_k is the factor that scales an owner's first
vector to the clip (mostly 1) and w_k its weight; the second sum has the same (``client.second``). Were they
others, the two sums would be a pencil, whose eigenvalues, the quotients of the factors, take all products
apart (tests/strategies/test_pencil.py). So whatever Q the server sends, the second sum tells it nothing that
the sum of products does not. An owner answers only if Q has orthonormal columns; by the reaches that it
computes itself; to one Q for an update; and only in a sum over exactly the owners of the first
(``privacy.secagg.second``): the difference of two sets would show one owner's sketch. If its answer is then
beyond the clip, it refuses: that says one thing of its update, once, and opens nothing.
Under example- and group-level privacy B_k and A_k come of noised steps, and all of this is post-processing.
Assumptions: without encryption the server sees each owner's own factors, as with every strategy. Without
privacy an exact sum of products hides little: that of K products of rank r leaves about K (K - 1) r^2 numbers
unknown.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..wire.arrays import Arrays
from .averaging import FedAvg
from .channels import reach_for
from .contract import UPDATE, Channel, LocalRule, Shapes, Told, told_number
from .factors import factor_of, without_factors

if TYPE_CHECKING:
    from torch import Tensor

    from ..job import Job

OVERSAMPLING = 12
SKETCH, PROJECTION, HELD = "sketches", "projections", "ranks"
_SEED, _CLIENTS = "sketch-seed", "sketch-clients"
_LEAST = 2.0**-4
"""Of what a channel reaches: where products are far below an update, it is rounded more finely."""
_ROOM = 8.0
"""Deviations: an entry of that kind is beyond them once in 10^15 times."""
_ORTHONORMAL = 1e-4


@dataclass(frozen=True)
class Pair:
    """The two factors of one adapted layer, by name; the product is (m, n)."""

    a: str
    b: str
    m: int
    n: int
    rank: int

    def width(self, clients: int) -> int:
        """Columns of a sketch: as many as the ranks of so many clients together, and some more."""
        most = min(self.m, self.n)
        return min(clients * self.rank + OVERSAMPLING, most) if clients else most

    def factors(self, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
        """B (m, r) and A (r, n), float64."""
        a, b = arrays[self.a], arrays[self.b]
        return (
            b.astype(np.float64).reshape(self.m, self.rank),
            a.astype(np.float64).reshape(self.rank, self.n),
        )


def pairs_of(shapes: Shapes) -> list[Pair]:
    """Each adapted layer's factors, in the model's order."""
    found = []
    for b, shape in shapes.items():
        if factor_of(b) != "B":
            continue
        a = b.replace("lora_embedding_B", "lora_embedding_A").replace("lora_B", "lora_A")
        if a not in shapes:
            raise ValueError(f"{b!r} has no factor {a!r}")
        n = math.prod(shapes[a][1:])
        found.append(Pair(a, b, shape[0], n, shapes[a][0]))
    return found


def pairs_in(model: Arrays) -> list[Pair]:
    """Those of a model's tensors, or of an update's."""
    return pairs_of({name: array.shape for name, array in model.items()})


def signs(seed: int, pair: Pair, width: int) -> np.ndarray:
    """Omega (n, width): signs, float64, the same bits on every machine; the identity if they are as many.

    A square matrix of signs can be singular, and no columns are left then to make up for it.
    """
    if width == pair.n:
        return np.eye(width)
    label = f"umbel sketch {seed} {pair.b} {pair.n} {width}".encode()
    count = pair.n * width
    data = np.frombuffer(hashlib.shake_256(label).digest(-(-count // 8)), np.uint8)
    bits = np.unpackbits(data, count=count).reshape(pair.n, width)
    return 2.0 * bits - 1.0


class OwnRank(LocalRule):
    """Trains a LoRA adapter of the owner's own rank, in tensors of the job's."""

    def begins(self, model: Arrays) -> Arrays:
        """Its own rank's part of each factor: the first rows of A and columns of B; zeros for the rest.

        There both gradients are zero, so what is trained is exactly an adapter of that rank.
        """
        if not self.rank:
            return model
        found = dict(model)
        for pair in pairs_in(model):
            for name in (pair.a, pair.b):
                found[name] = model[name].copy()
                _beyond(name, found[name], self.rank)[...] = 0.0
        return found

    def correct(self, name: str, gradient: Tensor, weight: Tensor, start: Tensor) -> None:
        """Takes the noise from what is beyond its own rank."""
        if self.rank and factor_of(name):
            _beyond(name, gradient, self.rank)[...] = 0.0


class Sketches(OwnRank):
    """Sends B (A Omega), then Q^T B A, less what the model that was sent comes to; trains at its own rank."""

    def __init__(self, told: Told) -> None:
        super().__init__(told)
        self._begun: Arrays = {}
        self._seed, self._clients = (
            told_number(told, name, whole=True) for name in (_SEED, _CLIENTS)
        )

    def further(self, update: Arrays) -> Mapping[str, Arrays]:
        found = {}
        for pair, width in self._pairs(update):
            omega = signs(self._seed, pair, width)
            found[pair.b] = self._changed(pair, update, partial(_sketch, omega))
        return {SKETCH: found}

    def second(self, update: Arrays, asked: Arrays) -> Mapping[str, Arrays]:
        found = {}
        for pair, _ in self._pairs(update):
            q = asked[pair.b].astype(np.float64)
            far = np.abs(q.T @ q - np.eye(q.shape[1])).max()
            if not far <= _ORTHONORMAL:
                raise ValueError(f"the columns for {pair.b!r} are not orthonormal ({far:g})")
            found[pair.a] = self._changed(pair, update, partial(_projection, q))
        return {PROJECTION: found}

    def _pairs(self, update: Arrays) -> Iterator[tuple[Pair, int]]:
        self._begun = self.begins(self.model)
        return ((pair, pair.width(self._clients)) for pair in pairs_in(update))

    def _changed(self, pair: Pair, update: Arrays, of: _OfFactors) -> np.ndarray:
        """By how much an expression of B and A changes with the update: float32."""
        begun_b, begun_a = pair.factors(self._begun)
        moved_b, moved_a = pair.factors(update)
        changed = of(begun_b + moved_b, begun_a + moved_a) - of(*pair.factors(self.model))
        return changed.astype(np.float32)


class PaddedSketches(Sketches):
    """Sends B (A Omega), then Q^T B A, and which columns of B its rank holds, so that padded means follow."""

    def further(self, update: Arrays) -> Mapping[str, Arrays]:
        held = {}
        for pair, _ in self._pairs(update):
            held[pair.b] = (np.arange(pair.rank) < (self.rank or pair.rank)).astype(np.float32)
        return {**super().further(update), HELD: held}


@dataclass(frozen=True)
class MeanProduct:
    """The mean of w B_k A_k of one layer, as left @ right, with orthonormal columns on the left."""

    pair: Pair
    left: np.ndarray
    """(m, s) float64."""
    right: np.ndarray
    """(s, n) float64."""

    def leading(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """B = U S (m, rank) and A = V^T (rank, n) of its largest singular values: the best of that rank."""
        u, s, v = np.linalg.svd(self.right, full_matrices=False)
        u, s, v = u[:, :rank], s[:rank], v[:rank]
        # A pair of singular vectors is unique but for its sign.
        signs = np.sign(v[np.arange(len(v)), np.abs(v).argmax(axis=1)])
        b, a = self.left @ (u * (s * signs)), v * signs[:, None]
        missing = rank - len(s)
        return np.pad(b, ((0, 0), (0, missing))), np.pad(a, ((0, missing), (0, 0)))


class Products(FedAvg):
    """What the rules of exact products share: two sums, and the mean product of each layer from them."""

    fits = ("lora",)
    local = Sketches
    ranked = True
    padded: ClassVar[bool] = False
    """Whether the rule takes the means of the factors as well; then the local half is `PaddedSketches`."""

    def __init__(self) -> None:
        super().__init__()
        self._round = 0
        self._sketched: Arrays = {}
        self._projected: Arrays = {}
        self._q: Arrays = {}
        self._held: Arrays = {}

    @classmethod
    def refusals(cls, job: Job) -> Iterator[str]:
        if job.per_client:
            yield (
                "this strategy adds up two sums of each update, and client-level privacy would have to clip "
                'and charge both: set strategy.name = "ffa-lora", whose single sum has exact products '
                'as well, or privacy.unit = "example"'
            )
        if job.encrypted and not job.encryption.confirm:
            yield (
                "the second sum of this strategy is opened over exactly the survivors of the first, which "
                "only the confirmation trip fixes: set encryption.confirm = true"
            )

    def channels(self, shapes: Shapes) -> tuple[Channel, ...]:
        """Without the factors' own changes, unless the rule is `padded`: nobody needs their means, and rows
        that one owner's rank alone has would be that owner's own in them."""
        sketches = self.asks(shapes)
        further = [Channel(SKETCH, sketches, _LEAST)] if sketches else []
        if self.padded and sketches:
            further.append(Channel(HELD, {pair.b: (pair.rank,) for pair in pairs_of(shapes)}))
        update = shapes if self.padded or not sketches else without_factors(shapes)
        return (Channel(UPDATE, update), *further)

    def second(self, shapes: Shapes) -> tuple[Channel, ...]:
        each = {pair.a: (pair.width(self.clients), pair.n) for pair in pairs_of(shapes)}
        return (Channel(PROJECTION, each, _LEAST),) if each else ()

    def asks(self, shapes: Shapes) -> Shapes:
        return {pair.b: (pair.m, pair.width(self.clients)) for pair in pairs_of(shapes)}

    def told(self, round_: int) -> Mapping[str, float]:
        self._round = round_
        return {_SEED: round_, _CLIENTS: self.clients}

    def scales(self, model: Arrays, asked: Arrays | None = None) -> Mapping[str, float]:
        """How far one owner's entries may lie beyond an update's, by public numbers alone.

        B A - B_0 A_0 = dB A_0 + B_0 dA + dB dA, with entries of dA and dB up to the clip c, and of half of it
        by root mean square. Entries of the first sum are such entries times signs; those of the second are
        spread evenly (``asked``). Both count as ``_ROOM`` deviations. An owner of a smaller rank also leaves
        out a part of B_0 A_0 itself. If an entry of the first sum is beyond it all the same, that owner's
        vector is scaled down, and counted as clipped, and what it adds to the second sum by the same factor;
        one of the second has its owner refuse.
        """
        c, most, each = self.clip, 0.0, _ROOM / 2
        for pair in pairs_in(model):
            b, a = pair.factors(model)
            width = pair.width(self.clients)
            if asked is None:
                a = a @ signs(self._round, pair, width)
                spread, along = 1.0, each * math.sqrt(pair.n)
            else:
                b = asked[pair.b].T @ b
                spread, along = math.sqrt(pair.m / width), 1.0
            of_b = each * spread * np.sqrt((a**2).sum(axis=0)).max()
            of_a = along * np.abs(b).sum(axis=1).max()
            # dB dA is a sum of r (second sum) or r n (first) products of two such entries.
            terms = pair.rank * (pair.n if asked is None else 1)
            of_both = _ROOM * spread * math.sqrt(terms) * c / 4
            most = max(most, of_b + of_a + of_both + np.abs(b @ a).max() / c)
        found = {SKETCH if asked is None else PROJECTION: most}
        if self.padded and asked is None:
            found[HELD] = max(1.0, 1 / c)
        return {name: reach_for(far, _LEAST) for name, far in found.items()}

    def hear(self, channel: str, name: str, mean: np.ndarray) -> None:
        {SKETCH: self._sketched, PROJECTION: self._projected, HELD: self._held}[channel][name] = (
            mean
        )

    def asked(self, model: Arrays) -> Arrays:
        """Q of each layer, orthonormal: (m, s).

        Its columns are turned at random: as they come, the first ones would have most of each product, and a
        reach for their entries would round the others too coarsely.
        """
        turns, self._q = np.random.default_rng(self._round), {}
        for pair in pairs_in(model):
            b, a = pair.factors(model)
            width = pair.width(self.clients)
            y = b @ (a @ signs(self._round, pair, width)) + self._sketched.pop(pair.b)
            turned, _ = np.linalg.qr(turns.normal(size=(width, width)))
            self._q[pair.b] = (np.linalg.qr(y)[0] @ turned).astype(np.float32)
        return dict(self._q)

    def next_model(
        self, model: Arrays, mean_update: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Of all tensors at once, as both sums are there."""
        following = {**model, **super().next_model(model, mean_update)}
        for pair in pairs_in(model):
            b, a = pair.factors(following)
            if pair.b in self._held:  # what smaller ranks leave out of the model that was sent
                held, (sent_b, sent_a) = self._held.pop(pair.b), pair.factors(model)
                b, a = b + sent_b * (held - 1), a + sent_a * (held - 1)[:, None]
            b, a = self.combined(self._mean_product(pair, model), b, a)
            following[pair.b] = b.reshape(model[pair.b].shape)
            following[pair.a] = a.reshape(model[pair.a].shape)
        return following

    def combined(
        self, mean: MeanProduct, b: np.ndarray, a: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The next B (m, r) and A (r, n) of a layer. b, a: the means of the owners' factors."""
        raise NotImplementedError

    def _mean_product(self, pair: Pair, model: Arrays) -> MeanProduct:
        b, a = pair.factors(model)
        # As it was sent, Q is orthonormal to 1e-7 alone: Q (Q^T Q)^-1 Q^T projects onto the same columns.
        sent = self._q.pop(pair.b).astype(np.float64)
        c = (sent.T @ b) @ a + self._projected.pop(pair.a)
        q, r = np.linalg.qr(sent)
        return MeanProduct(pair, q, np.linalg.solve(r.T, c))


_OfFactors = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _sketch(omega: np.ndarray, b: np.ndarray, a: np.ndarray) -> np.ndarray:
    return b @ (a @ omega)


def _projection(q: np.ndarray, b: np.ndarray, a: np.ndarray) -> np.ndarray:
    return (q.T @ b) @ a


def _beyond(name: str, array: Tensor | np.ndarray, rank: int) -> Tensor | np.ndarray:
    """The part of a factor that an adapter of this rank does not have."""
    return array[rank:] if factor_of(name) == "A" else array[:, rank:]
