import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AlbertModel

from umbel.errors import ModelError
from umbel.privacy.noise.grid import grid_step, snap
from umbel.privacy.randomness import SecretStream

from .small_models import (
    EXAMPLES,
    UNDROPPED,
    Classifier,
    Recorder,
    adapted,
    both,
    clipped_sum,
    everywhere,
    gradients_one_by_one,
    make,
    private,
)

torch.set_num_threads(1)


@both
@everywhere
def test_the_clipped_sum_is_that_of_one_example_at_a_time(name, how):
    case = make(name)
    gradients = gradients_one_by_one(case)
    norms = gradients.norm(dim=1)
    clip = norms.median().item()  # some examples are clipped, others are not
    expected = (gradients * (clip / norms).clamp(max=1)[:, None]).sum(dim=0)
    found = clipped_sum(case, clip, list(range(EXAMPLES)), how=how)
    assert found.norm() > 0.1 * clip
    assert (found - expected).norm() <= 2e-6 * EXAMPLES * clip


@both
@everywhere
def test_one_example_moves_the_sum_by_no_more_than_the_clipping_norm(name, how):
    case = make(name)
    clip = 0.5 * gradients_one_by_one(case).norm(dim=1).min().item()
    everybody = list(range(EXAMPLES))
    total = clipped_sum(case, clip, everybody, how=how)
    for left_out in everybody:
        rest = clipped_sum(case, clip, [n for n in everybody if n != left_out], how=how)
        moved = (total - rest).double().norm().item()
        # Every example is clipped here, so that each moves the sum by all that it may.
        assert moved == pytest.approx(clip, rel=1e-5)


@both
@everywhere
def test_microbatches_of_any_size_add_up_to_the_whole_batch(name, how):
    case = make(name)
    whole = clipped_sum(case, 0.1, list(range(EXAMPLES)), how=how)
    parts = clipped_sum(case, 0.1, [0], [1, 2, 3], [4, 5], how=how)
    assert (whole - parts).norm() <= 1e-6 * EXAMPLES * 0.1 + 1e-5 * whole.norm()


@both
@everywhere
def test_after_closing_nothing_is_left_on_the_module(name, how):
    case = make(name)

    def traces() -> list[Any]:
        return [
            (set(m.__dict__), len(m._forward_hooks), len(m._backward_hooks))
            for m in case.module.modules()
        ] + [set(p.__dict__) for p in case.module.parameters()]

    before = traces()
    first = clipped_sum(case, 0.1, [0, 1], how=how)
    assert traces() == before
    assert torch.equal(clipped_sum(case, 0.1, [0, 1], how=how), first)
    bare = case.losses(case.module, [0, 1]).sum()
    bare.backward()
    assert all(not hasattr(p, "grad_sample") for p in case.module.parameters())


def test_the_noise_has_the_standard_deviation_that_is_charged():
    module = nn.Linear(200, 200)
    recorder = Recorder(module)
    with private(module, recorder, noise=1.5, clip=0.4, batch=8.0) as dp:
        for _ in range(3):
            dp.step()
    noise = torch.stack(recorder.released).double()
    std = 1.5 * 0.4 / 8
    assert noise.std().item() == pytest.approx(std, rel=4 / math.sqrt(2 * noise.numel()))
    assert abs(noise.mean().item()) < 4 * std / math.sqrt(noise.numel())
    # Fresh for each step.
    assert torch.corrcoef(noise).fill_diagonal_(0).abs().max() < 0.02


def test_noise_is_added_to_the_clipped_sum():
    case = make("linear head")
    summed = clipped_sum(case, 0.1, [0, 1, 2])
    recorder = Recorder(case.module)
    with private(case.module, recorder, noise=2.0, clip=0.1, batch=4.0) as dp:
        dp.accumulate(case.losses(dp.module, [0, 1, 2]))
        dp.step()
    noise = torch.from_numpy(SecretStream.from_key(bytes(32)).normal(len(summed))).float()
    half = grid_step(0.2) / 2 / 4
    torch.testing.assert_close(
        recorder.released[0], (summed + 0.2 * noise) / 4, rtol=1e-6, atol=1.001 * half
    )


@pytest.mark.parametrize("examples", [[], [0], [0, 1, 2]])
def test_what_a_step_releases_lies_on_a_grid_that_the_noise_alone_decides(examples):
    """Mironov 2012: the last bits of a sum with floating-point noise tell what was summed."""
    case = make("linear head")
    recorder = Recorder(case.module)
    with private(case.module, recorder, noise=1.3, clip=0.7, batch=4.0) as dp:
        dp.accumulate(case.losses(dp.module, examples))
        dp.step()
    steps = recorder.released[0].double() * 4 / grid_step(1.3 * 0.7)
    assert torch.equal(steps, steps.round())
    assert steps.abs().max() > 100  # and not a coarse one


def test_weights_that_grow_beyond_measure_stop_the_training_whatever_the_examples():
    module = nn.Linear(4, 3)
    with (
        private(module, Recorder(module, lr=1e30), noise=1.0) as dp,
        pytest.raises(ModelError, match=r"training\.learning_rate"),
    ):
        dp.step()


def test_a_step_without_examples_is_noise_alone_and_moves_every_tensor():
    case = make("BERT LoRA")
    before = [p.detach().clone() for p in case.module.parameters() if p.requires_grad]
    with private(case.module, Recorder(case.module, lr=1.0), noise=1.0) as dp:
        dp.step()
    after = [p for p in case.module.parameters() if p.requires_grad]
    # A number may come to 0 on the grid, one in some thousand.
    assert all((a != b).double().mean() > 0.9 for a, b in zip(after, before, strict=True))


def test_a_microbatch_without_examples_adds_nothing():
    case = make("linear head")
    recorder = Recorder(case.module)
    with private(case.module, recorder) as dp:
        dp.accumulate(case.losses(dp.module, []))
        dp.step()
    assert not recorder.released[0].any()


def test_a_step_starts_from_nothing_after_the_one_before():
    case = make("BERT LoRA")
    recorder = Recorder(case.module)
    with private(case.module, recorder) as dp:
        for chosen in ([0, 1, 2], [3], [0, 1, 2]):
            dp.accumulate(case.losses(dp.module, chosen))
            dp.step()
        assert all(p.grad is None for p in case.module.parameters())
    assert torch.equal(recorder.released[0], recorder.released[2])
    assert not torch.equal(recorder.released[0], recorder.released[1])


def test_one_key_gives_identical_bytes_and_two_streams_differ():
    def trained(key: bytes) -> bytes:
        case = make("BERT LoRA")
        optimizer = torch.optim.AdamW([p for p in case.module.parameters() if p.requires_grad])
        with private(case.module, optimizer, noise=1.0, key=key) as dp:
            for chosen in ([0, 1], [2, 3, 4]):
                dp.accumulate(case.losses(dp.module, chosen))
                dp.step()
        tensors = [p for p in case.module.parameters() if p.requires_grad]
        return b"".join(p.detach().numpy().tobytes() for p in tensors)

    assert trained(bytes(32)) == trained(bytes(32))
    assert trained(bytes(32)) != trained(bytes([1] * 32))


@both
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e25])
def test_an_example_whose_gradient_is_not_finite_counts_as_zero_and_changes_no_other(
    bad, how, caplog
):
    case = make("linear head")
    expected = clipped_sum(case, 0.1, [0, 2], how=how)
    case.examples[1, 0] = bad
    found = clipped_sum(case, 0.1, [0, 1, 2], how=how)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    assert "1 of 3 examples" in caplog.text


@both
def test_a_step_whose_gradients_are_all_not_finite_is_noise_alone(how):
    case = make("linear head")
    case.examples[:] = math.nan
    recorder = Recorder(case.module)
    with private(case.module, recorder, noise=1.0, how=how) as dp:
        dp.accumulate(case.losses(dp.module, [0, 1]))
        dp.step()
        dp.step()
    noise = SecretStream.from_key(bytes(32)).normal(len(recorder.released[0]))
    snap(noise, grid_step(1.0))
    torch.testing.assert_close(recorder.released[0], torch.from_numpy(noise).float())


@both
@pytest.mark.parametrize("name", ["BERT LoRA", "BERT full", "ALBERT full", "Llama full, tied"])
def test_under_bfloat16_the_bound_holds_in_float32(name, how):
    case = make(name)
    recorder = Recorder(case.module)
    with private(case.module, recorder, clip=1e-3, how=how) as dp:
        for n in range(EXAMPLES):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                dp.accumulate(case.losses(dp.module, [n]))
            dp.step()
    for released in recorder.released:
        assert released.dtype == torch.float32
        assert released.double().norm().item() == pytest.approx(1e-3, rel=1e-5)


class Repeated(nn.Module):
    """One layer used three times, as ALBERT does, optionally recomputed in the backward pass."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            if self.reentrant is None:
                x = self.layer(x).tanh()
            else:
                x = checkpoint(lambda y: self.layer(y).tanh(), x, use_reentrant=self.reentrant)
        return x.sum(dim=1)


@both
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradients_of_a_shared_layer_are_right_under_checkpointing(reentrant, how):
    released = []
    for kind in (None, reentrant):
        torch.manual_seed(0)
        module = Repeated(kind)
        recorder = Recorder(module)
        with private(module, recorder, clip=0.5, how=how) as dp:
            dp.accumulate(dp.module(torch.randn(5, 4, requires_grad=True)))
            dp.step()
        released += recorder.released
    torch.testing.assert_close(released[0], released[1])


@both
def test_frozen_tensors_get_neither_gradients_nor_hooks(how):
    case = make("BERT LoRA")
    with private(case.module, Recorder(case.module), how=how) as dp:
        losses = case.losses(dp.module, [0, 1])
        frozen = [
            m
            for m in case.module.modules()
            if not any(p.requires_grad for p in m.parameters(recurse=False))
        ]
        assert frozen
        assert not any({"activations", "forward"} & set(m.__dict__) for m in frozen)
        dp.accumulate(losses)


def test_a_real_albert_with_shared_layers_gives_the_gradients_of_the_loop():
    package = importlib.util.find_spec("rxnmapper")
    if package is None or package.origin is None:
        pytest.skip("the package rxnmapper, which brings a small ALBERT, is not installed")
    folder = Path(package.origin).parent / "models/transformers/albert_heads_8_uspto_all_1310k"
    torch.manual_seed(0)
    encoder = AlbertModel.from_pretrained(folder, **UNDROPPED)
    case = make("ALBERT LoRA")
    case.module = Classifier(adapted(encoder), encoder.config.hidden_size).train()
    gradients = gradients_one_by_one(case)
    norms = gradients.norm(dim=1)
    clip = norms.median().item()
    expected = (gradients * (clip / norms).clamp(max=1)[:, None]).sum(dim=0)
    found = clipped_sum(case, clip, list(range(EXAMPLES)))
    assert (found - expected).norm() <= 1e-5 * EXAMPLES * clip
