"""Each example's gradient of one tensor, kept as factors while these are smaller than itself.

A linear layer's gradient for one example is a product of two matrices: what came back to its output
and what went into it, over T places. Norms and weighted sums follow from the factors, so the product
of every single example need not exist (Goodfellow 2015; Bu, Mao and Xu 2022, "Scalable and Efficient
Training of Large Convolutional Neural Networks with Differential Privacy", Section 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

# Half a unit in the last place of float32.
_ROUNDING = 2.0**-24
# Inner products (64 MB) held at a time.
_MOST_PRODUCTS = 1 << 24
# Numbers of float64 (32 MB) made at a time for a sum in float64.
_WIDENED = 1 << 22


def add_samples(total: Tensor, weights: Tensor, samples: Tensor) -> None:
    """Add the sum of the rows of `samples` (B, N) weighted by `weights` (B,), in `total`'s precision."""
    if total.dtype == samples.dtype:
        total += weights @ samples
        return
    size = max(1, _WIDENED // max(1, samples.shape[1]))
    if len(samples) <= size:
        total += weights.to(total.dtype) @ samples.to(total.dtype)
        return
    for some, rows in zip(torch.split(weights, size), torch.split(samples, size), strict=True):
        total += some.to(total.dtype) @ rows.to(total.dtype)


@dataclass(frozen=True)
class Product:
    """Gradients left_i^T right_i (R, C), for left (B, T, R) and right (B, T, C)."""

    left: Tensor
    right: Tensor

    @property
    def batch(self) -> int:
        return len(self.left)

    def numbers(self) -> int:
        """Numbers kept for each example."""
        return self.left[0].numel() + self.right[0].numel()

    def samples(self, _: torch.Size) -> Tensor:
        # Eight rows and 1,536 columns take a fifth of the time of 1,536 rows and 8 columns.
        if self.left.shape[2] <= self.right.shape[2]:
            return torch.bmm(self.left.mT, self.right)
        return torch.bmm(self.right.mT, self.left).mT

    def add_to(self, total: Tensor, weights: Tensor) -> None:
        # Products of float32 numbers, however small or large, are within float64.
        wide = total.dtype == torch.float64
        left, right = self._wide if wide else (self.balanced().left, self.balanced().right)
        left = left * weights[:, None, None].to(total.dtype)
        total.addmm_(left.flatten(0, 1).T.contiguous(), right.flatten(0, 1))

    def squared_norms_of_one_place(self) -> Tensor:
        """(B,) float32, if T is 1: |left|^2 |right|^2, which float64 holds for all float32 numbers."""
        left, right = (torch.linalg.vector_norm(wide, dim=(1, 2)) for wide in self._wide)
        return (left * right).square().float()

    @cached_property
    def _wide(self) -> tuple[Tensor, Tensor]:
        """Both factors in float64."""
        return self.left.double(), self.right.double()

    def balanced(self) -> Product:
        """The same product in float32, with the size of each place in `right`.

        The largest number of a place of `left` is then about 1. Were `left` 1e-25 and `right` 1e20,
        the squares of one would be lost and those of the other infinite, while the gradient is
        neither. By powers of two, so nothing is rounded.
        """
        left, right = self.left.float(), self.right.float()
        size = _power_of_two(left.abs().amax(dim=2, keepdim=True))
        return Product(left / size, right * size)

    def part(self, examples: slice) -> Product:
        return Product(self.left[examples], self.right[examples])

    def only(self, chosen: Tensor) -> Product:
        return Product(_rows(self.left, chosen), _rows(self.right, chosen))


@dataclass(frozen=True)
class Lookup:
    """Gradients of a table (R, C): row ids[i, t] of example i gets right[i, t], for each t < T."""

    ids: Tensor
    right: Tensor

    @property
    def batch(self) -> int:
        return len(self.ids)

    def numbers(self) -> int:
        return self.right[0].numel()

    def samples(self, shape: torch.Size) -> Tensor:
        tables = torch.zeros(self.batch, *shape, device=self.right.device)
        places = self.ids.unsqueeze(2).expand_as(self.right)
        return tables.scatter_add_(1, places, self.right.float())

    def add_to(self, total: Tensor, weights: Tensor) -> None:
        right = self.right.float().to(total.dtype) * weights[:, None, None].to(total.dtype)
        total.index_add_(0, self.ids.flatten(), right.flatten(0, 1))

    def balanced(self) -> Lookup:
        """As for ``Product``; its left factor is zeros and ones."""
        return Lookup(self.ids, self.right.float())

    def part(self, examples: slice) -> Lookup:
        return Lookup(self.ids[examples], self.right[examples])

    def only(self, chosen: Tensor) -> Lookup:
        return Lookup(self.ids, _rows(self.right, chosen))


class Factored:
    """The gradients of one tensor in one backward pass: the sum over every use of the tensor."""

    def __init__(self, shape: torch.Size) -> None:
        self._shape = shape
        self._factors: list[Product | Lookup] = []
        self._samples: Tensor | None = None  # (B, *shape) float32
        self.batches: set[int] = set()
        """Numbers of examples in the uses: one, unless something is wrong."""

    def add(self, use: Product | Lookup | Tensor) -> None:
        """Add one use; a tensor (B, *shape) is the gradients themselves."""
        self.batches.add(len(use) if isinstance(use, Tensor) else use.batch)
        if isinstance(use, Tensor):
            self._instantiate(use.float())
            return
        self._factors.append(use)
        kept = sum(factor.numbers() for factor in self._factors)
        if self._samples is not None or kept > self._shape.numel():
            self._instantiate()

    def _instantiate(self, samples: Tensor | None = None) -> None:
        for more in (self._samples, *(f.samples(self._shape) for f in self._factors)):
            if more is not None:
                samples = more.float() if samples is None else samples + more
        self._samples, self._factors = samples, []

    def squared_norms(self) -> Tensor:
        """(B,) float32, of the whole sum: cross terms between uses are in it.

        Guarantee: a norm is too small by no more than rounding (1e-6 of it) plus sqrt(numel) * 2^-63,
        whatever the gradients; if it is longer than float32 can square, it is infinite or NaN.

        Why: a square below 2^-126 is lost, and there is one for each number. From factors of one place,
        squares are taken in float64, which loses none. From others they are taken of numbers that were
        brought near 1 by powers of two, and they are rounded up by what float32 can lose where places
        cancel, which is far more than what is lost below 2^-126.
        """
        if self._samples is not None:
            return self._samples.flatten(1).square().sum(dim=1)
        places = sum(factor.right.shape[1] for factor in self._factors)
        first = self._factors[0]
        # A head on features: no places that could cancel, and a fraction of the work.
        if places == 1 and isinstance(first, Product) and first.right.device.type != "mps":
            return first.squared_norms_of_one_place()
        size = max(1, _MOST_PRODUCTS // places**2)
        starts = range(0, self._factors[0].batch, size)
        slices = [slice(start, start + size) for start in starts]
        return torch.cat([_squared_norms([f.part(s) for f in self._factors]) for s in slices])

    def add_to(self, total: Tensor, weights: Tensor, chosen: Tensor | None) -> None:
        """Add the sum weighted by `weights` (B,) to `total` (numel,), in the precision of that.

        chosen: bool (B,), the examples that count; the others may hold anything. None: all do.
        """
        if self._samples is not None:
            samples = self._samples if chosen is None else _rows(self._samples, chosen)
            add_samples(total, weights, samples.flatten(1))
            return
        for factor in self._factors:
            part = factor if chosen is None else factor.only(chosen)
            part.add_to(total.view(self._shape), weights)


def _squared_norms(factors: list[Product | Lookup]) -> Tensor:
    """Sums of (left_s . left_t) (right_s . right_t) over places s and t, whatever the factor."""
    balanced = [factor.balanced() for factor in factors]
    products = [factor for factor in balanced if isinstance(factor, Product)]
    lookups = [factor for factor in balanced if isinstance(factor, Lookup)]
    ordered: list[Product | Lookup] = [*products, *lookups]
    rights = _joined([factor.right for factor in ordered])
    size = _power_of_two(rights.abs().amax(dim=(1, 2), keepdim=True))
    rights = rights / size
    terms = (_left_products(products, lookups) * (rights @ rights.mT)).flatten(1)
    diagonal = terms[:, :: rights.shape[1] + 1].clamp_min(0)
    squares = terms.sum(dim=1).clamp_min(0) + _ROUNDING * diagonal.sqrt().sum(dim=1).square()
    return squares * size.flatten() * size.flatten()


def _power_of_two(values: Tensor) -> Tensor:
    """A power of two near each of `values` >= 0, whose inverse float32 holds too; 1 for zero."""
    return torch.exp2(torch.frexp(values).exponent.clamp(-126, 126).float())


def _left_products(products: list[Product], lookups: list[Lookup]) -> Tensor:
    """(B, T, T) inner products; a lookup's left factor is the row of the identity at its id."""
    if products:
        left = _joined([product.left for product in products])
        of_products = left @ left.mT
        if not lookups:
            return of_products
    ids = _joined([lookup.ids for lookup in lookups])
    of_lookups = (ids[:, :, None] == ids[:, None, :]).float()
    if not products:
        return of_lookups
    across = left.gather(2, ids[:, None, :].expand(-1, left.shape[1], -1))
    top = torch.cat([of_products, across], dim=2)
    return torch.cat([top, torch.cat([across.mT, of_lookups], dim=2)], dim=1)


def _joined(parts: list[Tensor]) -> Tensor:
    """Along the places; a single part, the usual case, is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _rows(values: Tensor, chosen: Tensor) -> Tensor:
    """`values` with zeros for the examples that are not `chosen`: zero times infinity is NaN."""
    return values.where(chosen.view(-1, *[1] * (values.dim() - 1)), 0)
