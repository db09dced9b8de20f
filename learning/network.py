"""The network that is tuned: a frozen or trainable base model, an adapter, and a task's head."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..job import Job
from ..wire.arrays import Arrays
from ..wire.residual_names import is_residual
from .device import use_bfloat16

Batch = dict[str, Tensor]

BESIDE = frozenset({"labels", "targets", "weights", "features"})
"""What a batch holds beside the arguments of the base model."""

# These architectures add position embeddings of shape (1, T), which hides the batch from
# per-example gradients; with explicit (B, T) positions every example has its own.
EXPLICIT_POSITIONS = {"albert", "bert", "electra", "gpt2"}

# At a third, two thirds and the end of the depth, if model.pooling is "layers".
POOLED_LAYERS = 3


class Network(nn.Module):
    """Base model, adapter and head. ``forward`` takes a batch and returns logits in float32.

    batch: what the task's ``Inputs`` make of records, such as input_ids and attention_mask, int64[B, T]; or
    features, float32[B, inputs of the head], when only the head is trained. logits: float32[B, classes],
    or float32[B, T, vocabulary] for a language model.
    """

    def __init__(self, backbone: nn.Module, mean_head: nn.Linear | None, job: Job) -> None:
        super().__init__()
        self.backbone = backbone
        self.mean_head = mean_head
        self.feature_scale = job.model.feature_scale
        self.pools_layers = job.model.pooling == "layers"
        device = next(backbone.parameters()).device
        self.autocast = use_bfloat16(job.training.precision, device)
        self._adapter = job.adapter
        # Some heads read a whole sequence, of which they take the first token.
        self._reads_sequence = False
        model_type = getattr(backbone.config, "model_type", "")
        self.personal: Arrays = {}
        """By name, what the personal tensors begin with: those that an owner trains and never sends."""
        self.explicit_positions = job.adapter == "full" and model_type in EXPLICIT_POSITIONS

    def train(self, mode: bool = True) -> Self:
        """Batch normalisation always uses its running means: those of a batch would couple examples."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    @cached_property
    def head_alone(self) -> bool:
        """Whether nothing but the head is trained."""
        if self._adapter != "head":
            return False
        head = {id(parameter) for parameter in self.head.parameters()}
        return all(id(parameter) in head for _, parameter in self.trained_parameters())

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @cached_property
    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        # Found once: walking a whole base model takes longer than a training step of a head.
        return [(name, p) for name, p in self.named_parameters() if p.requires_grad]

    @cached_property
    def _residuals(self) -> list[tuple[str, nn.Parameter]]:
        """What travels and nobody trains (``lora_residual``)."""
        return [(name, p) for name, p in self.named_parameters() if is_residual(name)]

    @property
    def head(self) -> nn.Module:
        """The module behind the features: ours, or the one that the architecture brings."""
        if self.mean_head is not None:
            return self.mean_head
        backbone: Any = self.backbone
        bare = backbone.get_base_model() if self._adapter != "full" else backbone
        head: nn.Module = getattr(bare, own_head(bare))
        return head

    def trained_part(self, on_features: bool) -> nn.Module:
        """The smallest module with all trained tensors; it takes the same batch."""
        return HeadOnly(self.head, self._reads_sequence) if on_features else self

    def forward(self, batch: Batch) -> Tensor:
        if "features" in batch:
            return _apply(self.head, batch["features"], self._reads_sequence)
        if self.mean_head is not None:
            return self.mean_head(self.features(batch))
        return self._backbone_output(batch).logits.float()

    def features(self, batch: Batch) -> Tensor:
        """What the head sees of each example, float32[B, inputs of the head].

        Before our head: the mean over real tokens of the last hidden states, scaled to one length;
        or three such means, each of the same length, side by side.
        Before the architecture's own head: its input, at the last token that is not padding for a
        `score` layer of a decoder and at the first token for a head that reads a sequence.
        """
        if self.mean_head is not None:
            states = [states.float() for states in self._pooled_states(batch)]
            means = [_mean(s, batch.get("attention_mask")) for s in states]
            # Each as long as the others: the last layer's means are shorter, and would count for less.
            directions = [nn.functional.normalize(mean, dim=-1) for mean in means]
            return torch.cat(directions, dim=-1) * (self.feature_scale / len(means) ** 0.5)
        inputs = self._inputs_of_head(batch)
        if inputs.dim() == 2:
            return inputs
        if not _is_linear(self.head) or "input_ids" not in batch:
            return inputs[:, 0]
        rows = torch.arange(len(inputs), device=inputs.device)
        return inputs[rows, self._last_places(batch)]

    def _last_places(self, batch: Batch) -> Tensor:
        """Where decoders' own heads read: at the last token that is not the padding token, int64[B].

        Not at the last that the mask leaves: the padding token may also be the one that ends a text.
        """
        config: Any = self.backbone.config
        ids = batch["input_ids"]
        real = (ids != config.get_text_config().pad_token_id).long()
        return (torch.arange(ids.shape[1], device=ids.device) * real).argmax(1)

    def _inputs_of_head(self, batch: Batch) -> Tensor:
        seen: list[Tensor] = []
        hook = self.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self._backbone_output(batch)
        finally:
            hook.remove()
        return seen[0].float()

    @torch.no_grad()
    def pooled_width(self, batch: Batch) -> int:
        """How many numbers a pooled head sees of a text: the widths of the states that it reads."""
        return sum(states.shape[-1] for states in self._pooled_states(batch))

    @torch.no_grad()
    def look_at_head(self, batch: Batch) -> None:
        """Find out what the architecture's own head reads."""
        sequence = self._inputs_of_head(batch).dim() == 3
        self._reads_sequence = sequence and not _is_linear(self.head)

    def _pooled_states(self, batch: Batch) -> list[Tensor]:
        """Hidden states of the layers that our head reads, each [B, T, hidden]."""
        if not self.pools_layers:
            return [_in_a_row(self._backbone_output(batch).last_hidden_state)]
        states = self._backbone_output(batch, output_hidden_states=True).hidden_states
        if not states:
            raise ModelError(
                'model.pooling = "layers": the base model does not return its layers; use "mean"'
            )
        depth = len(states) - 1  # the first are the embeddings
        return [
            _in_a_row(states[depth * part // POOLED_LAYERS]) for part in range(1, POOLED_LAYERS + 1)
        ]

    def _backbone_output(self, batch: Batch, **options: bool) -> Any:
        inputs = {name: values for name, values in batch.items() if name not in BESIDE}
        if self.explicit_positions:
            count, length = inputs["input_ids"].shape
            positions = torch.arange(length, device=inputs["input_ids"].device)
            inputs["position_ids"] = positions.repeat(count, 1)
        with self.precision():
            return self.backbone(**inputs, **options)

    def precision(self) -> torch.autocast:
        """In which the base model runs, as the job says."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)

    def trained_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Names and tensors that are trained, personal ones among them, in the model's own order."""
        return list(self._trained)

    def fix(self, names: Collection[str]) -> Arrays:
        """Have tensors of the adapter rest for good; a float32 copy of them."""
        fixed = [(name, p) for name, p in self.named_parameters() if name in names]
        for _, parameter in fixed:
            parameter.requires_grad_(False)
        self.__dict__.pop("_trained", None)
        return copies(fixed)

    def arrays(self) -> Arrays:
        """A float32 copy of every trained tensor, then of what only the server moves."""
        return copies([*self.trained_parameters(), *self._residuals])

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Set all that travels; names and shapes have been checked on arrival.

        Personal ones that are not among `arrays` get what they begin with: never what another owner, or
        an earlier round, has left in them.
        """
        set_all([*self.trained_parameters(), *self._residuals], {**self.personal, **arrays})


def _in_a_row(states: Tensor) -> Tensor:
    """Hidden states [B, T, hidden]; those of a convolutional model are [B, hidden, height, width]."""
    return states.flatten(2).transpose(1, 2) if states.dim() == 4 else states


def _mean(states: Tensor, mask: Tensor | None) -> Tensor:
    """Of states [B, T, hidden] over the places that the mask leaves; over all of them without one."""
    if mask is None:
        return states.mean(1)
    weights = mask.unsqueeze(-1).float()
    return (states * weights).sum(1) / weights.sum(1)


Named = Iterable[tuple[str, nn.Parameter]]


def copies(parameters: Named) -> Arrays:
    """Of tensors, in float32."""
    return {name: p.detach().float().cpu().numpy().copy() for name, p in parameters}


@torch.no_grad()
def set_all(parameters: Named, arrays: Mapping[str, np.ndarray]) -> None:
    """Set tensors to the arrays of their names."""
    for name, parameter in parameters:
        # Torch warns of arrays that cannot be written to: those are copied.
        parameter.copy_(torch.from_numpy(np.require(arrays[name], np.float32, "W")))


def compared(batch: Batch) -> Batch:
    """What losses compare outputs with."""
    return {name: batch[name] for name in ("labels", "targets") if name in batch}


def own_head(model: nn.Module) -> str:
    """The name of the head that an architecture brings: its last part that has weights."""
    parts = [name for name, part in model.named_children() if any(True for _ in part.parameters())]
    if len(parts) < 2:
        raise ModelError(
            f"{type(model).__name__} has no head of its own: use another model.pooling."
        )
    return parts[-1]


class HeadOnly(nn.Module):
    """A head that reads features from the batch."""

    def __init__(self, head: nn.Module, reads_sequence: bool) -> None:
        super().__init__()
        self.head, self._reads_sequence = head, reads_sequence

    def forward(self, batch: Batch) -> Tensor:
        return _apply(self.head, batch["features"], self._reads_sequence)


def _apply(head: nn.Module, features: Tensor, reads_sequence: bool) -> Tensor:
    """Logits from features; a head that reads a sequence gets a sequence of one."""
    logits: Tensor = head(features.unsqueeze(1) if reads_sequence else features)
    return logits


def _is_linear(head: nn.Module) -> bool:
    return isinstance(getattr(head, "original_module", head), nn.Linear)
