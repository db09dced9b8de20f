"""How parts are added up: float32 within a few, float64 over all, and what rounding makes of it."""

import pytest
import torch
from torch import nn

from umbel.privacy.dpsgd import optimizer as optimizer_module
from umbel.privacy.dpsgd.bookkeeping import BookKeeping
from umbel.privacy.dpsgd.hooked import HookedGradients
from umbel.privacy.dpsgd.optimizer import PrivateOptimizer
from umbel.privacy.randomness import SecretStream

ROUNDOFF = 2.0**-24
NUMBERS = 64


def clipped_sum(rows, size, how=None):
    """The noiseless sum of a step over these gradients, `size` of them in each microbatch."""
    model = nn.Linear(NUMBERS, 1, bias=False)
    model.weight.data.zero_()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    stream = SecretStream.from_key(bytes(32))
    step = {"noise_multiplier": 0.0, "clipping_norm": 1.0, "expected_batch_size": 1.0}
    with PrivateOptimizer(model, optimizer, stream=stream, gradients=how, **step) as private:
        for part in rows.split(size):
            private.accumulate(private.module(part).squeeze(1))
        private._fold()
        return private._sum.clone()


def moved_by(rows, whole, place, size, how=None):
    """How far the sum moves without one record: all behind it stand in other microbatches then."""
    fewer = torch.cat([rows[:place], rows[place + 1 :]])
    return float((whole - clipped_sum(fewer, size, how)).norm())


def gradients(alike, count):
    """Gradients that are all clipped: nearly the same, which is the worst for rounding, or not at all."""
    generator = torch.Generator().manual_seed(7)
    own = torch.randn(count, NUMBERS, generator=generator)
    return torch.randn(NUMBERS, generator=generator) + 0.01 * own if alike else own


@pytest.mark.parametrize("how", [BookKeeping, HookedGradients])
@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize(("count", "size"), [(64, 8), (3000, 100), (3000, 3000)])
def test_one_record_moves_the_sum_of_any_number_by_the_clipping_norm(count, size, alike, how):
    """Also of a model of few numbers whose whole batch is one microbatch, as a head's is."""
    rows = gradients(alike, count)
    whole = clipped_sum(rows, size, how)
    for moved in (moved_by(rows, whole, place, size, how) for place in (0, count // 2, count - 1)):
        assert moved <= 1 + 1e-6


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize(("count", "size"), [(64, 8), (3000, 8), (3000, 100)])
def test_of_a_whole_model_it_moves_it_by_what_rounding_can_come_to_at_most(
    count, size, alike, monkeypatch
):
    monkeypatch.setattr(optimizer_module, "_FEW", 0)
    rows = gradients(alike, count)
    whole = clipped_sum(rows, size)
    together = min(4 * size, count)
    for moved in (moved_by(rows, whole, place, size) for place in (0, count // 2, count - 1)):
        assert moved <= 1 + 1e-6 + 2 * count * (together + 3) * ROUNDOFF
        # What it does come to: errors of rounding do not all go one way.
        assert moved <= 1 + 1e-4


def test_the_sum_of_a_whole_model_is_off_by_no_more_than_its_bound_however_alike_its_parts(
    monkeypatch,
):
    monkeypatch.setattr(optimizer_module, "_FEW", 0)
    rows = gradients(True, 1).expand(2048, NUMBERS).contiguous()
    one = clipped_sum(rows[:1], 1)
    error = float((clipped_sum(rows, 32) - 2048 * one).norm())
    assert error <= 2048 * (4 * 32 + 3) * ROUNDOFF
