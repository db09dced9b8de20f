import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm

from umbel.errors import ModelError
from umbel.privacy.dpsgd.bookkeeping import BookKeeping, has_rules
from umbel.privacy.dpsgd.factored import Factored, Lookup, Product
from umbel.privacy.dpsgd.hooked import HookedGradients

torch.set_num_threads(1)
EXAMPLES, TOKENS, WORDS = 5, 6, 30
SMALL = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
}


def language_model(name: str) -> nn.Module:
    torch.manual_seed(3)
    if name == "Llama":
        config = LlamaConfig(**SMALL, num_key_value_heads=2, tie_word_embeddings=False)
        return LlamaForCausalLM(config).train()
    if name == "Llama, tied":
        return LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True)).train()
    if name == "Qwen 3, tied":  # its queries and keys are normalised head by head
        config = Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=4, tie_word_embeddings=True)
        return Qwen3ForCausalLM(config).train()
    dropped = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = GPT2Config(vocab_size=WORDS, n_embd=16, n_layer=2, n_head=2, n_positions=16, **dropped)
    return GPT2LMHeadModel(config).train()


NAMES = ["Llama", "Llama, tied", "Qwen 3, tied", "GPT-2, tied"]
everywhere = pytest.mark.parametrize("name", NAMES)


def losses(module: nn.Module, tokens: Tensor) -> Tensor:
    positions = torch.arange(tokens.shape[1]).repeat(len(tokens), 1)
    logits = module(input_ids=tokens, position_ids=positions, use_cache=False).logits[:, :-1]
    each = cross_entropy(logits.transpose(1, 2).float(), tokens[:, 1:], reduction="none")
    return each.mean(dim=1)


def tokens_of(length: int = TOKENS) -> Tensor:
    torch.manual_seed(4)
    tokens = torch.randint(1, WORDS, (EXAMPLES, length))
    tokens[:, -1] = tokens[:, 0]  # words that come twice, so that cross terms count
    return tokens


@pytest.fixture
def clipped_sum(released):
    def of(module, clip, tokens, how=None):
        return released(module, lambda model: losses(model, tokens), clip, how)

    return of


def one_by_one(module, tokens):
    parameters = [p for p in module.parameters() if p.requires_grad]
    rows = [
        torch.autograd.grad(losses(module, tokens[n : n + 1]).sum(), parameters)
        for n in range(len(tokens))
    ]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


# Short ones keep factors; over long ones, gradients are smaller than these.
@pytest.mark.parametrize("length", [3, TOKENS, 16])
@everywhere
def test_the_clipped_sum_is_that_of_a_loop_and_of_the_hooks(clipped_sum, name, length):
    module, tokens = language_model(name), tokens_of(length)
    assert has_rules(module)
    gradients = one_by_one(module, tokens)
    norms = gradients.norm(dim=1)
    clip = norms.median().item()
    expected = (gradients * (clip / norms).clamp(max=1)[:, None]).sum(dim=0)
    found = clipped_sum(module, clip, tokens)
    assert (found - expected).norm() <= 2e-6 * expected.norm()
    hooked = clipped_sum(module, clip, tokens, HookedGradients)
    assert (found - hooked).norm() <= 2e-6 * expected.norm()


@pytest.mark.parametrize("reentrant", [True, False])
@everywhere
def test_checkpointing_of_either_kind_changes_nothing(clipped_sum, name, reentrant):
    module, tokens = language_model(name), tokens_of()
    expected = clipped_sum(module, 0.1, tokens)
    module.gradient_checkpointing_enable({"use_reentrant": reentrant})
    found = clipped_sum(module, 0.1, tokens)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


@everywhere
def test_autograd_computes_no_gradient_of_a_weight(name):
    """That is what the time is saved on, and how a use outside of a layer is noticed."""
    module = language_model(name)
    gradients = BookKeeping(module, dict(module.named_parameters()))
    losses(gradients.module, tokens_of()).sum().backward()
    assert all(p.grad is None for p in module.parameters())
    assert gradients.norms(EXAMPLES).isfinite().all()
    gradients.close()


@everywhere
def test_only_what_is_not_frozen_is_clipped_and_summed(clipped_sum, name):
    module, tokens = language_model(name), tokens_of()
    for place, parameter in module.named_parameters():
        parameter.requires_grad_("1." in place and not place.endswith("bias"))
    gradients = one_by_one(module, tokens)
    expected = (gradients * (0.01 / gradients.norm(dim=1))[:, None]).sum(dim=0)
    found = clipped_sum(module, 0.01, tokens)
    assert (found - expected).norm() <= 2e-6 * expected.norm()


class Normalised(nn.Module):
    """A layer that is used twice around a normalisation, on inputs that need no gradient."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.layer = nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.norm(self.layer(x)).tanh()).square().flatten(1).sum(dim=1)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
@pytest.mark.parametrize(
    "norm",
    [
        nn.LayerNorm(4),
        nn.LayerNorm(4, bias=False),
        nn.RMSNorm(4),
        GemmaRMSNorm(4),  # multiplies with 1 + weight
    ],
    ids=repr,
)
def test_normalisations_of_every_kind_in_any_number_of_dimensions(norm, shape):
    torch.manual_seed(0)
    module, x = Normalised(norm), torch.randn(EXAMPLES, *shape)
    kept = dict(module.named_parameters())
    gradients = BookKeeping(module, kept)
    module(x).sum().backward()
    found = gradients.norms(EXAMPLES)
    gradients.close()
    for n in range(EXAMPLES):
        expected = torch.autograd.grad(module(x[n : n + 1]).sum(), list(kept.values()))
        norms = torch.cat([g.flatten() for g in expected]).norm()
        torch.testing.assert_close(found[n], norms, rtol=2e-6, atol=0)


def test_factors_and_samples_give_the_same_norms_and_sums():
    torch.manual_seed(0)
    rows, columns, batch = 50, 40, 3
    shape = torch.Size((rows, columns))
    uses = [
        Product(torch.randn(batch, 2, rows), torch.randn(batch, 2, columns)),
        Lookup(torch.randint(rows, (batch, 7)), torch.randn(batch, 7, columns)),
        Product(torch.randn(batch, 3, rows), torch.randn(batch, 3, columns)),
        Lookup(torch.randint(4, (batch, 9)), torch.randn(batch, 9, columns)),
    ]
    kept, summed = Factored(shape), torch.zeros(batch, *shape)
    for use in uses:
        kept.add(use)
        summed += use.samples(shape)
    assert kept._samples is None
    norms = summed.double().flatten(1).norm(dim=1)
    found = kept.squared_norms().double().sqrt()
    assert ((found - norms) / norms).abs().max() < 2e-6
    weights = torch.tensor([0.3, 0.0, 1.7])
    total = torch.ones(shape.numel())
    kept.add_to(total, weights, torch.tensor([True, False, True]))
    expected = 1 + torch.einsum("b,brc->rc", weights, summed).flatten()
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-5)


def test_where_places_cancel_the_norm_is_never_too_small():
    """The contributions of 64 places add up to a thousandth of each: rounding shows."""
    torch.manual_seed(0)
    left = torch.randn(1, 1, 300).repeat(200, 64, 1)
    right = torch.randn(200, 64, 300)
    right -= right.mean(dim=1, keepdim=True)
    right += 1e-4 * torch.randn(200, 1, 300)
    kept = Factored(torch.Size((300, 300)))
    kept.add(Product(left, right))
    truth = torch.bmm(left.double().mT, right.double()).flatten(1).norm(dim=1)
    assert (kept.squared_norms().double().sqrt() >= truth * (1 - 1e-5)).all()


def test_in_bfloat16_the_sum_is_that_of_the_same_factors_in_float64(clipped_sum):
    module, tokens = language_model("Llama, tied"), tokens_of(3)
    with torch.autocast("cpu", torch.bfloat16):
        whole = clipped_sum(module, 1e-3, tokens)
        each = torch.stack([clipped_sum(module, 1e-3, tokens[n : n + 1]) for n in range(EXAMPLES)])
    torch.testing.assert_close(
        each.double().norm(dim=1), torch.full((5,), 1e-3).double(), rtol=1e-5, atol=0
    )
    assert (whole - each.sum(dim=0)).norm() <= 1e-2 * whole.norm()


class WithConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(1, 2, 3)
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.convolution(x).flatten(1)).squeeze(1)


class Doubled(nn.Linear):
    """A subclass, whose forward pass is its own."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def changed() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.forward = lambda x: 2 * nn.functional.linear(x, layer.weight, layer.bias)
    return layer


@pytest.mark.parametrize(
    "module",
    [
        WithConvolution(),
        Doubled(4, 4),
        changed(),
        nn.Embedding(4, 4, max_norm=1.0),
        nn.Embedding(4, 4, scale_grad_by_freq=True),
        nn.MultiheadAttention(4, 1),
    ],
    ids=lambda module: type(module).__name__,
)
def test_a_layer_without_a_rule_leaves_the_model_to_the_hooks(module):
    assert not has_rules(module)


def test_a_convolution_is_clipped_by_the_hooks(released):
    torch.manual_seed(0)
    module, x = WithConvolution(), torch.randn(4, 1, 6)

    def losses(model):
        assert isinstance(model, HookedGradients)
        return model(x)

    summed = released(module, losses, 0.1)
    expected = torch.zeros_like(summed)
    for n in range(len(x)):
        found = torch.autograd.grad(module(x[n : n + 1]).sum(), list(module.parameters()))
        gradient = torch.cat([g.flatten() for g in found])
        expected += gradient * min(1.0, 0.1 / gradient.norm().item())
    torch.testing.assert_close(summed, expected, rtol=1e-5, atol=1e-7)


class Offset(nn.Module):
    """Uses its layer once for every example, and once for all of them together."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return (self.layer(x) + self.layer(torch.ones(1, 4))).sum(dim=1)


def test_a_layer_that_is_used_for_all_examples_together_is_refused_by_name():
    module = Offset()
    gradients = BookKeeping(module, dict(module.named_parameters()))
    module(torch.randn(EXAMPLES, 4)).sum().backward()
    with pytest.raises(ModelError, match=r"layer\.(weight|bias) saw 1 examples"):
        gradients.norms(EXAMPLES)
    gradients.close()


def test_position_ids_that_all_examples_share_are_refused_by_name():
    module = BertModel(BertConfig(**SMALL, hidden_dropout_prob=0.0)).train()
    gradients = BookKeeping(module, dict(module.named_parameters()))
    module(input_ids=tokens_of()).last_hidden_state.sum().backward()
    with pytest.raises(ModelError, match=r"position_embeddings.*one row per example"):
        gradients.norms(EXAMPLES)
    gradients.close()
