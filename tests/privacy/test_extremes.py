"""Clipping holds where float32 loses squares: gradients from 1e-30 to 1e30, factored or not."""

import numpy as np
import pytest
import torch
from torch import nn

from umbel.privacy.dpsgd.bookkeeping import BookKeeping
from umbel.privacy.dpsgd.factored import Factored, Lookup, Product
from umbel.privacy.dpsgd.hooked import HookedGradients
from umbel.privacy.dpsgd.optimizer import PrivateOptimizer
from umbel.privacy.randomness import SecretStream

LARGEST = 2.0**64
"""Where float32 squares become infinite."""


def exact_norms(factors, shape):
    """(B,) in float64, from the gradients themselves."""
    total = 0
    for factor in factors:
        right = factor.right.double()
        if isinstance(factor, Product):
            total = total + factor.left.double().mT @ right
        else:
            tables = torch.zeros(len(right), *shape, dtype=torch.float64)
            total = total + tables.scatter_add_(1, factor.ids.unsqueeze(2).expand_as(right), right)
    return total.flatten(1).norm(dim=1)


def drawn(generator, exponents, width):
    """Numbers of places (B, T) of the sizes 10^exponents."""
    values = generator.normal(size=(*exponents.shape, width)) * 10.0 ** exponents[..., None]
    return torch.from_numpy(values).float()


@pytest.mark.parametrize("seed", range(60))
def test_a_norm_is_never_too_small_and_the_clipped_gradient_is_within_the_bound(seed):
    generator = np.random.default_rng(seed)
    batch, places, rows, columns = 5, int(generator.integers(1, 4)), 40, 30
    shape, factors = torch.Size([rows, columns]), []
    for _ in range(int(generator.integers(1, 3))):
        sizes = generator.uniform(-30, 30, (batch, places))
        # In half of the cases one makes up for the other: the product is of an ordinary size.
        others = generator.uniform(-6, 6, sizes.shape) - sizes if seed % 2 else -sizes[::-1]
        left = drawn(generator, sizes, rows)
        factors.append(Product(left, drawn(generator, others, columns)))
    if seed % 3 == 0:
        ids = torch.from_numpy(generator.integers(0, rows, (batch, places)))
        factors.append(Lookup(ids, drawn(generator, generator.uniform(-30, 9, ids.shape), columns)))
    expected = exact_norms(factors, shape)
    factored = Factored(shape)
    for factor in factors:
        factored.add(factor)
    assert factored._samples is None
    norms = factored.squared_norms().sqrt()
    finite = norms.isfinite()
    assert bool((norms.double()[finite] >= expected[finite] * (1 - 1e-5) - 1e-17).all())
    assert bool((finite | (expected > LARGEST * 1e-3)).all())
    for bound in (1e-3, 1.0, 1e3):
        for one in range(batch):
            if not finite[one]:
                continue
            chosen = torch.arange(batch) == one
            weights = (bound / norms.clamp_min(1e-30)).clamp(max=1).where(chosen, 0)
            total = torch.zeros(shape.numel())
            factored.add_to(total, weights, chosen)
            assert total.double().norm() <= bound * (1 + 1e-5)


class Scaled(nn.Module):
    """A linear layer between two sizes: what goes in and what comes back can be set apart."""

    def __init__(self, rows, columns):
        super().__init__()
        self.linear = nn.Linear(columns, rows)

    def forward(self, inputs, back):
        return (self.linear(inputs) * back).flatten(1).sum(dim=1)


@pytest.mark.parametrize("how", [BookKeeping, HookedGradients])
@pytest.mark.parametrize("places", [1, 8])
@pytest.mark.parametrize("clip", [1e-6, 1e-3, 1.0, 1e3])
@pytest.mark.parametrize("size", [1e-30, 1e-23, 1e-19, 1e-10, 1.0, 1e10, 1e18, 1e30])
def test_no_size_of_gradient_moves_the_sum_by_more_than_the_clipping_norm(
    released, how, places, clip, size
):
    generator = torch.Generator().manual_seed(3)
    module = Scaled(24, 20)
    inputs = torch.randn(6, places, 20, generator=generator)
    back = torch.randn(6, places, 24, generator=generator) * size
    whole, less = (
        released(module, lambda m, n=n: m(inputs[:n], back[:n]), clip, how).double() for n in (6, 5)
    )
    assert whole.isfinite().all()
    assert (whole - less).norm() <= clip * (1 + 1e-5)


@pytest.mark.parametrize(
    ("clip", "noise"), [(1e-27, 1.0), (1e-7, 0.0), (1e13, 0.0), (float("nan"), 1.0), (1.0, 1e-30)]
)
def test_norms_and_noise_near_the_ends_of_float32_are_refused(clip, noise):
    module = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="must lie between"):
        PrivateOptimizer(
            module,
            torch.optim.SGD(module.parameters(), lr=0.1),
            noise_multiplier=noise,
            clipping_norm=clip,
            expected_batch_size=1.0,
            stream=SecretStream.from_key(bytes(32)),
        )


@pytest.mark.parametrize("how", [BookKeeping, HookedGradients])
def test_a_long_sum_loses_no_record_to_rounding(how):
    """A record beside 2^24 others of its size: float32 would round it away."""
    module = nn.Linear(1, 1, bias=False)
    recorder = Recorder(module.parameters(), lr=0.0)
    with PrivateOptimizer(
        module,
        recorder,
        noise_multiplier=0.0,
        clipping_norm=1e9,
        expected_batch_size=1.0,
        stream=SecretStream.from_key(bytes(32)),
        gradients=how,
    ) as private:
        for size in (1e8, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, -1e8):
            private.accumulate(private.module(torch.tensor([[size]])).flatten())
        private.step()
    assert recorder.released.item() == 3.0


class Recorder(torch.optim.SGD):
    def step(self, closure=None):
        self.released = self.param_groups[0]["params"][0].grad.clone()
