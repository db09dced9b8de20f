"""Small real models, and their gradients with and without Umbel: what tests of private steps share."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    AlbertConfig,
    AlbertModel,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from umbel.privacy.dpsgd.bookkeeping import BookKeeping
from umbel.privacy.dpsgd.hooked import HookedGradients
from umbel.privacy.dpsgd.optimizer import PrivateOptimizer
from umbel.privacy.randomness import SecretStream

torch.set_num_threads(1)
EXAMPLES, TOKENS, WORDS, CLASSES = 6, 7, 40, 3
SMALL: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
}
UNDROPPED: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


class Recorder(torch.optim.SGD):
    """Plain descent that remembers each released gradient as one flat vector."""

    def __init__(self, module: nn.Module, lr: float = 0.0):
        super().__init__([p for p in module.parameters() if p.requires_grad], lr=lr)
        self.released: list[Tensor] = []

    def step(self, closure=None):
        grads = [p.grad.flatten() for group in self.param_groups for p in group["params"]]
        self.released.append(torch.cat(grads).clone())
        return super().step(closure)


class Classifier(nn.Module):
    def __init__(self, encoder: nn.Module, width: int = 16):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(width, CLASSES)

    def forward(self, input_ids: Tensor, **inputs: Tensor) -> Tensor:
        positions = torch.arange(input_ids.shape[1]).repeat(len(input_ids), 1)
        hidden = self.encoder(input_ids=input_ids, position_ids=positions, **inputs)
        return self.head(hidden.last_hidden_state.mean(dim=1))


@dataclass
class Case:
    """A model, its examples, and how one microbatch of them becomes (B,) losses."""

    module: nn.Module
    examples: Tensor
    labels: Tensor

    def losses(self, module: nn.Module, chosen: list[int]) -> Tensor:
        examples = self.examples[chosen]
        if isinstance(self.module, nn.Linear):
            return nn.functional.cross_entropy(
                module(examples), self.labels[chosen], reduction="none"
            )
        if isinstance(self.module, Classifier):
            return nn.functional.cross_entropy(
                module(input_ids=examples, attention_mask=torch.ones_like(examples)),
                self.labels[chosen],
                reduction="none",
            )
        logits = module(input_ids=examples, use_cache=False).logits[:, :-1]
        each = nn.functional.cross_entropy(
            logits.transpose(1, 2), examples[:, 1:], reduction="none"
        )
        return each.mean(dim=1)


def adapted(model: nn.Module) -> nn.Module:
    """LoRA on every linear layer, away from the start where half of all gradients are zero."""
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return model


def make(name: str) -> Case:
    torch.manual_seed(1)
    labels = torch.randint(CLASSES, (EXAMPLES,))
    if name == "linear head":
        return Case(nn.Linear(12, CLASSES), torch.randn(EXAMPLES, 12) * 3, labels)
    # Token 0 is BERT's padding, whose embedding does not train.
    tokens = torch.randint(0, WORDS, (EXAMPLES, TOKENS))
    tokens[:, -1] = 0
    module: nn.Module
    if name == "BERT LoRA":
        module = Classifier(adapted(BertModel(BertConfig(**SMALL, **UNDROPPED))))
    elif name == "BERT full":
        module = Classifier(BertModel(BertConfig(**SMALL, **UNDROPPED)))
    elif name == "ALBERT full":
        config = AlbertConfig(**SMALL, **UNDROPPED, embedding_size=8)
        module = Classifier(AlbertModel(config))
    elif name == "ALBERT LoRA":
        config = AlbertConfig(**SMALL, **UNDROPPED, embedding_size=8)
        module = Classifier(adapted(AlbertModel(config)))
    elif name == "Llama LoRA":
        module = adapted(LlamaForCausalLM(LlamaConfig(**SMALL)))
    elif name == "Llama full, tied":
        module = LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True))
    return Case(module.train(), tokens, labels)


NAMES = [
    "linear head",
    "BERT LoRA",
    "BERT full",
    "ALBERT LoRA",
    "ALBERT full",
    "Llama LoRA",
    "Llama full, tied",
]
everywhere = pytest.mark.parametrize("name", NAMES)
both = pytest.mark.parametrize("how", [BookKeeping, HookedGradients])


def private(module, optimizer, *, noise=0.0, clip=1.0, batch=1.0, key=bytes(32), how=None):
    return PrivateOptimizer(
        module,
        optimizer,
        noise_multiplier=noise,
        clipping_norm=clip,
        expected_batch_size=batch,
        stream=SecretStream.from_key(key),
        gradients=how,
    )


def gradients_one_by_one(case: Case) -> Tensor:
    """(EXAMPLES, numbers): every example's gradient by autograd alone, without any hook."""
    trained = [p for p in case.module.parameters() if p.requires_grad]
    rows = []
    for n in range(EXAMPLES):
        loss = case.losses(case.module, [n]).sum()
        found = torch.autograd.grad(loss, trained, allow_unused=True)
        rows.append(
            torch.cat(
                [
                    (torch.zeros_like(p) if g is None else g).flatten()
                    for p, g in zip(trained, found, strict=True)
                ]
            )
        )
    return torch.stack(rows)


def clipped_sum(case: Case, clip: float, *microbatches: list[int], how=None) -> Tensor:
    recorder = Recorder(case.module)
    with private(case.module, recorder, clip=clip, how=how) as dp:
        for chosen in microbatches:
            dp.accumulate(case.losses(dp.module, chosen))
        dp.step()
    return recorder.released[0]
